"""Megalodon weights for inference, over the columns of the engine's cache.

A recurrent state cannot be rolled back or cut at a token, and the engine does both: it forks
prefixes, grows trees of options, takes rejected drafts back. So each column keeps the state after
its token beside its key and value, and a row begins with that of the token before it, which is the
last column that it sees. Recurrences go token by token, so that no bit depends on how a text was
cut; all products take all rows at once.

A row attends to the columns of its own chunk alone.

Shapes: R rows (tokens), N jobs, M queries of a job, C columns of a job's cache, E hidden width, G
groups of the norm, K components of the average, V vocabulary.
"""

import copy
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agent.networks.batching import (
    MIN_ROWS,
    decoding_places,
    folded_bias,
    product,
    repeated,
)
from agent.networks.inference import BeforeAttention, Places
from agent.networks.llama_layout import ALIGNMENT
from agent.networks.megalodon import (
    NORM_EPS,
    Block,
    MegalodonDecoder,
    TimestepNorm,
    turned,
    turns,
)
from agent.networks.shared_blocks import SharedBlocks
from kernels import dispatch


class Layout(NamedTuple):
    """Where the parts of a column's row of numbers end."""

    key: int
    value: int
    moments: int
    last_moments: int
    """Of the norm before the head, in the last layer alone."""
    average: int


class Order(NamedTuple):
    """How the rows of a forward follow each other."""

    levels: list[Tensor]
    """Rows whose predecessors are in no level or in an earlier one."""
    row_before_R: Tensor
    """Row of this forward that comes before; -1 where none of it does."""
    column_before_R: Tensor
    """Column of the cache that comes before; -1 at the start of a text."""


