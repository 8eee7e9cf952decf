"""The policy's host, which drafts where that pays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent.checkpoints.model_refs import ModelRef
from agent.engine.draft_choice import Drafter, DraftSource
from agent.engine.draft_costs import costs_of_long, measured_costs
from agent.engine.job_cache import Cache
from agent.engine.lookup import LookupDrafts
from agent.engine.requests import Completion, CompletionRequest
from agent.engine.retrieval import BUDGET, RetrievalDrafts
from agent.hosting.model_host import KEPT_MODELS, GeneratorHost, HostSettings
from agent.hosting.work_clock import at_work
from agent.networks.shared_blocks import SharedBlocks
from search.errors import CheckpointError

COST_ROWS = (1, 4, 16, 64)
SOURCES = {
    "both": ("model", "lookup"),
    "all": ("model", "lookup", "retrieval"),
    "hierarchy": ("model", "retrieval"),
}


@dataclass(frozen=True, slots=True)
class Speculation:
    """Whether rollouts are drafted: `auto` by measured cost, `always`, or `never`."""

    mode: str = "auto"
    draft_tokens: int = 4
    source: str = "all"
    """`model`, `lookup`, `retrieval`; `both` of the first two or `all`: whichever has the better
    acceptance for its cost; `hierarchy`: retrieval with the drafter below it."""


class PolicyHost(GeneratorHost):
    """The policy's host, which knows how to reach the drafter."""

    def __init__(
        self, role: str, settings: HostSettings, shared: SharedBlocks | None = None
    ) -> None:
        super().__init__(role, settings, shared)
        self._drafters: dict[tuple[str, str], Drafter] = {}

    @at_work
    def drafted_completions(
        self,
        policy: ModelRef,
        drafter: ModelRef | None,
        requests: Sequence[CompletionRequest],
        speculation: Speculation,
        draft: Callable[..., list[list[int]]],
    ) -> list[Completion]:
        """Completions, drafted where that pays and the policy's self-test allows it."""
        if speculation.mode == "never" or self.settings.engine == "vllm":
            return self.completions(policy, requests)
        key = (policy.version, drafter.version if drafter else "")
        if key not in self._drafters:
            self._drafters[key] = self._drafter(policy, drafter, speculation, draft)
            while len(self._drafters) > KEPT_MODELS:
                self._drafters.pop(next(iter(self._drafters)))
        return self.completions(policy, requests, self._drafters[key])

    def _drafter(
        self,
        policy: ModelRef,
        drafter: ModelRef | None,
        speculation: Speculation,
        draft: Callable[..., list[list[int]]],
    ) -> Drafter:
        model: DraftSource | None = None
        wanted = SOURCES.get(speculation.source, (speculation.source,))
        if drafter is not None and "model" in wanted:
            known, drafted = policy.vocab_size, drafter.vocab_size
            if known != drafted:
                raise CheckpointError(
                    f"the drafter in {drafter.path} has {drafted} tokens, the policy {known}",
                    "use a drafter with the policy's own vocabulary, such as one cut from it",
                )
            model = CalledDrafts(draft, drafter)
        engine = self._model(policy)
        is_hierarchy = speculation.source == "hierarchy"
        sources: list[DraftSource] = []
        if model is not None and not is_hierarchy:
            sources.append(model)
        if "lookup" in wanted:
            sources.append(LookupDrafts())
        is_long = engine.network.arch.max_positions > 2 * BUDGET
        if "retrieval" in wanted and is_long and engine.network.keeps_keys:
            below = (model or LookupDrafts()) if is_hierarchy else None
            sources.append(RetrievalDrafts(engine.network, below=below))
        made = Drafter(
            sources,
            speculation.draft_tokens,
            speculation.mode,
            selftest=engine.selftest,
            policy=policy.version,
            drafter=drafter.version if drafter else "",
        )
        if speculation.mode == "auto":
            most = speculation.draft_tokens
            made.costs = measured_costs(engine, sources, COST_ROWS, most)
            made.lengthened = partial(costs_of_long, engine, sources, most)
        return made

    def close(self) -> None:
        super().close()
        self._drafters.clear()  # each knows its engine

    def _drop(self, version: str) -> None:
        super()._drop(version)
        for key in [key for key in self._drafters if key[0] == version]:
            del self._drafters[key]

    def health(self) -> dict[str, Any]:
        last = next(reversed(self._drafters.values()), None) if self._drafters else None
        return super().health() | {"speculation": last and last.report()}


@dataclass(slots=True)
class CalledDrafts:
    """A drafter behind any callable: in this process, or another actor's method."""

    call: Callable[..., list[list[int]]]
    ref: ModelRef
    name: str = "model"
    least_columns: int = 0

    def for_short_texts(self) -> "CalledDrafts":
        return self

    def draft(
        self,
        requests: Sequence[CompletionRequest],
        done: Sequence[Sequence[int]],
        lengths: Sequence[int],
        cache: Cache | None = None,
    ) -> list[list[int]]:
        return self.call(self.ref, requests, done, lengths)
