"""Many searches stepped together, so that every model call is one large batch."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from search.collector import rare_collections
from search.errors import SearchSettingsError
from search.interfaces import Evaluation, Evaluator, Proposal, Proposer
from search.mcts import Expansion, Leaf, Search


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Listener:
    """What the caller wants to hear of a run. All calls come from the running thread."""

    told: Callable[[Search, Expansion | Leaf, Proposal | Evaluation], None] = _ignore
    """After each answer that a search was told."""
    passed: Callable[[], None] = _ignore
    """After each pass, when no answer is outstanding."""
    done: Callable[[Search], None] = _ignore
    """Once for each search, as soon as it has ended."""


class Frontier:
    """Searches under way. Each step answers what they ask, all of them in shared batches.

    Searches may join and leave between steps. No search's tree depends on the others.
    """

    def __init__(
        self,
        proposer: Proposer,
        evaluator: Evaluator,
        listener: Listener = Listener(),
        clock: Callable[[], float] | None = None,
        batch_target: int = 0,
    ) -> None:
        """`batch_target` requests, at most about, are answered in one step; 0: those of all
        searches. `clock` gives seconds for `max_seconds`."""
        self.proposer = proposer
        self.evaluator = evaluator
        self.listener = listener
        self.clock = clock
        self.batch_target = batch_target
        self._active: deque[Search] = deque()
        self._started: dict[int, float] = {}
        """Clock at which a search joined, by its identity."""

    @property
    def is_idle(self) -> bool:
        """Whether no search is under way."""
        return not self._active

    @property
    def searches(self) -> list[Search]:
        """Those under way."""
        return list(self._active)

    def add(self, search: Search) -> None:
        """Let a search join at the next step.

        Raises SearchSettingsError when it has a bound in seconds and there is no clock.
        """
        if self.clock is None and search.settings.max_seconds:
            raise SearchSettingsError(
                "search setting max_seconds needs a clock", "give the frontier a clock"
            )
        self._started[id(search)] = self.clock() if self.clock else 0.0
        self._active.append(search)

    def cancel(self, search: Search) -> bool:
        """Take a search out between steps; it keeps what it found. False when it is not there."""
        found = next((s for s in self._active if s is search), None)
        if found is None:
            return False
        self._forget(search)
        return True

    def step(self) -> list[Search]:
        """One pass over the searches in turn; returns those that ended.

        Requests are collected until `batch_target` of them are together, then the expansions are
        answered in one call and the evaluations in another. What a search asks in a pass is
        answered in that pass.

        Raises what the proposer and the evaluator raise; the searches that asked them leave then,
        with what they had found, and the others can go on.
        """
        expansions: list[tuple[Search, Expansion]] = []
        leaves: list[tuple[Search, Leaf]] = []
        taken: list[Search] = []
        now = self.clock() if self.clock else 0.0
        for search in list(self._active):
            if self.batch_target and len(expansions) + len(leaves) >= self.batch_target:
                break
            taken.append(search)
            search.budget.seconds = now - self._started[id(search)]
            while (request := search.ask()) is not None:
                if isinstance(request, Expansion):
                    expansions.append((search, request))
                else:
                    leaves.append((search, request))
        self._active.rotate(-len(taken))
        try:
            _answer(expansions, leaves, self.proposer, self.evaluator, self.listener)
        except BaseException:
            # Nobody will answer what they asked: they would wait for ever.
            for search in {id(s): s for s, _ in (*expansions, *leaves)}.values():
                self._forget(search)
            raise
        self.listener.passed()
        if not expansions and not leaves and not any(search.is_done for search in taken):
            for search in taken:
                search.fail("nothing to ask and nothing awaited")
        ended = [search for search in taken if search.is_done]
        for search in ended:
            self._forget(search)
            self.listener.done(search)
        return ended

    def _forget(self, search: Search) -> None:
        self._active = deque(s for s in self._active if s is not search)
        del self._started[id(search)]


def run(
    searches: Iterable[Search],
    proposer: Proposer,
    evaluator: Evaluator,
    listener: Listener = Listener(),
    should_stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] | None = None,
    batch_target: int = 0,
) -> None:
    """Run the searches to their ends; when `should_stop` says so, the others stay as they are.

    Raises SearchSettingsError when a search has a bound in seconds and there is no clock.
    """
    frontier = Frontier(proposer, evaluator, listener, clock, batch_target)
    for search in searches:
        frontier.add(search)
    with rare_collections():
        while not frontier.is_idle and not should_stop():
            frontier.step()


def _answer(
    expansions: Sequence[tuple[Search, Expansion]],
    leaves: Sequence[tuple[Search, Leaf]],
    proposer: Proposer,
    evaluator: Evaluator,
    listener: Listener,
) -> None:
    """One call for all expansions, one for all evaluations; each search is told its own."""
    if expansions:
        proposals = proposer.propose([e.request for _, e in expansions])
        for (search, expansion), proposal in zip(expansions, proposals, strict=True):
            search.tell_options(expansion, proposal)
            listener.told(search, expansion, proposal)
    if leaves:
        evaluations = evaluator.evaluate([leaf.request for _, leaf in leaves])
        for (search, leaf), evaluation in zip(leaves, evaluations, strict=True):
            search.tell_evaluation(leaf, evaluation)
            listener.told(search, leaf, evaluation)
