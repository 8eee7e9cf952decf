"""Whole texts for many prefixes at once, one job each, with or without drafts.

A text that has ended leaves the batch and the next one comes in.

Shapes: N live texts, Q = 1 + drafted tokens a step, V vocabulary.
"""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from agent.engine.draft_choice import NONE, Drafter, Drafts
from agent.engine.feed import by_job, feed, prefill
from agent.engine.job_cache import Ids
from agent.engine.prefix_cache import Workspace
from agent.engine.requests import Completion, CompletionRequest, Generated
from agent.engine.sampling import SamplingParameters
from search.state import Stop

NO_DRAFT = -1
NOT_FINITE = "the policy's logits are not finite"
StopOf = Callable[[Sequence[int]], Stop | None]


class CompletionBatch:
    def __init__(
        self,
        space: Workspace,
        requests: Sequence[CompletionRequest],
        limits: Sequence[int],
        stop_of: StopOf,
        drafter: Drafter | None,
        max_jobs: int,
    ) -> None:
        """`stop_of` says of what a text has written whether that is all of it, and why."""
        num = len(requests)
        self.network, self.tree, self.cache = space.network, space.tree, space.cache
        self.loop = space.loop
        self.requests, self.limits, self.stop_of = requests, limits, stop_of
        self.drafter = drafter
        self.max_jobs = max_jobs
        self.live: list[int] = []
        """The request of each job of the cache."""
        self.parameters = SamplingParameters.of([], space.network.device)
        self.waiting = deque(range(num))
        self.done: list[list[int]] = [[] for _ in range(num)]
        self.logprobs: list[list[float]] = [[] for _ in range(num)]
        self.processed_logprobs: list[list[float]] = [[] for _ in range(num)]
        self.stops: list[Stop] = ["length"] * num
        self.errors = [""] * num
        self.drafted, self.accepted = [0] * num, [0] * num

    def run(self) -> list[Completion]:
        while self.waiting or self.live:
            if self.waiting and len(self.live) <= self.max_jobs * 3 // 4:
                self._admit()
            if self.live:
                self._step()
        return [self._text(n) for n in range(len(self.requests))]

    def _text(self, n: int) -> Completion:
        generated = Generated(
            tuple(self.done[n]),
            tuple(self.logprobs[n]),
            self.stops[n],
            tuple(self.processed_logprobs[n]),
            self.tree.version,
        )
        return Completion(generated, self.drafted[n], self.accepted[n], self.errors[n])

    def _admit(self) -> None:
        num = min(len(self.waiting), self.max_jobs - len(self.live))
        new = [self.waiting.popleft() for _ in range(num)]
        first = len(self.live)
        longest = max(len(self.requests[n].prefix) + self.limits[n] for n in new)
        self.cache.expect(first + num, longest)
        prefixes = [self.requests[n].prefix for n in new]
        opened = prefill(self.network, self.cache, self.tree, prefixes)
        order = np.argsort(opened.jobs)
        self.live += [new[i] for i in order.tolist()]
        self.parameters = SamplingParameters.of(
            [self.requests[n] for n in self.live], self.network.device
        )
        logits_NQV = self.network.logits(opened.hidden_NE[torch.from_numpy(order)])[:, None]
        self._take(np.arange(first, len(self.live)), logits_NQV, NONE)

    def _step(self) -> None:
        """One forward: each text's last token and its draft; keep what the policy would say."""
        live = self.live
        drafts = (
            self.drafter.drafts(
                [self.requests[n] for n in live],
                [self.done[n] for n in live],
                [self.limits[n] - len(self.done[n]) - 1 for n in live],
                self.cache,
            )
            if self.drafter
            else NONE
        )
        rows = [[self.done[n][-1]] for n in live]
        for row, draft in zip(rows, drafts.tokens, strict=False):
            row += draft
        if not drafts.tokens:
            self._decode([row[0] for row in rows])
            return
        jobs = np.arange(len(live))
        logits_RV = self.network.logits(feed(self.network, self.cache, jobs, rows))
        self._take(jobs, by_job(logits_RV, np.array([len(row) for row in rows])), drafts)

    def _decode(self, last: Sequence[int]) -> None:
        """One token of each text, or several where that costs little, without drafts. Who drafts
        is asked again after them."""
        left = max(self.limits[n] - len(self.done[n]) for n in self.live)
        places = [len(self.done[n]) for n in self.live]
        found = self.loop.run(last, places, self.parameters, min(self.loop.num_steps, left))
        ended = []
        for job, n in enumerate(self.live):
            is_bad = found.is_bad[job]
            num = is_bad.index(True) if True in is_bad else len(is_bad)
            goes_on = not num or self._write(
                n, found.tokens[job], found.logprob[job], found.processed_logprob[job], num
            )
            if goes_on and num < len(is_bad):
                self.errors[n] = NOT_FINITE
            if not goes_on or num < len(is_bad):
                ended.append(job)
        # What a text wrote after its end is dropped, but not what it left in the cache.
        self.cache.wipe([job for job in ended if True in found.is_bad[job]])
        self._retire(ended)

    def _take(
        self,
        jobs: Ids,
        logits_NQV: Tensor,
        drafts: Drafts,
    ) -> None:
        """Choose tokens of some jobs, keep those that the drafts guessed, retire what ended."""
        parameters = (
            self.parameters
            if len(jobs) == len(self.live)
            else self.parameters.take(torch.from_numpy(jobs))
        )
        chosen = [self.live[j] for j in jobs.tolist()]
        device = logits_NQV.device
        position_N = torch.tensor([len(self.done[n]) for n in chosen], device=device)
        draft_NK = torch.full((len(chosen), logits_NQV.shape[1] - 1), NO_DRAFT)
        for i, draft in enumerate(drafts.tokens):
            draft_NK[i, : len(draft)] = torch.tensor(draft, dtype=torch.int64)
        found = parameters.choose(logits_NQV, draft_NK.to(device), position_N)
        choices, raw = found.tokens.tolist(), found.logprob.tolist()
        processed = found.processed_logprob.tolist()
        # Places behind a shorter draft hold zeros.
        is_bad = (~torch.isfinite(logits_NQV.flatten(1).sum(dim=1))).tolist()
        accepted = found.num_accepted.tolist() if drafts.tokens else []
        if self.drafter and accepted:
            self.drafter.note(drafts, accepted)
        ended = list[int]()
        for i, (job, n) in enumerate(zip(jobs.tolist(), chosen, strict=True)):
            num = accepted[i] if accepted else 0
            if accepted:
                self.drafted[n] += len(drafts.tokens[i])
                self.accepted[n] += num
                self.cache.lengths[job] -= len(drafts.tokens[i]) - num
            if is_bad[i]:
                self.errors[n] = NOT_FINITE
                ended.append(job)
            elif not self._write(n, choices[i], raw[i], processed[i], num + 1):
                ended.append(job)
        self._retire(ended)

    def _write(
        self,
        n: int,
        tokens: Sequence[int],
        raw: Sequence[float],
        processed: Sequence[float],
        num: int,
    ) -> bool:
        """Append `num` tokens to a text up to its end; True when it goes on."""
        done = self.done[n]
        for i in range(num):
            done.append(tokens[i])
            self.logprobs[n].append(raw[i])
            self.processed_logprobs[n].append(processed[i])
            if (stop := self.stop_of(done)) is not None:
                self.stops[n] = stop
                return False
            if len(done) >= self.limits[n]:
                return False
        return True

    def _retire(self, ended: Sequence[int]) -> None:
        if not ended:
            return
        self.cache.wipe([j for j in ended if self.errors[self.live[j]]])
        kept = self.cache.close(ended)
        self.live = [self.live[j] for j in kept.tolist()]
        self.parameters = self.parameters.take(torch.from_numpy(kept).to(self.network.device))
