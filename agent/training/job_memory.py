"""Bytes that the training of a large model takes: what plans say, and what jobs ask Ray for."""

from agent.checkpoints.header import Header
from agent.networks.device import LARGE
from agent.networks.language_model import KEPT_BYTES
from agent.training.optimizer import ACTIVATION_BYTES, BYTES_TRAINED, MICRO_TOKENS

PROCESS_BYTES = 2**28
"""Of a process that has loaded torch."""
HELD_BYTES = 6
"""Of a parameter beside its training: the best weights so far, and a copy for products."""


def tuned_share(model: Header, tuned_layers: int) -> float:
    """Of a critic's blocks that training changes; 0 layers are all."""
    num_layers = model.architecture.num_layers
    return min(1.0, (tuned_layers or num_layers) / num_layers)


def training_bytes(model: Header, tuned_layers: int = 0) -> int:
    """Of a job's process at the peak; 0 for a model that is too small to matter.

    With `tuned_layers` the blocks below are held once, in two bytes a number, and what they make of
    the rows is kept.
    """
    size, arch = model.num_parameters, model.architecture
    if size < LARGE:
        return 0
    share = tuned_share(model, tuned_layers)
    activations = share * MICRO_TOKENS * arch.num_layers * arch.hidden_size * ACTIVATION_BYTES
    trained = share * size * (BYTES_TRAINED + HELD_BYTES)
    frozen = (1.0 - share) * size * 4 + (KEPT_BYTES if share < 1.0 else 0)
    return round(PROCESS_BYTES + trained + frozen + activations)
