"""Products of sixteen-bit matrices whose results are float32: what their sums are kept in.

On a GPU the library writes float32 by itself; elsewhere the factors are widened first.
"""

import torch
from torch import Tensor


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32, autocast or not."""
    with torch.autocast(a.device.type, enabled=False):
        if a.dtype == torch.float32 or a.device.type == "cpu":
            return a.float() @ b.float()
        return torch.mm(a, b, out_dtype=torch.float32)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, `total` in float32. On a CPU sixteen-bit factors are multiplied as they are,
    which processors with instructions for it do several times as fast, and rounded once."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    elif a.device.type == "cpu":
        total += a @ b
    else:
        torch.ops.aten.addmm.dtype_out(total, a, b, torch.float32, out=total)


def put_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out = a @ b, rounded once."""
    if a.device.type == "cpu" or a.dtype == torch.float32:
        out.copy_(product(a, b))
    elif out.dtype == a.dtype:
        torch.mm(a, b, out=out)
    else:
        torch.ops.aten.mm.dtype_out(a, b, torch.float32, out=out)
