"""Bytes that the training of a large model takes: what plans say, and what jobs ask Ray for."""

import torch

from agent.checkpoints.header import Header
from agent.checkpoints.publish import dtype_on_disk
from agent.networks.device import LARGE
from agent.networks.language_model import KEPT_BYTES
from agent.networks.shapes import adapter_size
from agent.training.fit import training_dtype
from agent.training.optimizer import (
    ACTIVATION_BYTES,
    BYTES_TRAINED,
    GPU_ACTIVATION_BYTES,
    MICRO_TOKENS,
    TrainingSettings,
)

PROCESS_BYTES = 460 * 2**20
"""Of a process that has loaded torch and a tokenizer."""
HELD_BYTES = 8
"""Of a parameter beside its training: the best weights so far, a copy for products, and the file's
own, which is mapped when the weights are read and made when they are written."""
LOGIT_BYTES = 300 * 2**20
"""Of the logits that are there together, and what is made of them (`kernels/chunked.py`)."""
GPU_HELD_BYTES = 6
"""Of a number that trains on a GPU: the best weights so far, and a copy for products."""
GPU_LOGIT_BYTES = 2**28 * 9
"""Of the logits that are there together (`kernels/summed_logprob.py`): in float32, in bfloat16
twice, and what reduces them."""
ADAPTER_LAYOUT = 3
"""Times that adapters take more room laid out for products than on disk: maps that one product is
made of have zeros where the others are."""


def tuned_share(model: Header, tuned_layers: int) -> float:
    """Of a critic's blocks that training changes; 0 layers are all."""
    num_layers = model.architecture.num_layers
    return min(1.0, (tuned_layers or num_layers) / num_layers)


def training_bytes(model: Header, tuned_layers: int = 0, lora_rank: int = 0) -> int:
    """Of a job's process at the peak; 0 for a model that is too small to matter.

    With `tuned_layers` the blocks below are held once, in two bytes a number, and what they make of
    the rows is kept. With `lora_rank` adapters alone train, on all weights as they are.
    """
    size, arch = model.num_parameters, model.architecture
    if size < LARGE:
        return 0
    share = tuned_share(model, tuned_layers)
    kept = KEPT_BYTES if share < 1.0 else 0
    trained: float
    frozen: float
    if lora_rank:
        trained = adapter_size(arch, lora_rank) * (BYTES_TRAINED + HELD_BYTES)
        frozen = size * held_itemsize(model)
    else:
        trained = share * size * (BYTES_TRAINED + HELD_BYTES)
        frozen = (1.0 - share) * size * 4
    each = arch.hidden_size * ACTIVATION_BYTES * arch.activation_scale
    activations = MICRO_TOKENS * share * arch.num_layers * each
    if activations > trained + frozen:  # then blocks are computed again (`fit.needs_checkpoints`)
        activations = MICRO_TOKENS * arch.hidden_size * (4 * arch.num_layers + ACTIVATION_BYTES)
    working = LOGIT_BYTES + activations
    if lora_rank:  # or while the base is read from its file, which is mapped meanwhile
        working = max(working, frozen)
    return round(PROCESS_BYTES + trained + frozen + kept + working)


def gpu_training_bytes(
    model: Header, tuned_layers: int = 0, lora_rank: int = 0, beside: float = 0.0
) -> int:
    """The same of a GPU's memory, with `beside` bytes a number of the model for further copies of
    it: a reference, a critic that gives rewards."""
    size, arch = model.num_parameters, model.architecture
    if size < LARGE:
        return 0
    share = tuned_share(model, tuned_layers)
    trained = adapter_size(arch, lora_rank) if lora_rank else share * size
    held = (
        trained * (BYTES_TRAINED + GPU_HELD_BYTES) + (size if lora_rank else (1 - share) * size) * 2
    )
    token = share * arch.num_layers * arch.hidden_size * GPU_ACTIVATION_BYTES
    return round(held + beside * size + MICRO_TOKENS * token + GPU_LOGIT_BYTES)


def held_itemsize(model: Header) -> int:
    """Bytes of a number that adapters are put on, on a CPU."""
    dtype = training_dtype(TrainingSettings(), "cpu", model.num_parameters)
    return 2 if dtype == dtype_on_disk(model) == torch.bfloat16 else 4


def serving_bytes(model: Header, itemsize: int, num_models: float, lora_rank: int = 0) -> int:
    """Of a process that serves models on a CPU, at its peak: each with weights of its own, held in
    `itemsize` bytes a number, or, with `lora_rank`, all as adapters on the first one's.

    The last one to be loaded is there three times for a moment: mapped from its file, read, and
    laid out.
    """
    size = model.num_parameters
    own = adapter_size(model.architecture, lora_rank) if lora_rank else 0
    held = size + num_models * ADAPTER_LAYOUT * own if lora_rank else num_models * size
    return round(PROCESS_BYTES + itemsize * (held + (2 if lora_rank else 1) * size))
