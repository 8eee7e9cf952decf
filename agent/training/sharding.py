"""Training of weights that no single process holds: FSDP2 (Zhao et al., arXiv 2304.11277).

Weights, gradients and the optimiser's state are cut along their first dimension, a part a rank. A
block's weights are whole for as long as the block is at work, those of the embeddings and the head
from the first token to the last gradient. Sums over ranks are those of `ranks.py` up to their
order, so that several sharded processes learn what one learns.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from agent.checkpoints.checkpoint import Checkpoint
from agent.checkpoints.weights import merged_weights_of
from agent.networks.device import LARGE
from agent.networks.language_model import LanguageModel
from agent.networks.registry import build
from agent.training.optimizer import TrainingSettings
from agent.training.ranks import rank, world_size


def is_wanted(parent: Checkpoint, settings: TrainingSettings) -> bool:
    """Whether a job's ranks share one copy of the weights: by `sharding`, `auto` where they are too
    many for a copy a rank to be nothing. Muon multiplies whole matrices, so its ranks have copies;
    so have those that train adapters, where weights that stay take two bytes and nothing beside.
    """
    if world_size() == 1 or settings.sharding == "never" or settings.optimizer == "muon":
        return False
    if settings.lora_rank:
        return False
    return settings.sharding == "always" or parent.num_parameters >= LARGE


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


def load_sharded(checkpoint: Checkpoint, device: str) -> LanguageModel:
    """The network in evaluation mode, this rank's part of its weights in float32.

    Each rank maps the files and copies its part alone: at no time are more weights in memory than
    that and one tensor. Adapters are merged into their base. Raises CheckpointError.
    """
    with torch.device("meta"):
        model = build(checkpoint.architecture, checkpoint.is_critic)
    buffers = dict(model.named_buffers())
    mesh = init_device_mesh(torch.device(device).type, (world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device=device)
    for name, buffer in buffers.items():  # made with the network, and in no file
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, buffer.to(device))
    with merged_weights_of(checkpoint) as weight_of, torch.no_grad():
        for name, parameter in _shards(model):
            whole = weight_of(name).to(device=device, dtype=parameter.dtype)
            own = distribute_tensor(whole, mesh, parameter.placements, src_data_rank=None)
            parameter.to_local().copy_(own.to_local())
    return model.eval()


def put_back(model: nn.Module) -> None:
    """Let go of weights that a forward pass has made whole."""
    if isinstance(model, FSDPModule):
        model.reshard()


def whole(model: LanguageModel) -> LanguageModel:
    """The same network with whole weights, on the CPU; of every rank but the first one without
    values. All ranks have to ask."""
    if not is_sharded(model):
        return model
    put_back(model)
    with torch.device("meta"):
        found = build(model.arch, model.is_critic)
    for name, parameter in _shards(model):
        tensor: Tensor = parameter.full_tensor()
        if rank() == 0:
            owner, _, leaf = name.rpartition(".")
            own = nn.Parameter(tensor.detach().to("cpu"))
            found.get_submodule(owner).register_parameter(leaf, own)
    found.tie()
    return found


def _shards(model: nn.Module) -> Iterator[tuple[str, DTensor]]:
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor), f"{name} is not sharded"
        yield name, parameter
