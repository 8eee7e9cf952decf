"""Different lines after many prefixes, by beam search over one line's tokens.

Two rankings of the beams give two kinds of lines. By log-probability they are the most probable
ones. By a Gumbel-perturbed log-probability, each beam's noise conditioned on its parent's, the
best K are a sample of K lines without replacement from the policy (stochastic beam search: Kool,
van Hoof, Welling 2019, "Stochastic Beams and Where to Find Them"); the log-probabilities that come
with them are exact either way.

Shapes: N live prefixes, K beams of a prefix, C candidates a step, V vocabulary, S steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from agent.engine.decoder import Decoder, Prefix, Suffix
from agent.engine.requests import Generated, Lines
from agent.engine.steps import Steps
from kernels.noise import follow, gumbel
from search.state import Stop

NEVER = float("-inf")
LEAST_LOGPROB = -12.0
"""Among the most probable lines none below this (6 in a million): a beam is not fed for them."""


@dataclass(slots=True)
class Found:
    """Finished lines of one prefix and the tokens that were generated to find them."""

    limit: int
    """Tokens of a line, at most."""
    lines: list[tuple[float, Generated]] = field(default_factory=list)
    num_tokens: int = 0

    def is_settled(self, count: int, best_open: float) -> bool:
        """Ranks only fall as a line grows: nothing open can get among the best now."""
        if best_open == NEVER:
            return True
        if len(self.lines) < count:
            return False
        return sorted((score for score, _ in self.lines), reverse=True)[count - 1] >= best_open

    def best(self, count: int) -> Lines:
        ranked = sorted(self.lines, key=lambda line: -line[0])
        return Lines(tuple(line for _, line in ranked[:count]), self.num_tokens)


class Beams:
    """One batch of prefixes, `count` beams each. A prefix that is settled leaves the batch."""

    def __init__(
        self, decoder: Decoder, prefix: Prefix, last_N: Tensor, limits: Sequence[int], count: int,
        steps: Steps, ends: frozenset[int], seeds: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        """`seeds`, one a prefix, ask for a sample without replacement."""
        N, K = len(limits), count
        device = last_N.device
        self.decoder = decoder
        self.count = count
        self.steps, self.ends = steps, ends
        self.stop_ids = torch.tensor(sorted(steps.ids | ends), device=device)
        self.found = [Found(limit) for limit in limits]
        self.live = list(range(N))
        self.prefix = prefix
        self.suffix: Suffix = decoder.new_suffix(N, K)
        self.tokens_NK = last_N[:, None].expand(N, K)
        # Perturbed ranks are differences of close numbers; log-probabilities are not.
        dtype = torch.float32 if seeds is None else torch.float64
        self.score_NK = torch.full((N, K), NEVER, device=device, dtype=dtype)
        self.score_NK[:, 0] = 0.0  # all beams of a prefix are the same before the first token
        self.total_NK = torch.zeros((N, K), device=device, dtype=dtype)
        self.stream_NK: Tensor | None = None
        if seeds is not None:
            self.stream_NK = torch.tensor(seeds, device=device)[:, None].expand(N, K)
        self.history_NKS = torch.empty((N, K, 0), dtype=torch.long, device=device)
        self.logprobs_NKS = torch.empty((N, K, 0), device=device)

    def run(self) -> list[Lines]:
        while self.live:
            self._step()
        return [found.best(self.count) for found in self.found]

    def _step(self) -> None:
        N, K, V = len(self.live), self.count, self.decoder.arch.vocab_size
        logits = self.decoder.decode(self.tokens_NK[..., None], self.prefix, self.suffix)
        logprob_NKV = torch.log_softmax(logits[:, :, 0].float(), dim=-1).nan_to_num(NEVER)
        self.suffix.position_NK += 1
        for n, num_open in zip(self.live, (self.score_NK > NEVER).sum(dim=1).tolist(), strict=True):
            self.found[n].num_tokens += num_open
        rank_NKV = self._ranks(logprob_NKV)
        # Up to K ended candidates may stand before the K that go on.
        score_NC, flat_NC = rank_NKV.view(N, K * V).topk(min(2 * K, K * V), dim=1)
        if self.stream_NK is None:
            score_NC = score_NC.masked_fill(score_NC < LEAST_LOGPROB, NEVER)
        stops_NC = self._stops(score_NC, flat_NC, V)
        self._collect(score_NC, flat_NC, stops_NC, logprob_NKV)
        self.score_NK, place_NK = score_NC.masked_fill(stops_NC, NEVER).topk(K, dim=1)
        self._advance(flat_NC.gather(1, place_NK), logprob_NKV)
        self._retire()

    def _ranks(self, logprob_NKV: Tensor) -> Tensor:
        """What beams and their continuations are compared by, [N, K, V]; never above the parent's.

        For samples: G of a child is its log-probability plus Gumbel noise, shifted so that the
        largest among a parent's children equals the parent's own G (Kool et al., appendix B.3).
        """
        if self.stream_NK is None:
            return self.score_NK[..., None] + logprob_NKV
        total_NKV = self.total_NK[..., None] + logprob_NKV.double()
        N, K, V = logprob_NKV.shape
        stream_R = self.stream_NK.reshape(-1)
        noise_NKV = gumbel(stream_R, torch.zeros_like(stream_R), V).view(N, K, V)
        free_NKV = total_NKV + noise_NKV.double()
        top_NK1 = free_NKV.amax(dim=2, keepdim=True)
        parent_NK1 = self.score_NK[..., None]
        v = parent_NK1 - free_NKV + torch.log1p(-torch.exp(free_NKV - top_NK1))
        rank = parent_NK1 - v.clamp(min=0) - torch.log1p(torch.exp(-v.abs()))
        return rank.masked_fill(~(logprob_NKV > NEVER), NEVER).nan_to_num(NEVER, neginf=NEVER)

    def _stops(self, score_NC: Tensor, flat_NC: Tensor, V: int) -> Tensor:
        """Which candidates are whole lines or whole texts, [N, C]."""
        stops_NC = torch.isin(flat_NC % V, self.stop_ids)
        if self.steps.is_certain:
            return stops_NC
        for i, c in (stops_NC & (score_NC > NEVER)).nonzero().tolist():
            beam, token = divmod(int(flat_NC[i, c]), V)
            tokens = (*self.history_NKS[i, beam].tolist(), token)
            stops_NC[i, c] = token in self.ends or self.steps.ends(tokens)
        return stops_NC

    def _collect(
        self, score_NC: Tensor, flat_NC: Tensor, stops_NC: Tensor, logprob_NKV: Tensor
    ) -> None:
        """Note the candidates that end here."""
        length, V = self.history_NKS.shape[2] + 1, logprob_NKV.shape[2]
        is_last_N = torch.tensor(
            [length >= self.found[n].limit for n in self.live], device=score_NC.device
        )
        ends_NC = (stops_NC | is_last_N[:, None]) & (score_NC > NEVER)
        for i, c in ends_NC.nonzero().tolist():
            beam, token = divmod(int(flat_NC[i, c]), V)
            tokens = (*self.history_NKS[i, beam].tolist(), token)
            logprobs = (*self.logprobs_NKS[i, beam].tolist(), float(logprob_NKV[i, beam, token]))
            line = Generated(tokens, logprobs, self._stop(tokens))
            self.found[self.live[i]].lines.append((float(score_NC[i, c]), line))

    def _stop(self, tokens: Sequence[int]) -> Stop:
        if tokens[-1] in self.ends:
            return "end"
        return "boundary" if self.steps.ends(tokens) else "length"

    def _advance(self, flat_NK: Tensor, logprob_NKV: Tensor) -> None:
        """Each beam becomes the candidate chosen for it: (beam it grew from) * V + token."""
        V = logprob_NKV.shape[2]
        beam_NK, token_NK = flat_NK // V, flat_NK % V
        picked_NK = logprob_NKV.flatten(1).gather(1, flat_NK)
        back_NKS = beam_NK[..., None].expand(-1, -1, self.history_NKS.shape[2])
        self.suffix.reorder(beam_NK)
        self.history_NKS = torch.cat(
            (self.history_NKS.gather(1, back_NKS), token_NK[..., None]), dim=2
        )
        self.logprobs_NKS = torch.cat(
            (self.logprobs_NKS.gather(1, back_NKS), picked_NK[..., None]), dim=2
        )
        self.total_NK = self.total_NK.gather(1, beam_NK) + picked_NK
        if self.stream_NK is not None:
            self.stream_NK = follow(self.stream_NK.gather(1, beam_NK), token_NK)
        self.tokens_NK = token_NK

    def _retire(self) -> None:
        """Drop the prefixes that are settled or have reached their limit."""
        length = self.history_NKS.shape[2]
        best_open = self.score_NK[:, 0].tolist()
        keep = [
            i
            for i, n in enumerate(self.live)
            if length < self.found[n].limit
            and not self.found[n].is_settled(self.count, best_open[i])
        ]
        if len(keep) == len(self.live):
            return
        self.live = [self.live[i] for i in keep]
        index = torch.tensor(keep, dtype=torch.long, device=self.score_NK.device)
        self.prefix, self.suffix = self.prefix.take(index), self.suffix.take(index)
        self.tokens_NK, self.score_NK = self.tokens_NK[index], self.score_NK[index]
        self.total_NK = self.total_NK[index]
        if self.stream_NK is not None:
            self.stream_NK = self.stream_NK[index]
        self.history_NKS, self.logprobs_NKS = self.history_NKS[index], self.logprobs_NKS[index]
