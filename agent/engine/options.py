"""Different options after many prefixes at once: one enumeration each, fed together.

Partial options of a prefix share its columns in the cache and see them, their own beginning and
themselves; a job that has its options leaves the batch and the next one comes in. An enumeration
stays in the tree of keys and values under its prefix, to be taken up when more options are wanted.

Shapes: N jobs, M partial options of a job fed at once, C columns, R rows fed, V vocabulary.
"""

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agent.engine.enumeration import Enumeration, Partial, StopOf
from agent.engine.feed import prefill, within
from agent.engine.forward import Where, forward
from agent.engine.job_cache import Ids
from agent.engine.prefix_cache import KeptWork, Segment, Workspace
from agent.engine.requests import Generated, OptionRequest, Options, Tokens
from kernels.block_choice import LARGE_VOCABULARY
from kernels.noise import follow, gumbel

NEVER = float("-inf")
LEAST_LOGPROB = -12.0
"""Among the most probable options none below this (6 in a million): nothing is fed for them."""
CONTINUATIONS = 32
"""Of one partial option, at most."""


@dataclass(slots=True)
class _Job:
    index: int
    """Of the request."""
    request: OptionRequest
    work: Enumeration


class OptionBatch:
    """Requests of one mode, boundary and, where options are drawn, temperature."""

    def __init__(
        self,
        space: Workspace,
        requests: Sequence[OptionRequest],
        limits: Sequence[int],
        stop_of: StopOf,
        max_jobs: int,
    ) -> None:
        self.network, self.tree, self.cache = space.network, space.tree, space.cache
        self.requests, self.limits, self.stop_of = requests, limits, stop_of
        self.is_drawn = requests[0].mode == "drawn"
        self.temperature = requests[0].temperature if self.is_drawn else 1.0
        self.max_jobs = max_jobs
        self.jobs: list[_Job] = []
        self.answers: dict[int, Options] = {}
        self.waiting = deque(range(len(requests)))

    def run(self) -> list[Options]:
        while self.waiting or self.jobs:
            if self.waiting and len(self.jobs) <= self.max_jobs * 3 // 4:
                self._admit()
            self._step()
        return [self.answers[i] for i in range(len(self.requests))]

    def _prefix(self, i: int) -> Tokens:
        return self.requests[i].prefix

    def _key(self, i: int) -> Hashable:
        """What an enumeration depends on beside its prefix."""
        request = self.requests[i]
        seed = request.seed if self.is_drawn else 0
        return (request.mode, request.boundary.name, self.limits[i], seed, self.temperature)

    def _admit(self) -> None:
        """Take up waiting requests: those that were begun before, and new ones."""
        chosen = [
            self.waiting.popleft()
            for _ in range(min(len(self.waiting), self.max_jobs - len(self.jobs)))
        ]
        known: dict[int, Segment] = {}
        taken_up: set[int] = set()
        for i in chosen:
            segment = self.tree.kept_work(self._prefix(i), self._key(i))
            if segment is None:
                continue
            if not self._is_answered(i, segment):
                # Of equal requests one goes on with what is known; it must not be fed twice.
                if id(segment) in taken_up:
                    continue
                taken_up.add(id(segment))
            known[i] = segment
            self.tree.pin(segment)
        for i, segment in known.items():
            request, work = self.requests[i], segment.payload
            if self._is_answered(i, segment):
                self._answer(i, work)
                continue
            _, ids = self.tree.match(self._prefix(i))
            job = self.cache.open([len(ids) + work.num_columns])
            self.tree.load(self.cache, job, [ids])
            self.tree.restore(segment, self.cache, int(job[0]), len(ids))
            self.jobs.append(_Job(i, request, work))
        for i, segment in known.items():
            self.tree.unpin(segment)
            if any(job.index == i for job in self.jobs):
                self.tree.drop_work(self._prefix(i), self._key(i))
        new = [i for i in chosen if i not in known]
        if new:
            self._begin(new)

    def _is_answered(self, i: int, segment: Segment) -> bool:
        work: Enumeration = segment.payload
        return len(work.options) >= self.requests[i].count or work.is_exhausted

    def _begin(self, new: Sequence[int]) -> None:
        opened = prefill(self.network, self.cache, self.tree, [self._prefix(i) for i in new])
        by_job = np.argsort(opened.jobs)
        roots: list[tuple[Enumeration, Partial]] = []
        for n in by_job.tolist():
            request = self.requests[new[n]]
            work = Enumeration(self.limits[new[n]], self.stop_of)
            self.jobs.append(_Job(new[n], request, work))
            stream = request.seed if self.is_drawn else 0
            roots.append((work, Partial((), (), 0.0, stream)))
        self._note(roots, self.network.logits(opened.hidden_NE[torch.from_numpy(by_job)]))

    def _step(self) -> None:
        """Retire the jobs that are done, and feed the partial options of the others."""
        chosen = [job.work.next(job.request.count) for job in self.jobs]
        done = [n for n, partials in enumerate(chosen) if not partials]
        if done:
            chosen = [chosen[n] for n in self._retire(done)]
        if self.jobs:
            fed = [(job.work, p) for job, part in zip(self.jobs, chosen, strict=True) for p in part]
            self._note(fed, self._forward(chosen))

    def _retire(self, done: Sequence[int]) -> list[int]:
        """Answer and drop jobs; for each that stays its index before."""
        kept: list[KeptWork] = []
        for n in done:
            job = self.jobs[n]
            self._answer(job.index, job.work)
            if job.work.error:
                self.cache.wipe([n])
                continue
            end = int(self.cache.lengths[n])
            columns = np.arange(end - job.work.num_columns, end)
            key = self._key(job.index)
            kept.append(KeptWork(self._prefix(job.index), key, job.work, n, columns))
        self.tree.keep_work(self.cache, kept)
        order: list[int] = self.cache.close(done).tolist()
        self.jobs = [self.jobs[n] for n in order]
        return order

    def _answer(self, i: int, work: Enumeration) -> None:
        request = self.requests[i]
        options = tuple(
            Generated(option.tokens, option.logprobs, option.stop, version=self.tree.version)
            for option in work.best(request.count, not self.is_drawn)
        )
        spent = work.spent(request.count) - work.spent(min(request.known, request.count))
        self.answers[i] = Options(options, spent, work.error)

    def _forward(self, chosen: Sequence[Sequence[Partial]]) -> Tensor:
        """Logits [R, V] after each partial option, job by job."""
        N, M = len(chosen), max(len(part) for part in chosen)
        counts = np.array([len(part) for part in chosen])
        query_R = within(counts)
        job_R = np.repeat(np.arange(N), counts)
        prefix_N = self.cache.lengths - np.array([job.work.num_columns for job in self.jobs])
        column_R = np.repeat(self.cache.append(np.arange(N), counts), counts) + query_R
        rows = [p for part in chosen for p in part]
        for job, part in zip(self.jobs, chosen, strict=True):
            job.work.num_columns += len(part)
        for partial, column in zip(rows, column_R.tolist(), strict=True):
            partial.columns = (*partial.columns, column)
        is_hidden = np.ones((N, M, self.cache.num_columns), np.bool_)
        is_hidden[
            np.broadcast_to(
                (np.arange(self.cache.num_columns) < prefix_N[:, None])[:, None], is_hidden.shape
            )
        ] = False
        depth_R = np.fromiter((len(p.columns) for p in rows), np.int64, len(rows))
        seen = np.fromiter((c for p in rows for c in p.columns), np.int64, int(depth_R.sum()))
        is_hidden[np.repeat(job_R, depth_R), np.repeat(query_R, depth_R), seen] = False
        position_R = np.repeat(prefix_N, counts) + depth_R - 1
        where = Where(slice(0, N), job_R, query_R, column_R, position_R)
        tokens = np.fromiter((p.tokens[-1] for p in rows), np.int64, len(rows))
        is_dense = len(rows) == N * M
        hidden = forward(self.network, self.cache, tokens, where, is_hidden, is_dense)
        return self.network.logits(hidden)

    def _note(self, fed: Sequence[tuple[Enumeration, Partial]], logits_RV: Tensor) -> None:
        """Tell each enumeration how the partial options that were fed may go on."""
        is_finite = torch.isfinite(logits_RV.sum(dim=-1)).tolist()
        logprob_RV = torch.log_softmax(logits_RV, dim=-1).nan_to_num(NEVER)
        num = min(CONTINUATIONS, logprob_RV.shape[1])
        streams: Ids | None = None
        token_RC: Tensor | None = None
        drawn_RV = logprob_RV
        if self.is_drawn:
            if self.temperature != 1.0:
                drawn_RV = torch.log_softmax(logprob_RV / self.temperature, dim=-1)
            streams, rank_RV = self._perturbed([p for _, p in fed], drawn_RV)
        else:
            if (
                logprob_RV.shape[1] >= LARGE_VOCABULARY
            ):  # the rest is done with those alone that count
                logprob_RV, token_RC = logprob_RV.topk(num, dim=1)
            parent_R = torch.tensor([p.score for _, p in fed], dtype=torch.float64)
            rank_RV = parent_R.to(logprob_RV.device)[:, None] + logprob_RV.double()
            rank_RV = rank_RV.masked_fill(rank_RV < LEAST_LOGPROB, NEVER)
        score_RC, at_RC = rank_RV.topk(num, dim=1)
        logprobs = logprob_RV.gather(1, at_RC).double().cpu().numpy()
        drawn = logprobs
        if self.temperature != 1.0:
            drawn = drawn_RV.gather(1, at_RC).double().cpu().numpy()
        token_RC = at_RC if token_RC is None else token_RC.gather(1, at_RC)
        num_R = (score_RC > NEVER).sum(dim=1).tolist()
        scores, tokens = score_RC.cpu().numpy(), token_RC.cpu().numpy()
        for r, (work, partial) in enumerate(fed):
            if streams is not None:
                partial.stream = int(streams[r])
            if not is_finite[r]:
                work.error = "the policy's logits are not finite"
                num_R[r] = 0
            n = num_R[r]
            scores_n, logprobs_n = scores[r, :n].copy(), logprobs[r, :n].copy()
            drawn_n = logprobs_n if drawn is logprobs else drawn[r, :n].copy()
            work.fed(partial, scores_n, tokens[r, :n].copy(), logprobs_n, drawn_n)

    def _perturbed(self, partials: Sequence[Partial], logprob_RV: Tensor) -> tuple[Ids, Tensor]:
        """The partials' streams, and what their continuations are ordered by, [R, V].

        G of a continuation is its log-probability plus Gumbel noise, shifted so that the largest
        among a partial's continuations equals the partial's own G (Kool et al., appendix B.3).
        """
        V = logprob_RV.shape[1]
        device = logprob_RV.device
        stream_R = torch.tensor([p.stream for p in partials], device=device)
        last_R = torch.tensor([p.tokens[-1] if p.tokens else 0 for p in partials], device=device)
        is_root_R = torch.tensor([not p.tokens for p in partials], device=device)
        stream_R = torch.where(is_root_R, stream_R, follow(stream_R, last_R))
        total_R1 = torch.tensor([[p.total] for p in partials], dtype=torch.float64, device=device)
        parent_R1 = torch.tensor([[p.score] for p in partials], dtype=torch.float64, device=device)
        noise_RV = gumbel(stream_R, torch.zeros_like(stream_R), V).double()
        free_RV = total_R1 + logprob_RV.double() + noise_RV
        top_R1 = free_RV.amax(dim=1, keepdim=True)
        v = parent_R1 - free_RV + torch.log1p(-torch.exp(free_RV - top_R1))
        rank_RV = parent_R1 - v.clamp(min=0) - torch.log1p(torch.exp(-v.abs()))
        rank_RV = rank_RV.masked_fill(~(logprob_RV > NEVER), NEVER)
        return stream_R.cpu().numpy(), rank_RV.nan_to_num(NEVER, neginf=NEVER)
