"""The distribution that tokens are drawn from: the policy's, after temperature and filters.

Filters come after the temperature, in the usual order: top-k, top-p (nucleus: Holtzman et al.,
arXiv 1904.09751), min-p (Nguyen et al., arXiv 2407.01082). The most probable token always stays.

Shapes: N rows, Q places of a row, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agent.engine.requests import CompletionRequest
from kernels import dispatch
from kernels.reference import Verified

NEVER = float("-inf")


@dataclass(slots=True)
class SamplingParameters:
    """Sampling parameters of a batch of texts, one row each."""

    temperature_N: Tensor
    top_k_N: Tensor
    top_p_N: Tensor
    min_p_N: Tensor
    seeds_N: Tensor
    is_filtered: bool
    """Whether any row leaves tokens out."""

    @classmethod
    def of(
        cls, requests: Sequence[CompletionRequest], device: torch.device
    ) -> "SamplingParameters":
        def column(values: list[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        return cls(
            column([r.temperature for r in requests], torch.float32),
            column([r.top_k for r in requests], torch.int64),
            column([r.top_p for r in requests], torch.float32),
            column([r.min_p for r in requests], torch.float32),
            column([r.seed for r in requests], torch.int64),
            any(r.top_k > 0 or r.top_p < 1 or r.min_p > 0 for r in requests),
        )

    def take(self, rows: Tensor) -> "SamplingParameters":
        top_k_N, top_p_N, min_p_N = self.top_k_N[rows], self.top_p_N[rows], self.min_p_N[rows]
        is_filtered = self.is_filtered and bool(
            (top_k_N > 0).any() or (top_p_N < 1).any() or (min_p_N > 0).any()
        )
        return SamplingParameters(
            self.temperature_N[rows], top_k_N, top_p_N, min_p_N, self.seeds_N[rows], is_filtered
        )

    def choose(self, logits_NQV: Tensor, draft_NK: Tensor, position_N: Tensor) -> Verified:
        """The token at each of Q places from `position_N` on, and how many drafts it agrees with.

        The noise depends on (seed, position, token) only. A drafter that adds the same noise to
        its own log-probabilities proposes the same token wherever the two distributions agree
        (Gumbel coupling; Daliri, Musco, Suresh, arXiv 2408.07978), so drafting can never change
        what is written.
        """
        given = (draft_NK, self.temperature_N, self.seeds_N, position_N)
        if not self.is_filtered:
            return dispatch.verify_draft(logits_NQV, *given)
        is_plain_N = (self.top_k_N == 0) & (self.top_p_N == 1) & (self.min_p_N == 0)
        if bool(is_plain_N.any()):  # filters round, and a text's bits are its own
            return self._apart(is_plain_N, logits_NQV, draft_NK, position_N)
        raw_NQV = torch.log_softmax(logits_NQV, dim=-1)
        temperature_N11 = self.temperature_N[:, None, None]
        scaled_NQV = torch.log_softmax(raw_NQV / temperature_N11.clamp(min=1e-6), dim=-1)
        log_p_NQV = torch.where(temperature_N11 > 0, self._filtered(scaled_NQV), raw_NQV)
        is_sampled_N = (self.temperature_N > 0).float()
        found = dispatch.verify_draft(log_p_NQV, draft_NK, is_sampled_N, self.seeds_N, position_N)
        return found._replace(logprob=raw_NQV.gather(2, found.tokens[..., None])[..., 0])

    def _apart(
        self, is_plain_N: Tensor, logits_NQV: Tensor, draft_NK: Tensor, position_N: Tensor
    ) -> Verified:
        """`choose` for texts with filters and for those without, each among their like."""
        parts = [mask.nonzero()[:, 0] for mask in (is_plain_N, ~is_plain_N)]
        found = [
            self.take(rows).choose(logits_NQV[rows], draft_NK[rows], position_N[rows])
            for rows in parts
        ]
        order = torch.cat(parts).argsort()
        return Verified(*(torch.cat(columns)[order] for columns in zip(*found, strict=True)))

    def _filtered(self, scaled_NQV: Tensor) -> Tensor:
        V = scaled_NQV.shape[-1]
        ordered, index = scaled_NQV.sort(dim=-1, descending=True, stable=True)
        rank = torch.arange(V, device=ordered.device)
        top_k = torch.where(self.top_k_N > 0, self.top_k_N, V)[:, None, None]
        is_cut = rank >= top_k
        kept = torch.softmax(ordered.masked_fill(is_cut, NEVER), dim=-1)
        # A token stays while those before it hold less than p.
        is_cut = is_cut | (kept.cumsum(dim=-1) - kept >= self.top_p_N[:, None, None])
        is_cut = is_cut | (ordered < ordered[..., :1] + self.min_p_N[:, None, None].log())
        is_cut[..., 0] = False
        ordered = torch.log_softmax(ordered.masked_fill(is_cut, NEVER), dim=-1)
        return torch.empty_like(ordered).scatter_(2, index, ordered)
