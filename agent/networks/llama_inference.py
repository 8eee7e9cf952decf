"""Llama-style weights laid out for inference, and their forward over the cache's jobs.

Same numbers as `Decoder`, arranged so that few, large operations remain: queries, keys and values
come from one product, gate and up from another, and the rotary embedding is one complex product
over neighbouring pairs (`llama_layout`).

On a CPU with one thread a row's bits do not depend on what shares its batch (`batching`).

Shapes: R rows (tokens), N jobs, M queries of a job, C columns of a job's cache, H query heads,
G key heads, D head width, E hidden width, I inner width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from agent.networks.adapter_shape import is_of_adapter
from agent.networks.batching import (
    MIN_ROWS,
    decoding_places,
    folded_bias,
    product,
    repeated,
)
from agent.networks.inference import BeforeAttention, Places, RowForward
from agent.networks.llama import Block, Decoder, rope_frequencies
from agent.networks.llama_layout import Adapters, Layer, Layout
from agent.networks.shared_blocks import SharedBlocks
from kernels import dispatch
from kernels.rows import Rows

REFINED = 4.0
"""Nats under the best logit within which logits are made again in float32."""
MOST_REFINED = 256
"""Of a row on average; more are left as they are."""
LOGIT_ROWS = 512
"""Rows whose logits are in memory together where they are made in bfloat16."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class _Embedding:
    weight: Tensor
    """[V, E]"""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class _Head:
    matrix: Tensor
    """[E, V], the last norm's weight in it where that is folded."""


