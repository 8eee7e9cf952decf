"""Drafts by a small model that keeps its place in every text."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from agent.engine.feed import feed, prefill
from agent.engine.job_cache import Cache, Ids
from agent.engine.prefix_cache import KVTree
from agent.engine.requests import CompletionRequest
from agent.engine.sampling import SamplingParameters
from agent.networks.inference import InferenceNetwork
from agent.networks.pictures import without_pictures

MAX_TEXTS = 1024
"""Texts that a session keeps its place in."""


class ModelDrafts:
    """One drafter's session: a job for each text it has drafted for.

    Only speed depends on what it holds: a call gives the whole text, so a session that was lost
    or has never seen the text reads it again.
    """

    name = "model"
    least_columns = 0

    def __init__(self, network: InferenceNetwork, version: str, kv_bytes: int) -> None:
        self.network = network
        self.version, self.kv_bytes = version, kv_bytes
        self._forget()

    def for_short_texts(self) -> "ModelDrafts":
        return self

    def _forget(self) -> None:
        self.cache = Cache(self.network)
        self.tree = KVTree(self.network, self.version, self.kv_bytes)
        self.texts: list[CompletionRequest] = []
        """The text of each job."""
        self.fed: list[list[int]] = []
        """Tokens after the prefix that each job's columns hold."""

    @torch.inference_mode()
    def draft(
        self,
        requests: Sequence[CompletionRequest],
        done: Sequence[Sequence[int]],
        lengths: Sequence[int],
        cache: Cache | None = None,
    ) -> list[list[int]]:
        """At most `lengths` tokens for each text, chosen with the noise that the policy uses.

        A text has one token of its own, at least. Of equal texts one is drafted. The policy's
        cache is not looked at.
        """
        if not self.network.reads_pictures:
            requests = [replace(r, prefix=without_pictures(r.prefix)) for r in requests]
        wanted = list({requests[i]: i for i, length in enumerate(lengths) if length > 0}.values())
        drafts: list[list[int]] = [[] for _ in requests]
        if not wanted:
            return drafts
        jobs = self._jobs([requests[i] for i in wanted])
        rows = [self._rewound(j, done[i]) for j, i in zip(jobs.tolist(), wanted, strict=True)]
        parameters = SamplingParameters.of([requests[i] for i in wanted], self.network.device)
        position = np.array([len(done[i]) for i in wanted])
        longest = max(lengths[i] for i in wanted)
        for step in range(longest):
            hidden = feed(self.network, self.cache, jobs, rows)
            for job, row in zip(jobs.tolist(), rows, strict=True):
                self.fed[job] += row
            last = np.cumsum([len(row) for row in rows]) - 1
            logits = self.network.logits(hidden[torch.from_numpy(last).to(hidden.device)])
            place = torch.from_numpy(position + step).to(hidden.device)
            none = torch.empty((len(logits), 0), dtype=torch.int64, device=hidden.device)
            chosen = parameters.choose(logits[:, None], none, place).tokens[:, 0].tolist()
            rows = [[token] for token in chosen]
            for i, token in zip(wanted, chosen, strict=True):
                drafts[i].append(token)
        return [draft[:length] for draft, length in zip(drafts, lengths, strict=True)]

    def _jobs(self, requests: Sequence[CompletionRequest]) -> Ids:
        """The jobs of these texts in rising order of the texts' own; new texts are read first."""
        known = {text: job for job, text in enumerate(self.texts)}
        new = list(dict.fromkeys(r for r in requests if r not in known))
        if len(self.texts) + len(new) > MAX_TEXTS:
            self._forget()
            known, new = {}, list(dict.fromkeys(requests))
        if new:
            # The last token of a prefix is fed with the draft, so that it has logits then.
            opened = prefill(self.network, self.cache, self.tree, [r.prefix for r in new])
            for i in np.argsort(opened.jobs).tolist():
                known[new[i]] = len(self.texts)
                self.texts.append(new[i])
                self.fed.append([])
        return np.array([known[r] for r in requests])

    def _rewound(self, job: int, done: Sequence[int]) -> list[int]:
        """Take back what was guessed wrong; the tokens of the text still to feed, one at least."""
        fed = self.fed[job]
        same = 0
        while same < min(len(fed), len(done) - 1) and fed[same] == done[same]:
            same += 1
        self.cache.lengths[job] -= len(fed) - same
        del fed[same:]
        return list(done[same:])
