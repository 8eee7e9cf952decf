"""What an operation may be given. Every refusal names the argument and what is wanted."""

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32)


def shaped(name: str, given: Tensor, wanted: str, *sizes: int | None) -> Tensor:
    """`given`, if it has these sizes; None stands for any. Raises TypeError or ValueError."""
    if not isinstance(given, Tensor):
        raise TypeError(f"{name} is a {type(given).__name__}; wanted a tensor {wanted}")
    fits = given.dim() == len(sizes) and all(
        size is None or size == found for size, found in zip(sizes, given.shape, strict=True)
    )
    if not fits:
        shown = ", ".join("any" if size is None else str(size) for size in sizes)
        raise ValueError(f"{name} has shape {list(given.shape)}; wanted {wanted} = [{shown}]")
    return given


def floating(name: str, given: Tensor, like: Tensor | None = None) -> None:
    """Of a type that scores may have, and of the same type and device as `like`."""
    if given.dtype not in FLOATS:
        raise TypeError(f"{name} is {given.dtype}; wanted float32, float16 or bfloat16")
    if like is not None and given.dtype != like.dtype:
        raise TypeError(f"{name} is {given.dtype}; wanted {like.dtype} as its partner has")
    if like is not None:
        together(name, given, like)


def integral(name: str, given: Tensor, like: Tensor) -> None:
    """Whole numbers on the same device as `like`."""
    if given.dtype not in INTEGERS:
        raise TypeError(f"{name} is {given.dtype}; wanted int64 or int32")
    together(name, given, like)


def together(name: str, given: Tensor, like: Tensor) -> None:
    if given.device != like.device:
        raise ValueError(f"{name} is on {given.device}; wanted {like.device} as its partner is")


def within(name: str, given: Tensor, size: int, besides: int | None = None) -> None:
    """Every index in [0, size), or `besides`.

    On a GPU this waits for the device: one reduction and one number read back.
    """
    if given.numel() == 0:
        return
    is_out = (given < 0) | (given >= size)
    if besides is not None:
        is_out &= given != besides
    if bool(is_out.any()):
        worst = int(given[is_out][0])
        more = "" if besides is None else f" or {besides}"
        raise ValueError(f"{name} holds {worst}; wanted numbers from 0 to {size - 1}{more}")


def temperatures(given: Tensor, num: int, like: Tensor) -> Tensor:
    """One temperature a row, float32 [num]; 0 or above each."""
    shaped("temperature", given, "one a row", num)
    together("temperature", given, like)
    if num and bool((~(given >= 0)).any()):
        raise ValueError("temperature is below 0 somewhere; wanted 0 or a positive number")
    return given.float()
