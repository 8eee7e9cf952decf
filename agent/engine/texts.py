"""Whole texts for many prefixes at once, one row each, with or without drafts.

Shapes: N live rows, Q = 1 + drafted tokens a step, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from agent.engine.decoder import Decoder, Prefix, Suffix
from agent.engine.requests import Generated, Text, TextRequest
from agent.engine.speculative import Drafter, accept, draft_length
from kernels.noise import gumbel
from search.state import Stop


class Texts:
    """One batch of texts. A row that has ended leaves the batch."""

    def __init__(
        self, decoder: Decoder, prefix: Prefix, last_N: Tensor, requests: Sequence[TextRequest],
        limits: Sequence[int], stop_of: Callable[[Sequence[int]], Stop | None],
        drafter: Drafter | None,
    ) -> None:  # fmt: skip
        """`stop_of` says of what a row has written whether that is a whole text, and why."""
        num, device = len(requests), last_N.device
        self.decoder = decoder
        self.requests = requests
        self.limits = limits
        self.stop_of = stop_of
        self.stops: list[Stop] = ["length"] * num
        self.drafter = drafter
        self.prefix = prefix
        self.suffix: Suffix = decoder.new_suffix(num, 1)
        self.last_N = last_N
        self.seeds_N = torch.tensor([r.seed for r in requests], device=device)
        self.heat_N = torch.tensor([r.temperature for r in requests], device=device)
        self.live = list(range(num))
        self.done: list[list[int]] = [[] for _ in range(num)]
        self.logprobs: list[list[float]] = [[] for _ in range(num)]
        self.errors = [""] * num
        self.drafted, self.accepted = [0] * num, [0] * num

    def run(self) -> list[Text]:
        while self.live:
            self._step()
        return [self._text(n) for n in range(len(self.requests))]

    def _text(self, n: int) -> Text:
        generated = Generated(tuple(self.done[n]), tuple(self.logprobs[n]), self.stops[n])
        return Text(generated, self.drafted[n], self.accepted[n], self.errors[n])

    def _drafts(self) -> list[list[int]]:
        length = draft_length(self.drafter, len(self.live)) if self.drafter else 0
        if self.drafter is None or length == 0:
            return [[] for _ in self.live]
        return self.drafter.draft(
            [self.requests[n] for n in self.live],
            [self.done[n] for n in self.live],
            [min(length, self.limits[n] - len(self.done[n]) - 1) for n in self.live],
        )

    def _step(self) -> None:
        """One forward: each row's last token and its draft; keep what the policy would say."""
        drafts = self._drafts()
        step_NQ = self.last_N.new_zeros((len(self.live), 1 + max(map(len, drafts))))
        step_NQ[:, 0] = self.last_N
        for i, draft in enumerate(drafts):
            step_NQ[i, 1 : 1 + len(draft)] = torch.tensor(draft, dtype=torch.long)
        logits_NQV = self.decoder.decode(step_NQ[:, None], self.prefix, self.suffix)[:, 0].float()
        logprob_NQV = torch.log_softmax(logits_NQV, dim=-1)
        choice_NQ = choose(logprob_NQV, self.heat_N, self.seeds_N, self.suffix.position_NK)
        counts = accept(drafts, choice_NQ)
        picked_NQ = logprob_NQV.gather(2, choice_NQ[..., None])[..., 0].tolist()
        is_bad_N = (~torch.isfinite(logits_NQV).all(dim=(1, 2))).tolist()
        choices, keep = choice_NQ.tolist(), list[int]()
        for i, n in enumerate(self.live):
            self.drafted[n] += len(drafts[i])
            self.accepted[n] += counts[i]
            if is_bad_N[i]:
                self.errors[n] = "the policy's logits are not finite"
            elif self._write(n, choices[i][: counts[i] + 1], picked_NQ[i]):
                keep.append(i)
        self._retire(keep, counts)

    def _write(self, n: int, tokens: Sequence[int], logprobs: Sequence[float]) -> bool:
        """Append tokens to a text up to its end; True when it goes on."""
        for token, logprob in zip(tokens, logprobs, strict=False):
            self.done[n].append(token)
            self.logprobs[n].append(logprob)
            if (stop := self.stop_of(self.done[n])) is not None:
                self.stops[n] = stop
                return False
            if len(self.done[n]) >= self.limits[n]:
                return False
        return True

    def _retire(self, keep: Sequence[int], counts: Sequence[int]) -> None:
        """Advance the rows that go on by what was kept of their tokens, and drop the others."""
        device = self.last_N.device
        self.suffix.position_NK[:, 0] += torch.tensor(counts, device=device) + 1
        if len(keep) < len(self.live):
            index = torch.tensor(keep, dtype=torch.long, device=device)
            self.prefix, self.suffix = self.prefix.take(index), self.suffix.take(index)
            self.seeds_N, self.heat_N = self.seeds_N[index], self.heat_N[index]
            self.live = [self.live[i] for i in keep]
        self.last_N = torch.tensor([self.done[n][-1] for n in self.live], device=device)


def choose(
    logprob_NQV: Tensor, temperature_N: Tensor, seeds_N: Tensor, position_N1: Tensor
) -> Tensor:
    """The policy's token at each of Q places, [N, Q]: argmax(log p / T + Gumbel noise).

    The noise depends on (seed, position, token) only. A drafter that adds the same noise to its
    own log-probabilities proposes the same token wherever the two laws agree (Gumbel coupling;
    Daliri, Musco, Suresh, arXiv 2408.07978), so drafting can never change what is written.
    """
    N, Q, V = logprob_NQV.shape
    if not bool((temperature_N > 0).any()):
        return logprob_NQV.argmax(dim=-1)
    position_NQ = position_N1 + torch.arange(Q, device=logprob_NQV.device)
    seeds_NQ = seeds_N[:, None].expand(N, Q)
    noise_NQV = gumbel(seeds_NQ.reshape(-1), position_NQ.reshape(-1), V).view(N, Q, V)
    return (logprob_NQV + temperature_N[:, None, None] * noise_NQV).argmax(dim=-1)
