"""Engines over checkpoints on disk."""

from pathlib import Path

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.weights import load_model
from agent.engine.tokenizer import Tokenizer
from agent.engine.torch_engine import TorchEngine


def engine(path: Path, batch_rows: int = 512, kv_bytes: int = 2**24) -> TorchEngine:
    checkpoint = verify_checkpoint(path)
    tokenizer = Tokenizer(path)
    return TorchEngine(
        load_model(checkpoint),
        tokenizer.steps,
        tokenizer.end_ids,
        batch_rows,
        checkpoint.version,
        kv_bytes,
    )
