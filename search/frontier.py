"""Many searches stepped together, so that every model call is one large batch."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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


def run(
    searches: Iterable[Search],
    proposer: Proposer,
    evaluator: Evaluator,
    listener: Listener = Listener(),
    should_stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] | None = None,
    batch_target: int = 0,
) -> None:
    """Run the searches to their ends.

    Each pass collects the requests of the searches in turn until `batch_target` of them are
    together (0: of all searches), answers the expansions in one call and the evaluations in
    another. What a search asks in one pass is answered in that pass, so no search's tree depends
    on the others or on the target. When `should_stop` says so, the searches that have not ended
    are left as they are. `clock` gives seconds for `max_seconds`.

    Raises SearchSettingsError when a search has a bound in seconds and there is no clock.
    """
    active = deque(searches)
    if clock is None and any(s.settings.max_seconds for s in active):
        raise SearchSettingsError(
            "search setting max_seconds needs a clock", "give frontier.run a clock"
        )
    started = clock() if clock else 0.0
    while active and not should_stop():
        elapsed = clock() - started if clock else 0.0
        expansions: list[tuple[Search, Expansion]] = []
        leaves: list[tuple[Search, Leaf]] = []
        taken: list[Search] = []
        while active and (not batch_target or len(expansions) + len(leaves) < batch_target):
            search = active.popleft()
            taken.append(search)
            search.budget.seconds = elapsed
            while (request := search.ask()) is not None:
                if isinstance(request, Expansion):
                    expansions.append((search, request))
                else:
                    leaves.append((search, request))
        _answer(expansions, leaves, proposer, evaluator, listener)
        listener.passed()
        num_ended = 0
        for search in taken:
            if search.is_done:
                num_ended += 1
                listener.done(search)
            else:
                active.append(search)
        if not num_ended and not expansions and not leaves:
            for search in taken:
                search.fail("nothing to ask and nothing awaited")
                active.remove(search)
                listener.done(search)


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
