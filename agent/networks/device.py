"""Which device a network computes on."""

import torch

from search.errors import ResourceError


def chosen_device(name: str) -> str:
    """`auto` takes cuda where there is one. Raises ResourceError for one that is not there."""
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ResourceError(
            f"device {name!r} is asked for, but this machine has no CUDA device",
            "leave hosting.device at auto, or set it to cpu",
        )
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
