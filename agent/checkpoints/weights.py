"""The weights of a checkpoint, read into a network."""

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from agent.checkpoints.header import Header
from agent.networks.language_model import LanguageModel
from agent.networks.registry import build
from search.errors import CheckpointError


def read_tensors(checkpoint: Header) -> dict[str, Tensor]:
    """All tensors of a checkpoint. Raises CheckpointError for a corrupt or non-finite one."""
    tensors: dict[str, Tensor] = {}
    for shard in (checkpoint.path / name for name in checkpoint.shards):
        try:
            with safe_open(str(shard), framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    tensors[name] = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{shard} is corrupt: {error}", "copy or download the checkpoint again"
            ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{name} in {checkpoint.path} holds NaN or infinite weights",
                "use an earlier checkpoint",
            )
    return tensors


def load_model(
    checkpoint: Header, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> LanguageModel:
    """The network with its weights, in evaluation mode."""
    model = build(checkpoint.architecture, checkpoint.is_critic)
    tensors = read_tensors(checkpoint)
    if checkpoint.architecture.is_tied:
        tensors.pop("lm_head.weight", None)
    expected = dict(model.named_parameters())
    missing = sorted(expected.keys() - tensors.keys())
    unknown = sorted(k for k in tensors.keys() - expected.keys() if "rotary_emb" not in k)
    if missing or unknown:
        raise CheckpointError(
            f"the weights in {checkpoint.path} do not fit its config.json "
            f"(missing {missing[:3]}, unknown {unknown[:3]})",
            "use config.json and weights of the same model",
        )
    with torch.no_grad():
        for name, parameter in expected.items():
            if parameter.shape != tensors[name].shape:
                raise CheckpointError(
                    f"{name} in {checkpoint.path} has shape {tuple(tensors[name].shape)}, "
                    f"config.json asks for {tuple(parameter.shape)}",
                    "use config.json and weights of the same model",
                )
            parameter.copy_(tensors[name])
    return model.to(device=device, dtype=dtype).eval()
