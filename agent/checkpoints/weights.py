"""The weights of a checkpoint, read into a network from the very files that were hashed."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from agent.checkpoints.adapter_files import PREFIX
from agent.checkpoints.checkpoint import Checkpoint
from agent.checkpoints.files import opened
from agent.checkpoints.header import check_shapes, listed_in
from agent.checkpoints.manifest import Identity, digest_of, identity_of, sha_of
from agent.networks.adapter_shape import A, AdapterShape, B, is_of_adapter
from agent.networks.language_model import LanguageModel
from agent.networks.registry import build
from agent.networks.shapes import own_name
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


@contextlib.contextmanager
def weights_of(checkpoint: Checkpoint) -> Iterator[dict[str, Tensor]]:
    """All weights of a checkpoint by the names that its network has for them, those of a base
    among them; mapped for as long as the block. Raises CheckpointError as `tensors_of`."""
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(tensors_of(checkpoint))
        if checkpoint.adapter is None:
            yield own
        else:
            base = stack.enter_context(tensors_of(checkpoint.whole))
            yield base | {name.removeprefix(PREFIX): tensor for name, tensor in own.items()}


@contextlib.contextmanager
def merged_weights_of(checkpoint: Checkpoint) -> Iterator[Callable[[str], Tensor]]:
    """By name the whole weights that a checkpoint stands for, adapters merged into their base's,
    for as long as the block. Raises CheckpointError as `tensors_of`."""
    with weights_of(checkpoint) as tensors:

        def merged(name: str) -> Tensor:
            stem = name.removesuffix(".weight")
            if checkpoint.adapter is None or stem + A not in tensors:
                return tensors[name]
            delta = tensors[stem + B].float() @ tensors[stem + A].float()
            return tensors[name].float() + checkpoint.adapter.scale * delta

        yield merged


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
                own = own_name(checkpoint.architecture, key)
                if own is not None:
                    found[own] = file.get_tensor(key)
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
    checkpoint: Checkpoint,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> LanguageModel:
    """The network with its weights, in evaluation mode; adapters stand beside their base."""
    model = _empty(checkpoint, checkpoint.adapter)
    _fill(model, checkpoint, dtype, dtype, device)
    return model.to(device=device).eval()


def load_adapted(
    checkpoint: Checkpoint,
    shape: AdapterShape,
    seed: int,
    frozen_dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> LanguageModel:
    """The network with adapters in float32, the checkpoint's own or, on whole weights, new ones.

    Matrices that stay are read from the files into `frozen_dtype`: at no time are they there in
    another one. Raises CheckpointError for adapters of another rank.
    """
    if checkpoint.adapter is not None and checkpoint.adapter.rank != shape.rank:
        raise CheckpointError(
            f"the adapters in {checkpoint.path} have rank {checkpoint.adapter.rank}, and rank "
            f"{shape.rank} is asked for",
            f"set training.lora_rank to {checkpoint.adapter.rank}, or to 0 to train all weights",
        )
    model = _empty(checkpoint, checkpoint.adapter or shape)
    _fill(model, checkpoint, torch.float32, frozen_dtype, device)
    if checkpoint.adapter is None:
        model.begin(seed)
    return model.to(device=device).eval()


def _empty(checkpoint: Checkpoint, shape: AdapterShape | None) -> LanguageModel:
    with torch.device("meta"):  # no random weights are made first
        model = build(checkpoint.architecture, checkpoint.is_critic)
        if shape is not None:
            model.adapt(shape)
    return model


def _fill(
    model: LanguageModel,
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    frozen_dtype: torch.dtype,
    device: str,
) -> None:
    """Give an empty network the checkpoint's weights; new adapters are left without numbers."""
    with weights_of(checkpoint) as tensors:
        loaded: dict[int, nn.Parameter] = {}
        for name, empty in list(model.named_parameters(remove_duplicate=False)):
            if id(empty) not in loaded:  # a tied head is its embedding under another name
                is_held = not empty.requires_grad and empty.ndim == 2
                wanted = frozen_dtype if is_held else dtype
                if checkpoint.adapter is None and is_of_adapter(name):
                    weight = torch.empty(empty.shape, dtype=wanted, device=device)
                else:
                    weight = tensors[name].to(device=device, dtype=wanted, copy=True)
                loaded[id(empty)] = nn.Parameter(weight.contiguous(), empty.requires_grad)
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner).register_parameter(leaf, loaded[id(empty)])
