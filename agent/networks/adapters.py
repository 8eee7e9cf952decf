"""Low-rank adapters on a network's linear maps (LoRA: Hu et al., arXiv 2106.09685).

The weights of the base stay as they are and may be shared by any number of networks. An adapted map
has two small weights of its own beside the base's W, and computes W x + (alpha / rank) B A x. B
begins at zero, so that an adapter which has learned nothing changes nothing.

Parameters have the names that PEFT gives them: `...q_proj.lora_A.weight` is A [rank, inputs],
`...q_proj.lora_B.weight` is B [outputs, rank].
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agent.networks.adapter_shape import AdapterShape


class AdaptedLinear(nn.Linear):
    """A linear map whose own weight stays, with two small ones that train."""

    def __init__(self, base: nn.Linear, shape: AdapterShape) -> None:
        with torch.device("meta"):  # the weights are the base's: no others are made
            super().__init__(base.in_features, base.out_features, base.bias is not None)
        self.weight, self.bias = base.weight, base.bias
        self.scale = shape.scale
        with torch.device(base.weight.device):
            self.lora_A = nn.Linear(base.in_features, shape.rank, bias=False)
            self.lora_B = nn.Linear(shape.rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        low = self.lora_B(self.lora_A(x))
        # Outside of autocast a frozen weight may be held in another type than the states are.
        product = F.linear(x.to(self.weight.dtype), self.weight, self._bias())
        return product + self.scale * low

    def _bias(self) -> Tensor | None:
        return None if self.bias is None else self.bias.to(self.weight.dtype)

    def merged(self) -> nn.Linear:
        """The plain map that computes the same."""
        with torch.device("meta"):
            plain = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        delta = self.lora_B.weight.detach().float() @ self.lora_A.weight.detach().float()
        weight = self.weight.detach().float() + self.scale * delta
        plain.weight, plain.bias = nn.Parameter(weight.to(self.weight.dtype)), self.bias
        return plain


def put_adapters(block: nn.Module, shape: AdapterShape) -> None:
    """Adapt every linear map below `block` in place; what the adapters hold is not set."""
    for owner, name, linear in list(_linears(block)):
        setattr(owner, name, AdaptedLinear(linear, shape))


def begin_adapters(block: nn.Module, generator: torch.Generator) -> None:
    """A as PEFT draws it, from -1 / sqrt(inputs) to 1 / sqrt(inputs), and B at zero. The generator
    is the CPU's: the numbers are the same on any device."""
    for _, _, linear in _linears(block):
        if isinstance(linear, AdaptedLinear):
            bound = 1 / math.sqrt(linear.in_features)
            a = torch.empty(linear.lora_A.weight.shape).uniform_(-bound, bound, generator=generator)
            with torch.no_grad():
                linear.lora_A.weight.copy_(a)
                linear.lora_B.weight.zero_()


def merge_adapters(block: nn.Module) -> None:
    """Put plain maps in the place of adapted ones; the base's own weights stay as they are."""
    for owner, name, linear in list(_linears(block)):
        if isinstance(linear, AdaptedLinear):
            setattr(owner, name, linear.merged())


def _linears(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """(owner, name, map) of the linear maps below a module, those of adapters left out."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            yield module, name, child
        else:
            yield from _linears(child)