class LlamaInference:
    reads_pictures = False
    keeps_keys = True

    def __init__(self, decoder: Decoder, shared: SharedBlocks | None = None) -> None:
        """Blocks and embeddings are taken from `shared`, if it is given."""
        arch = decoder.arch
        self.arch = arch
        self.is_critic = decoder.is_critic
        weight = decoder.model.norm.weight
        self.device, self.dtype = weight.device, weight.dtype
        layout = Layout(arch, self.device, self.dtype)
        self.floor = torch.tensor(arch.hidden_size * arch.norm_eps, device=self.device).sqrt()
        self.norm = None if layout.is_folded else weight.detach()
        embedding = decoder.model.embed_tokens.weight.detach()
        blocks = cast(Sequence[Block], decoder.model.layers)
        if shared is None:
            self.embedding = embedding
            self.layers = [layout.of(block) for block in blocks]
        else:
            base = decoder.base_version
            held = shared.get(
                _Embedding, [embedding], layout.kept_in, lambda: _Embedding(embedding), base
            )
            self._held = held
            self.embedding = held.weight
            self.layers = [
                _shared(block, layout, shared, f"{base} {number}" if base else "")
                for number, block in enumerate(blocks)
            ]
        none = [Adapters()] * arch.num_layers
        self.adapters = none if decoder.adapter is None else list(map(layout.of_adapters, blocks))
        head = self.embedding if decoder.head is decoder.model.embed_tokens.weight else decoder.head
        # On a CPU in bfloat16 a tied head is the embeddings seen from the other side.
        is_view = layout.is_read_as_stored and head is self.embedding
        if shared is None or self.is_critic or is_view:
            self.head = layout.after_norm(head.detach().t(), weight)
        else:
            self._held_head = shared.get(
                _Head,
                [head, weight],
                layout.name,
                lambda: _Head(layout.after_norm(head.detach().t(), weight)),
                base,
            )
            self.head = self._held_head.matrix
        angles = torch.outer(
            torch.arange(arch.max_positions, dtype=torch.float32), rope_frequencies(arch)
        )
        self.turns = torch.polar(torch.ones_like(angles), angles).to(self.device)
        """Rotations by position and pair, complex [positions, D / 2]."""

    @property
    def kv_shape(self) -> tuple[int, int]:
        """Of one token in one layer: keys, then values."""
        return 2 * self.arch.num_kv_heads, self.arch.head_dim

    @property
    def kv_bytes(self) -> int:
        """Of one token in all layers."""
        heads, width = self.kv_shape
        return heads * width * self.embedding.element_size() * self.arch.num_layers

    def logits(self, hidden_RE: Tensor) -> Tensor:
        """Float32 logits [R, V] (a critic's: [R, 1])."""
        if self.device.type == "cuda" and self.dtype != torch.float32:
            # A logit of 20 is rounded to an eighth in bfloat16.
            return torch.mm(hidden_RE, self.head, out_dtype=torch.float32)
        z_RV = product(hidden_RE, self.head, None).float()
        return self._refined(z_RV, hidden_RE) if self.is_rounded else z_RV

    @property
    def is_rounded(self) -> bool:
        """Whether products are rounded to bfloat16, with no way to have them in float32."""
        return self.dtype == torch.bfloat16 and self.device.type == "cpu"

    def _refined(self, z_RV: Tensor, hidden_RE: Tensor) -> Tensor:
        """The likeliest tokens' logits again, in float32.

        A logit of 20 is rounded to an eighth in bfloat16, which leaves many pairs of tokens equal
        and lets the lower number win. Tokens whose chance is under e^-4 of the best one's keep the
        rounded logit; so do all where a distribution is too flat for that to be a few.
        """
        row_K, token_K = (z_RV >= z_RV.amax(dim=1, keepdim=True) - REFINED).nonzero(as_tuple=True)
        if len(row_K) <= MOST_REFINED * len(z_RV):
            weight_KE = self.head.t()[token_K].float()
            z_RV[row_K, token_K] = (hidden_RE[row_K].float() * weight_KE).sum(dim=1)
        return z_RV

    def logprobs_of(self, hidden_RE: Tensor, target_M: Tensor, rows_M: Tensor) -> Tensor:
        """log p(target) after the state of each wanted row, float32 [M]."""
        if self.is_rounded:
            return self._low_logprobs(hidden_RE, target_M, rows_M)
        return dispatch.linear_logprob(hidden_RE, self.head.t(), target_M, rows_M=rows_M)

    def _low_logprobs(self, hidden_RE: Tensor, target_M: Tensor, rows_M: Tensor) -> Tensor:
        """By the logits that decoding makes: no float32 copy of the head is made for each part."""
        found = torch.empty(len(target_M), dtype=torch.float32)
        for start in range(0, len(target_M), LOGIT_ROWS):
            part = slice(start, start + LOGIT_ROWS)
            z_PV = self.logits(hidden_RE[rows_M[part]])
            picked_P = z_PV.gather(1, target_M[part, None].clamp(min=0))[:, 0]
            found[part] = picked_P - torch.logsumexp(z_PV, dim=1)
        return found.masked_fill_(target_M < 0, 0.0)

    def forward(
        self,
        tokens_R: Tensor,
        places: Places,
        cache: list[Tensor],
        before_attention: BeforeAttention | None = None,
    ) -> Tensor:
        """Hidden states [R, E] after the last norm; see `InferenceNetwork`.

        `cache` holds one tensor [jobs, columns, 2 G, D] a layer.
        """
        num_rows = tokens_R.shape[0]
        if num_rows < MIN_ROWS and self.device.type == "cpu":
            row_R = torch.arange(MIN_ROWS, device=tokens_R.device).clamp(max=num_rows - 1)
            places = repeated(places, row_R)
            return self.forward(tokens_R[row_R], places, cache, before_attention)[:num_rows]
        arch = self.arch
        H, G, D = arch.num_heads, arch.num_kv_heads, arch.head_dim
        R = tokens_R.shape[0]
        x = self._embedded(tokens_R)
        turn_R1P = self.turns[places.position_R][:, None]
        flat_R = places.job_R * cache[0].shape[1] + places.column_R
        bias = folded_bias(places.bias_NMC, H // G, D).to(self.dtype)
        for number, kept in enumerate(cache):
            layer, low, kv = self.layers[number], self.adapters[number], kept[places.jobs]
            h = self._normed(x, layer.attention_norm)
            qkv = product(h, layer.qkv, layer.qkv_bias, low=low.qkv).view(R, H + 2 * G, D)
            if layer.qk_norm is not None:
                qk = F.rms_norm(qkv[:, : H + G], (D,), None, arch.norm_eps) * layer.qk_norm
                qkv = torch.cat((qk, qkv[:, H + G :]), dim=1)
            _turn(qkv[:, : H + G], turn_R1P)
            kv.flatten(0, 1).index_copy_(0, flat_R, qkv[:, H:])
            if before_attention is not None:
                before_attention(number, qkv[:, :H])
            mixed = _attend(qkv[:, :H], kv, places, bias, G)
            x = product(mixed, layer.out, layer.out_bias, x, low.out)
            h = self._normed(x, layer.mlp_norm)
            both = product(h, layer.gate_up, layer.gate_up_bias, low=low.gate_up)
            gate, up = both.chunk(2, dim=-1)
            active = F.silu(gate).mul_(up)
            x = product(active, layer.down, layer.down_bias, x, low.down)
        return self._normed(x, self.norm)

    def _embedded(self, tokens_R: Tensor) -> Tensor:
        """What the blocks begin with, [R, E]."""
        return F.embedding(tokens_R, self.embedding)

    def decode(
        self, tokens_N: Tensor, column_N: Tensor, num_columns: int, cache: list[Tensor]
    ) -> Tensor:
        """Hidden states [N, E]; see `InferenceNetwork`. The bits are those of `forward`, but on a
        GPU, where what surrounds the products is fused."""
        if self.forward_rows is not None:
            job_N = torch.arange(len(tokens_N), device=self.device)
            return self.forward_rows(tokens_N, Rows(job_N, column_N, column_N, column_N + 1), cache)
        places = decoding_places(column_N, num_columns, self.dtype, self.arch.max_positions)
        return self.forward(tokens_N, places, cache)

    @property
    def forward_rows(self) -> RowForward | None:
        """On a GPU with Triton."""
        return self._fused if dispatch.is_fused(self.device) else None

    def _fused(self, tokens_R: Tensor, rows: Rows, cache: list[Tensor]) -> Tensor:
        from kernels import decoding

        arch = self.arch
        H, G, D = arch.num_heads, arch.num_kv_heads, arch.head_dim
        turns = torch.view_as_real(self.turns)
        x = F.embedding(tokens_R, self.embedding)
        for layer, low, kept in zip(self.layers, self.adapters, cache, strict=True):
            h = self._normed(x, layer.attention_norm)
            qkv = product(h, layer.qkv, layer.qkv_bias, low=low.qkv).view(-1, H + 2 * G, D)
            if layer.qk_norm is not None:
                qk = F.rms_norm(qkv[:, : H + G], (D,), None, arch.norm_eps) * layer.qk_norm
                qkv = torch.cat((qk, qkv[:, H + G :]), dim=1)
            decoding.turn_and_store(qkv, turns, rows, kept, H)
            mixed = decoding.attention(qkv, rows, kept, H)
            x = product(mixed, layer.out, layer.out_bias, x, low.out)
            h = self._normed(x, layer.mlp_norm)
            both = product(h, layer.gate_up, layer.gate_up_bias, low=low.gate_up)
            x = product(decoding.gated(both), layer.down, layer.down_bias, x, low.down)
        return self._normed(x, self.norm)

    def _normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """Root-mean-square norm; without a weight, x over its own length, the rest folded away."""
        if weight is None:
            return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.floor)
        return F.rms_norm(x, weight.shape, weight, self.arch.norm_eps)


