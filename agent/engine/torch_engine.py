"""The engine in plain torch: many prefixes at once, one forward a token, keys and values kept.

Calls are answered in the order of their requests; what shares a batch, what the tree of keys and
values holds, and drafts change the time they take and nothing else.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch

from agent.engine.backend import Capabilities
from agent.engine.completions import CompletionBatch, StopOf
from agent.engine.decode import DecodeLoop
from agent.engine.draft_choice import Drafter, SelfTest
from agent.engine.feed import feed, prefill
from agent.engine.job_cache import Cache
from agent.engine.memory import in_smaller_batches
from agent.engine.option_ends import Steps
from agent.engine.options import OptionBatch
from agent.engine.packed import packed_likeliest, packed_logprobs
from agent.engine.prefix_cache import KVTree, Workspace
from agent.engine.requests import (
    Completion,
    CompletionRequest,
    Generated,
    Likeliest,
    OptionRequest,
    Options,
    ScoreRequest,
    Tokens,
    refuse_pictures,
)
from agent.engine.selftest import run_selftest
from agent.networks.language_model import LanguageModel
from agent.networks.registry import laid_out
from agent.networks.shared_blocks import SharedBlocks
from search.boundary import Boundary
from search.errors import TaskError
from search.settings import ProposalRule
from search.state import Stop


class TorchEngine:
    """Generation and scoring by one set of weights."""

    def __init__(
        self,
        model: LanguageModel,
        steps: Callable[[Boundary], Steps],
        end_ids: Sequence[int],
        batch_rows: int = 512,
        version: str = "",
        kv_bytes: int = 2**28,
        shared: SharedBlocks | None = None,
    ) -> None:
        """`steps` finds a boundary in the vocabulary; `kv_bytes` bounds the kept prefixes; blocks
        that other engines have too are in `shared`."""
        self.network = laid_out(model, shared)
        self.version = version
        self.kv_bytes = kv_bytes
        self.tree = KVTree(self.network, version, kv_bytes)
        self.loop = DecodeLoop(self.network, Cache(self.network))
        """With the cache of the jobs under way, kept from call to call."""
        self.batch_rows = batch_rows
        self.steps = steps
        self.ends = frozenset(end_ids)

    @property
    def capabilities(self) -> Capabilities:
        modes: frozenset[ProposalRule] = frozenset(("distinct", "drawn", "sampled"))
        return Capabilities("torch", modes, self.network.arch.max_positions)

    def update_weights(self, source: LanguageModel, version: str) -> None:
        """Go on with other weights. Nothing that the old ones computed can be reached again."""
        self.network = laid_out(source)
        self.version = version
        self.loop = DecodeLoop(self.network, Cache(self.network))
        self.forget()

    @property
    def cache(self) -> Cache:
        return self.loop.cache

    def _space(self) -> Workspace:
        """Ready for new jobs."""
        self.cache.clear()
        return Workspace(self.network, self.loop, self.tree)

    def forget(self) -> None:
        """Drop all kept prefixes. Costs time, changes no answer."""
        self.tree = KVTree(self.network, self.version, self.kv_bytes)

    def room(self, prefix: Sequence[int], max_tokens: int) -> int:
        """Tokens that may follow the prefix. Raises TaskError when none may."""
        left = self.network.arch.max_positions - len(prefix)
        if left < 1 or not prefix:
            raise TaskError(
                f"the prompt has {len(prefix)} tokens; this policy's context holds "
                f"{self.network.arch.max_positions} with the answer",
                "shorten the problem or use a policy with a longer context",
            )
        return min(left, max_tokens)

    def _check(self, texts: Iterable[Sequence[int]]) -> None:
        """Raises TaskError for a text with a picture that this network cannot see."""
        if not self.network.reads_pictures:
            refuse_pictures(texts)

    @torch.inference_mode()
    def options(self, requests: Sequence[OptionRequest]) -> list[Options]:
        """Answer option requests; those of one mode, boundary and temperature share batches."""
        self._check(r.prefix for r in requests)
        groups: dict[tuple[str, str, float], list[int]] = {}
        for i, r in enumerate(requests):
            self.room(r.prefix, r.max_tokens)
            heat = r.temperature if r.mode == "drawn" else 1.0
            groups.setdefault((r.mode, r.boundary.name, heat), []).append(i)
        answers: dict[int, Options] = {}
        for (mode, *_), group in sorted(groups.items()):
            ask = self._sampled_options if mode == "sampled" else self._enumerated_options
            found = ask([requests[i] for i in group])
            answers.update(zip(group, found, strict=True))
        return [self._bounded(r, answers[i]) for i, r in enumerate(requests)]

    def _enumerated_options(self, requests: Sequence[OptionRequest]) -> list[Options]:
        steps = self.steps(requests[0].boundary)

        def run(part: Sequence[OptionRequest], max_jobs: int) -> list[Options]:
            limits = [steps.limit(self.room(r.prefix, r.max_tokens)) for r in part]
            stop_of = self._option_stop(steps)
            return OptionBatch(self._space(), part, limits, stop_of, max_jobs).run()

        return in_smaller_batches(
            run, requests, max(1, self.batch_rows // 4), lambda r, why: Options((), 0, why)
        )

    def _bounded(self, request: OptionRequest, found: Options) -> Options:
        """An option that fills the context ends there, whatever its last token is."""
        room = self.network.arch.max_positions - len(request.prefix)
        options = [
            replace(option, stop="length")
            if option.stop == "boundary" and len(option.tokens) >= room
            else option
            for option in found.options
        ]
        return replace(found, options=tuple(options))

    def _option_stop(self, steps: Steps) -> Callable[[Sequence[int]], Stop | None]:
        def stop_of(tokens: Sequence[int]) -> Stop | None:
            return self._text_stop(tokens) or ("boundary" if steps.ends(tokens) else None)

        return stop_of

    def _sampled_options(self, requests: Sequence[OptionRequest]) -> list[Options]:
        steps = self.steps(requests[0].boundary)
        asked = [
            CompletionRequest(
                r.prefix,
                steps.limit(r.max_tokens),
                r.temperature,
                r.seed + 7919 * k,
            )
            for r in requests
            for k in range(r.count)
        ]
        texts = iter(self._generate(asked, None, self._option_stop(steps)))
        answers: list[Options] = []
        for request in requests:
            group = [next(texts) for _ in range(request.count)]
            answers.append(
                Options(
                    tuple(t.generated for t in group if not t.error),
                    sum(len(t.generated.tokens) for t in group[min(request.known, len(group)) :]),
                    next((t.error for t in group if t.error), ""),
                )
            )
        return answers

    @torch.inference_mode()
    def completions(
        self, requests: Sequence[CompletionRequest], drafter: Drafter | None = None
    ) -> list[Completion]:
        """Complete prefixes to the end of the text. A drafter changes the speed, not the text."""
        return self._generate(requests, drafter, self._text_stop)

    def _text_stop(self, tokens: Sequence[int]) -> Stop | None:
        return "end" if tokens[-1] in self.ends else None

    def _generate(
        self, requests: Sequence[CompletionRequest], drafter: Drafter | None, stop_of: StopOf
    ) -> list[Completion]:
        def run(part: Sequence[CompletionRequest], max_jobs: int) -> list[Completion]:
            limits = [self.room(r.prefix, r.max_tokens) for r in part]
            return CompletionBatch(self._space(), part, limits, stop_of, drafter, max_jobs).run()

        def failed(request: CompletionRequest, why: str) -> Completion:
            return Completion(Generated((), (), "length", version=self.version), error=why)

        self._check(r.prefix for r in requests)
        for r in requests:
            self.room(r.prefix, r.max_tokens)
        if drafter is not None:
            drafter.prove(requests)
        return in_smaller_batches(run, requests, self.batch_rows, failed)

    @torch.inference_mode()
    def score(self, requests: Sequence[ScoreRequest]) -> list[tuple[float, ...]]:
        """Log-probability of each token after the first `num_given`, given those before it.

        Rows that share beginnings go through as one tree, each of its tokens once.
        """
        for r in requests:
            self.room(r.tokens[:1], 1)
            self.room(r.tokens[:-1], 1)
        self._check(r.tokens for r in requests)
        found = packed_logprobs(self.network, [r.tokens for r in requests])
        return [
            tuple(scores[max(1, r.num_given) - 1 :])
            for r, scores in zip(requests, found, strict=True)
        ]

    @torch.inference_mode()
    def likeliest(self, requests: Sequence[ScoreRequest], num: int) -> list[Likeliest]:
        """In the place of each token that `score` would score the `num` most probable tokens, with
        their log-probabilities."""
        for r in requests:
            self.room(r.tokens[:-1], 1)
        self._check(r.tokens for r in requests)
        found = packed_likeliest(self.network, [r.tokens for r in requests], num)
        return [
            tuple(rows[max(1, r.num_given) - 1 :]) for r, rows in zip(requests, found, strict=True)
        ]

    @torch.inference_mode()
    def tail_logprobs(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """Log-probability of all tokens after the first `num_given` together; 0 where none are.

        What the tree of keys and values holds of a row is not read again; for rows that come back
        one step longer each time this is less work than `score`.
        """
        self._check(r.tokens for r in requests)
        answers = [0.0] * len(requests)
        scored = [i for i, r in enumerate(requests) if len(r.tokens) > r.num_given]
        for start in range(0, len(scored), self.batch_rows):
            part = scored[start : start + self.batch_rows]
            for i, found in zip(part, self._tails([requests[i] for i in part]), strict=True):
                answers[i] = found
        return answers

    def _tails(self, requests: Sequence[ScoreRequest]) -> list[float]:
        self.cache.clear()
        heads = [r.tokens[: r.num_given] for r in requests]
        opened = prefill(self.network, self.cache, self.tree, heads)
        order = [
            i
            for i in np.argsort(opened.jobs).tolist()
            if len(requests[i].tokens) > len(heads[i]) + 1
        ]
        after: dict[int, torch.Tensor] = {}
        if order:
            rows = [requests[i].tokens[requests[i].num_given : -1] for i in order]
            hidden = feed(self.network, self.cache, opened.jobs[order], rows)
            after = dict(zip(order, hidden.split([len(row) for row in rows]), strict=True))
            self.tree.store(
                self.cache,
                [(int(opened.jobs[i]), requests[i].tokens[:-1]) for i in order],
            )
        hidden_RE = torch.cat(
            [
                torch.cat([opened.hidden_NE[i : i + 1], after[i]])
                if i in after
                else opened.hidden_NE[i : i + 1]
                for i in range(len(requests))
            ]
        )
        target = torch.tensor([t for r in requests for t in r.tokens[r.num_given :]])
        at = torch.arange(len(target), device=hidden_RE.device)
        picked = self.network.logprobs_of(hidden_RE, target.to(at.device), at).cpu()
        sums = [
            float(part.double().sum())
            for part in picked.split([len(r.tokens) - r.num_given for r in requests])
        ]
        self.cache.wipe([int(opened.jobs[i]) for i, x in enumerate(sums) if not math.isfinite(x)])
        return sums

    def next_logprobs(self, rows: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """log p(next token | row) at temperature 1, [N, V]."""
        return torch.log_softmax(self.last_logits(rows), dim=-1)

    def selftest(self, drafter: Drafter | None = None) -> SelfTest:
        """Texts after one token, or after as many as the drafter's sources need, against their
        exact distribution; see `selftest`."""
        needed = max((s.least_columns for s in drafter.sources), default=0) if drafter else 0
        return run_selftest(self, (max(self.ends),) * (1 + needed), drafter)

    @torch.inference_mode()
    def last_logits(self, rows: Sequence[Tokens]) -> torch.Tensor:
        """Logits after the last token of each row: the policy's [N, V] or a critic's [N, 1]."""
        self._check(rows)
        parts: list[torch.Tensor] = []
        for start in range(0, len(rows), self.batch_rows):
            part = rows[start : start + self.batch_rows]
            self.cache.clear()
            opened = prefill(self.network, self.cache, self.tree, part)
            logits = self.network.logits(opened.hidden_NE)
            is_bad = ~torch.isfinite(logits).all(dim=1).cpu().numpy()
            self.cache.wipe(opened.jobs[is_bad].tolist())
            parts.append(logits)
        return torch.cat(parts)
