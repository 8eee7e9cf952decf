"""The weights of a checkpoint, read into a network from the very files that were hashed."""

import contextlib
from collections.abc import Iterator

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from agent.checkpoints.checkpoint import Checkpoint
from agent.checkpoints.files import opened
from agent.checkpoints.header import check_shapes, listed_in
from agent.checkpoints.manifest import Identity, digest_of, identity_of, sha_of
from agent.networks.language_model import LanguageModel
from agent.networks.registry import build
from search.errors import CheckpointError


@contextlib.contextmanager
def tensors_of(checkpoint: Checkpoint) -> Iterator[dict[str, Tensor]]:
    """All tensors of a checkpoint, mapped from its files for as long as the block.

    Each file is opened once: what is hashed is what is loaded. Raises CheckpointError for a corrupt
    file, for weights that are not finite, and for a file that is not, or does not stay, the one
    that the checkpoint's version stands for.
    """
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context(opened(checkpoint.path, name)) for name in checkpoint.shards
        }
        before = {name: identity_of(handle) for name, handle in files.items()}
        for name, handle in files.items():
            if sha_of(handle) != checkpoint.shas[name]:
                raise _changed(checkpoint, name)
        check_shapes(
            checkpoint, [listed_in(handle, checkpoint.path / n) for n, handle in files.items()]
        )
        tensors: dict[str, Tensor] = {}
        for name, handle in files.items():
            tensors |= _mapped(checkpoint, name, handle)
        yield tensors
        for name, handle in files.items():
            if not _is_as_before(handle, before[name], checkpoint.shas[name]):
                raise _changed(checkpoint, name)


def _is_as_before(handle: int, before: Identity, sha: str) -> bool:
    """Whether an opened file was not written to. A link to it, made meanwhile, changes the time of
    its last change and nothing else: it is hashed again."""
    now = identity_of(handle)
    return now == before or (now[:-1] == before[:-1] and digest_of(handle) == sha)


def _mapped(checkpoint: Checkpoint, name: str, handle: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    try:
        with safe_open(f"/dev/fd/{handle}", framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                found[key] = file.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{checkpoint.path / name} is corrupt: {error}", "copy or download it again"
        ) from error
    for key, tensor in found.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{key} in {checkpoint.path} holds NaN or infinite weights",
                "use an earlier checkpoint",
            )
    return found


def _changed(checkpoint: Checkpoint, name: str) -> CheckpointError:
    return CheckpointError(
        f"{name} in {checkpoint.path} is not the file that version {checkpoint.version} was made "
        "of: it was changed",
        "restore it, or give the directory again as it is now",
    )


def load_model(
    checkpoint: Checkpoint, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> LanguageModel:
    """The network with its weights, in evaluation mode."""
    with torch.device("meta"):  # no random weights are made first
        model = build(checkpoint.architecture, checkpoint.is_critic)
    with tensors_of(checkpoint) as tensors:
        loaded: dict[int, nn.Parameter] = {}
        for name, empty in list(model.named_parameters(remove_duplicate=False)):
            if id(empty) not in loaded:  # a tied head is its embedding under another name
                weight = tensors[name].to(device=device, dtype=dtype, copy=True)
                loaded[id(empty)] = nn.Parameter(weight.contiguous())
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner).register_parameter(leaf, loaded[id(empty)])
    return model.to(device=device).eval()