def _shared(block: Block, layout: Layout, shared: SharedBlocks, name: str) -> Layer:
    weights = [p for n, p in block.named_parameters() if not is_of_adapter(n)]
    return shared.get(Layer, weights, layout.name, lambda: layout.of(block), name)


def _turn(x: Tensor, turn_R1P: Tensor) -> None:
    """Rotary embedding of x [R, heads, D] in place; the two numbers of a pair are neighbours."""
    pairs = x.unflatten(-1, (-1, 2))
    if x.dtype == torch.float32:
        torch.view_as_complex(pairs).mul_(turn_R1P)
    else:
        x.copy_(torch.view_as_real(torch.view_as_complex(pairs.float()) * turn_R1P).flatten(-2))


def _attend(q_RHD: Tensor, kv: Tensor, places: Places, bias: Tensor, G: int) -> Tensor:
    """Attention of each row over the columns that its job's bias shows it, [R, H * D]."""
    N, M, C = places.bias_NMC.shape
    R, H, D = q_RHD.shape
    if places.is_dense:
        q = q_RHD.reshape(N, M, H, D)
    else:
        q = q_RHD.new_zeros((N, M, H, D))
        q[places.job_R, places.query_R] = q_RHD
    # Heads that share keys stand side by side as further queries.
    q = q.view(N, M, G, H // G, D).permute(0, 2, 1, 3, 4).reshape(N, G, -1, D)
    num_queries = q.shape[2]
    if num_queries < bias.shape[2]:
        missing = bias.shape[2] - num_queries
        q = torch.cat((q, q[:, :, -1:].expand(-1, -1, missing, -1)), dim=2)
    keys, values = kv[:N, :C, :G].transpose(1, 2), kv[:N, :C, G:].transpose(1, 2)
    mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=bias)
    mixed = mixed[:, :, :num_queries]
    mixed = mixed.reshape(N, G, M, H // G, D).permute(0, 2, 1, 3, 4)
    if places.is_dense:
        return mixed.reshape(R, H * D)
    return mixed.reshape(N, M, H * D)[places.job_R, places.query_R]