class MegalodonInference:
    reads_pictures = False
    keeps_keys = False
    forward_rows = None

    def __init__(self, model: MegalodonDecoder, shared: SharedBlocks | None = None) -> None:
        """Weights are the model's own, in float32: averages need its digits. `shared` has nothing
        of this family."""
        arch = model.arch
        assert arch.megalodon is not None
        self.arch, self.shape = arch, arch.megalodon
        self.is_critic = model.is_critic
        self.dtype = torch.float32
        self.device = model.device
        self.model = model
        if model.head.dtype != torch.float32:
            self.model = copy.deepcopy(model).float()
        self.embedding = self.model.model.embed_tokens.weight.detach()
        self.head = self.model.head.detach().t().contiguous()
        self.blocks = [_Frozen(cast(Block, block)) for block in self.model.blocks]
        groups, shape = 1 + 2 * self.shape.norm_groups, self.shape
        ends = [shape.z_dim, shape.value_dim, groups, groups, 2 * arch.hidden_size * shape.ema_dim]
        self.layout = Layout(*torch.tensor(ends).cumsum(0).tolist())

    @property
    def kv_shape(self) -> tuple[int, int]:
        """One row of numbers: key, value, moments, the last norm's moments, average."""
        return 1, self.arch.kept_width

    @property
    def kv_bytes(self) -> int:
        """Of one token in all layers."""
        return self.arch.kept_width * self.arch.num_layers * 4

    @torch.no_grad()
    def forward(
        self,
        tokens_R: Tensor,
        places: Places,
        cache: list[Tensor],
        before_attention: BeforeAttention | None = None,
    ) -> Tensor:
        """Hidden states [R, E] after the last norm; see `InferenceNetwork`."""
        num_rows = tokens_R.shape[0]
        if num_rows < MIN_ROWS and self.device.type == "cpu":
            row_R = torch.arange(MIN_ROWS, device=tokens_R.device).clamp(max=num_rows - 1)
            again = repeated(places, row_R)
            return self.forward(tokens_R[row_R], again, cache, before_attention)[:num_rows]
        order = _ordered(places)
        x = F.embedding(tokens_R, self.embedding)
        layout = self.layout
        moments = slice(layout.value, layout.moments)
        for number, kept in enumerate(cache):
            block, kv = self.blocks[number], kept[places.jobs, :, 0]
            before = _rows_before(kv, places, order)
            stats, u = _norm_in_order(x, before[:, moments], order, block.norm)
            average, smooth = _average_in_order(u, before[:, layout.last_moments :], order, block)
            m = block.rms(smooth)
            q, key, value = block.projected(u, m, places.position_R)
            row = torch.cat((key, value, stats, torch.zeros_like(stats), average), dim=1)
            kv[places.job_R, places.column_R] = row
            if before_attention is not None:
                before_attention(number, q.unflatten(-1, (self.arch.num_heads, -1)))
            attended = self._attended(q, kv, places)
            after = x + block.mixed(m, attended)
            x = block.fed_forward(after) + x
        last = slice(layout.moments, layout.last_moments)
        kv = cache[-1][places.jobs, :, 0]
        before = _rows_before(kv, places, order)[:, last]
        norm = self.model.model.norm
        stats, hidden = _norm_in_order(x, before, order, norm)
        kv[places.job_R, places.column_R, last] = stats
        return hidden

    def _attended(self, q_RZ: Tensor, kv_NCW: Tensor, places: Places) -> Tensor:
        """Attention of each row over what it sees of its own chunk, [R, V]."""
        N, M, C = places.bias_NMC.shape
        heads, size, layout = self.arch.num_heads, self.shape.chunk_size, self.layout
        queries = q_RZ.new_zeros((N, M, q_RZ.shape[1]))
        queries[places.job_R, places.query_R] = q_RZ
        seen = kv_NCW[:N, :C]
        # A column's count of tokens says where its token stands.
        chunk_NC = (seen[..., layout.value] - 1).div(size, rounding_mode="floor")
        chunk_NM = q_RZ.new_full((N, M), -1)
        chunk_NM[places.job_R, places.query_R] = places.position_R.to(q_RZ.dtype).div(
            size, rounding_mode="floor"
        )
        is_apart = chunk_NC[:, None] != chunk_NM[..., None]
        # A query that stands for no row may see whatever the bias shows it.
        is_apart &= (chunk_NM >= 0)[..., None]
        widths = self.shape.z_dim // heads, self.shape.value_dim // heads
        # The kernel whose bits depend on nothing else wants one width of all.
        most = max(widths)
        bias = folded_bias(places.bias_NMC.masked_fill(is_apart, float("-inf")), 1, most)
        missing = bias.shape[2] - M
        if missing:
            queries = torch.cat((queries, queries[:, -1:].expand(-1, missing, -1)), dim=1)
        q, k, v = (
            t.unflatten(-1, (heads, -1)).transpose(1, 2)
            for t in (queries, seen[..., : layout.key], seen[..., layout.key : layout.value])
        )
        q, k, v = (F.pad(t, (0, most - t.shape[-1])) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        mixed = mixed[..., : widths[1]]
        return mixed.transpose(1, 2).flatten(2)[places.job_R, places.query_R]

    def decode(
        self, tokens_N: Tensor, column_N: Tensor, num_columns: int, cache: list[Tensor]
    ) -> Tensor:
        """Hidden states [N, E]; see `InferenceNetwork`."""
        places = decoding_places(column_N, num_columns, self.dtype, self.arch.max_positions)
        return self.forward(tokens_N, places, cache)

    def logits(self, hidden_RE: Tensor) -> Tensor:
        """Float32 logits [R, V] (a critic's: [R, 1])."""
        return product(hidden_RE, self.head, None)

    def logprobs_of(self, hidden_RE: Tensor, target_M: Tensor, rows_M: Tensor) -> Tensor:
        """log p(target) after the state of each wanted row, float32 [M]."""
        return dispatch.linear_logprob(hidden_RE, self.head.t(), target_M, rows_M=rows_M)


class _Frozen:
    """A block's weights as they are used here: matrices [inputs, outputs], and what never changes
    worked out once."""

    @torch.no_grad()
    def __init__(self, block: Block) -> None:
        attention, ffn = block.attention, block.ffn
        self.norm, self.rms, self.ffn_norm = block.timestep_norm, block.rms_norm, block.ffn_norm
        self.attention = attention
        p, log_size, phase, re, im = block.cema.coefficients()
        self.p_EK = p
        self.q_re_EK, self.q_im_EK = log_size.exp() * phase.cos(), log_size.exp() * phase.sin()
        self.eta_re_EK, self.eta_im_EK = re, im
        self.omega_E = block.cema.omega.detach()
        width = attention.shape.z_dim // attention.arch.num_heads
        places = torch.arange(attention.shape.chunk_size, device=p.device)
        self.cos, self.sin = turns(places, width, attention.arch.rope_theta)
        self.z, self.v = _Map(attention.z_proj), _Map(attention.v_proj)
        self.r, self.h, self.o = (
            _Map(one) for one in (attention.r_proj, attention.h_proj, attention.o_proj)
        )
        self.up, self.down = _Map(ffn.up_proj), _Map(ffn.down_proj)
        self.gate = None if ffn.gate_proj is None else _Map(ffn.gate_proj)

    def projected(self, u: Tensor, m: Tensor, position_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, rotated, and values of rows, [R, ...]."""
        heads = self.attention.arch.num_heads
        place_R = position_R % self.attention.shape.chunk_size
        turn = self.cos[place_R][:, None], self.sin[place_R][:, None]
        q, k = (
            turned(t.unflatten(-1, (heads, -1)), *turn).flatten(1)
            for t in self.attention.queries_keys_of(self.z(m))
        )
        return q, k, _silu(self.v(u))

    def mixed(self, m: Tensor, attended: Tensor) -> Tensor:
        return self.h(m) + self.o(_silu(self.r(m)) * attended)

    def fed_forward(self, x: Tensor) -> Tensor:
        x = self.ffn_norm(x)
        up = self.up(x)
        active = _silu(up) if self.gate is None else _silu(self.gate(x)) * up
        return self.down(active)


def _silu(x: Tensor) -> Tensor:
    """No row of it ends in a part of a vector, whose bits are others."""
    missing = -x.shape[-1] % ALIGNMENT
    return F.silu(F.pad(x, (0, missing)))[..., : x.shape[-1]] if missing else F.silu(x)


class _Map:
    """A linear map of rows."""

    def __init__(self, linear: nn.Linear) -> None:
        self.matrix = linear.weight.detach().t().contiguous()
        self.bias = None if linear.bias is None else linear.bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        return product(x, self.matrix, self.bias)


def _ordered(places: Places) -> Order:
    """The predecessor of each row is the last column before its own that it sees."""
    column_C = torch.arange(places.bias_NMC.shape[2], device=places.column_R.device)
    is_seen_RC = places.bias_NMC[places.job_R, places.query_R] == 0
    is_seen_RC &= column_C < places.column_R[:, None]
    before_R = torch.where(is_seen_RC, column_C, -1).amax(dim=1)
    jobs, columns, before = (t.tolist() for t in (places.job_R, places.column_R, before_R))
    row_at: dict[tuple[int, int], int] = {}
    for row, place in enumerate(zip(jobs, columns, strict=True)):
        row_at.setdefault(place, row)  # rows that come again are the first one's
    row_before, level_of = [-1] * len(jobs), [0] * len(jobs)
    levels: list[list[int]] = []
    for row in sorted(range(len(jobs)), key=columns.__getitem__):  # whoever comes before is first
        parent = row_before[row] = row_at.get((jobs[row], before[row]), -1)
        level = level_of[row] = level_of[parent] + 1 if parent >= 0 else 0
        if level == len(levels):
            levels.append([])
        levels[level].append(row)
    device = places.column_R.device
    return Order(
        [torch.tensor(level, device=device) for level in levels],
        torch.tensor(row_before, device=device),
        before_R,
    )


def _rows_before(kv_NCW: Tensor, places: Places, order: Order) -> Tensor:
    """The cache's row of numbers before each row, zeros at the start of a text, [R, W]."""
    found = kv_NCW[places.job_R, order.column_before_R.clamp(min=0)]
    return found.masked_fill((order.column_before_R < 0)[:, None], 0.0)


def _norm_in_order(
    x_RE: Tensor, before_RS: Tensor, order: Order, norm: TimestepNorm
) -> tuple[Tensor, Tensor]:
    """(moments after each row [R, 1 + 2 G], the normed rows [R, E])."""
    num_groups = norm.num_groups
    groups = x_RE.unflatten(-1, (num_groups, -1))
    mean_RG = groups.mean(dim=-1)
    variance_RG = groups.var(dim=-1, unbiased=False)
    stats = torch.empty_like(before_RS)
    for level, rows in enumerate(order.levels):
        old = before_RS[rows] if level == 0 else stats[order.row_before_R[rows]]
        count = old[:, :1] + 1
        mean, variance = old[:, 1 : 1 + num_groups], old[:, 1 + num_groups :]
        share = 1 / count
        gap = mean_RG[rows] - mean
        mean = mean + gap * share
        variance = variance * (1 - share) + variance_RG[rows] * share
        variance = variance + gap.square() * share * (1 - share)
        stats[rows] = torch.cat((count, mean, variance), dim=1)
    mean, variance = stats[:, 1 : 1 + num_groups], stats[:, 1 + num_groups :]
    # A root and a quotient are exact to the last bit wherever they stand in a vector.
    normed = (groups - mean[..., None]) / (variance + NORM_EPS).sqrt()[..., None]
    return stats, normed.flatten(-2) * (norm.weight + 1) + norm.bias


def _average_in_order(
    u_RE: Tensor, before_RS: Tensor, order: Order, block: _Frozen
) -> tuple[Tensor, Tensor]:
    """(the moving average's components after each row [R, 2 E K], what comes of them [R, E])."""
    size, num = block.p_EK.shape
    state = torch.empty((len(u_RE), 2, size, num), device=u_RE.device)
    input_REK = u_RE[..., None] * block.p_EK
    for level, rows in enumerate(order.levels):
        old = (
            before_RS[rows].unflatten(1, (2, size, num))
            if level == 0
            else state[order.row_before_R[rows]]
        )
        re, im = old[:, 0], old[:, 1]
        state[rows, 0] = block.q_re_EK * re - block.q_im_EK * im + input_REK[rows]
        state[rows, 1] = block.q_re_EK * im + block.q_im_EK * re
    y = (block.eta_re_EK * state[:, 0] - block.eta_im_EK * state[:, 1]).sum(dim=-1)
    return state.flatten(1), y + block.omega_E * u_RE
