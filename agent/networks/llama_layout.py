"""How the weights of a Llama-style block lie in memory for inference.

Queries, keys and values come from one product, gate and up from another, and the two numbers of a
key that the rotary embedding turns together are neighbours. In float32 matrices are stored
transposed (2.3 times as fast at 16 rows), in bfloat16 on a CPU as checkpoints have them, which its
products read faster. Adapters lie beside them, so that blocks are shared by all who adapt them.

Shapes: H query heads, G key heads, D head width, E hidden width, I inner width, O outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agent.networks.adapters import AdaptedLinear
from agent.networks.architecture import Architecture
from agent.networks.llama import Block

ALIGNMENT = 64


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Layer:
    attention_norm: Tensor | None
    """None where it is folded into the matrix that follows."""
    qkv: Tensor
    qkv_bias: Tensor | None
    qk_norm: Tensor | None
    """Weights of the norms on queries and keys, [H + G, D]."""
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor | None
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class LowRank(NamedTuple):
    """What an adapter adds to a product of x: x @ a @ b."""

    a: Tensor
    """[inputs, ranks of all maps that the product is made of]"""
    b: Tensor
    """[ranks, outputs]: each map's ranks reach its own outputs alone. Scaled."""


@dataclass(frozen=True, slots=True)
class Adapters:
    """Of a layer's four products; None where nothing is added."""

    qkv: LowRank | None = None
    out: LowRank | None = None
    gate_up: LowRank | None = None
    down: LowRank | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    arch: Architecture
    device: torch.device
    dtype: torch.dtype

    @property
    def is_folded(self) -> bool:
        """Whether norm weights are multiplied into the matrices that follow: torch's norm is ten
        small operations on a CPU. In bfloat16 that would round the weights once more."""
        return self.dtype == torch.float32 and self.device.type == "cpu"

    @property
    def is_read_as_stored(self) -> bool:
        """Whether products read matrices [outputs, inputs] fastest, as checkpoints have them."""
        return self.dtype == torch.bfloat16 and self.device.type == "cpu"

    @property
    def name(self) -> str:
        """What blocks of equal weights are told apart by."""
        arch = self.arch
        heads = f"{arch.num_heads} {arch.num_kv_heads} {arch.head_dim}"
        return f"{self.is_folded} {heads} {self.kept_in}"

    @property
    def kept_in(self) -> str:
        return f"{self.dtype} {self.device}"

    def of(self, block: Block) -> Layer:
        arch, attention, mlp = self.arch, block.self_attn, block.mlp
        q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
        qkv_bias, mlp_bias = _biases(q, k, v), _biases(mlp.gate_proj, mlp.up_proj)
        attention_norm = block.input_layernorm.weight.detach()
        mlp_norm = block.post_attention_layernorm.weight.detach()
        norms = None
        if arch.has_qk_norm:
            norms = torch.cat(
                [
                    self.turned(attention.q_norm.weight).expand(arch.num_heads, arch.head_dim),
                    self.turned(attention.k_norm.weight).expand(arch.num_kv_heads, arch.head_dim),
                ]
            )
        qkv = torch.cat((self.turned(q.weight), self.turned(k.weight), v.weight.detach()))
        gate_up = torch.cat((_wide(mlp.gate_proj.weight), _wide(mlp.up_proj.weight)))
        return Layer(
            attention_norm=None if self.is_folded else attention_norm,
            qkv=self.after_norm(qkv.t(), attention_norm),
            qkv_bias=None
            if qkv_bias is None
            else torch.cat((self.turned(qkv_bias[0]), self.turned(qkv_bias[1]), qkv_bias[2])),
            qk_norm=norms,
            out=self.stored(attention.o_proj.weight.detach().t()),
            out_bias=None if attention.o_proj.bias is None else attention.o_proj.bias.detach(),
            mlp_norm=None if self.is_folded else mlp_norm,
            gate_up=self.after_norm(gate_up.t(), mlp_norm),
            gate_up_bias=None if mlp_bias is None else torch.cat([_wide(b) for b in mlp_bias]),
            down=self.stored(_wide(mlp.down_proj.weight.t()).detach()),
            down_bias=None if mlp.down_proj.bias is None else mlp.down_proj.bias.detach(),
        )

    def of_adapters(self, block: Block) -> Adapters:
        attention, mlp = block.self_attn, block.mlp
        q, k, v = (attention.q_proj, self.turned), (attention.k_proj, self.turned), attention.v_proj
        attention_norm = block.input_layernorm.weight
        mlp_norm = block.post_attention_layernorm.weight
        down = self._low((mlp.down_proj, _as_is))
        return Adapters(
            qkv=self._low(q, k, (v, _as_is), norm_E=attention_norm),
            out=self._low((attention.o_proj, _as_is)),
            gate_up=self._low((mlp.gate_proj, _wide), (mlp.up_proj, _wide), norm_E=mlp_norm),
            down=LowRank(_wide(down.a).contiguous(), down.b),
        )

    def _low(
        self,
        *maps: tuple[nn.Linear, Callable[[Tensor], Tensor]],
        norm_E: Tensor | None = None,
    ) -> LowRank:
        """Of maps whose outputs stand side by side, each with the order that its outputs take."""
        a_parts, b_parts = [], []
        for linear, ordered in maps:
            assert isinstance(linear, AdaptedLinear)
            a_parts.append(linear.lora_A.weight.detach())
            b_parts.append(ordered(linear.lora_B.weight.detach() * linear.scale))
        a, b = torch.cat(a_parts).t(), torch.block_diag(*b_parts).t()
        if norm_E is not None:
            a = self.after_norm(a, norm_E)
        missing = -a.shape[1] % ALIGNMENT
        return LowRank(
            F.pad(a, (0, missing)).contiguous(), F.pad(b, (0, 0, 0, missing)).contiguous()
        )

    def turned(self, x: Tensor) -> Tensor:
        """Rows of a projection with the two numbers that rotate together side by side."""
        width = self.arch.head_dim
        pairs = torch.arange(width, device=x.device).view(2, -1).t().flatten()
        return x.detach().unflatten(0, (-1, width))[:, pairs].flatten(0, 1)

    def after_norm(self, matrix_EO: Tensor, norm_E: Tensor) -> Tensor:
        """A matrix that multiplies normed states, with the norm's weight in it where folded."""
        if not self.is_folded:
            return self.stored(matrix_EO)
        scale_E = norm_E.detach() * self.arch.hidden_size**0.5
        return self.stored(scale_E[:, None] * matrix_EO)

    def stored(self, matrix: Tensor) -> Tensor:
        """A matrix [inputs, outputs] in the layout that products read fastest."""
        if self.is_read_as_stored:
            return matrix.t().contiguous().t()
        return matrix.contiguous()


def _as_is(x: Tensor) -> Tensor:
    return x


def _wide(x: Tensor) -> Tensor:
    """The first dimension, the inner width, filled up with zeros to a multiple of `ALIGNMENT`."""
    missing = -x.shape[0] % ALIGNMENT
    return torch.cat((x.detach(), x.new_zeros((missing, *x.shape[1:]))))


def _biases(*linears: nn.Linear) -> list[Tensor] | None:
    """Of all maps; None where one has none."""
    found = [linear.bias.detach() for linear in linears if linear.bias is not None]
    return found if len(found) == len(linears) else None
