"""The parts of `scripts.bench.gpu`."""
