"""Many searches stepped together, so that every model call is one large batch."""

from collections.abc import Callable, Iterable

from search.interfaces import Evaluator, Proposer
from search.mcts import Expansion, Leaf, Search


def run(
    searches: Iterable[Search],
    proposer: Proposer,
    evaluator: Evaluator,
    on_done: Callable[[Search], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run the searches to their ends. `on_done` is called once for each, as soon as it has ended.

    Each pass collects all expansions, then all evaluations, of all searches that are not done.
    A search is handled in the order given, so the batches depend on the searches alone. When
    `should_stop` says so, the searches that have not ended are left as they are.
    """
    active = list(searches)
    while active and not should_stop():
        expansions: list[tuple[Search, Expansion]] = []
        leaves: list[tuple[Search, Leaf]] = []
        for search in active:
            while (request := search.ask()) is not None:
                if isinstance(request, Expansion):
                    expansions.append((search, request))
                else:
                    leaves.append((search, request))
        if expansions:
            proposals = proposer.propose([e.request for _, e in expansions])
            for (search, expansion), proposal in zip(expansions, proposals, strict=True):
                search.tell_options(expansion, proposal)
        if leaves:
            evaluations = evaluator.evaluate([leaf.request for _, leaf in leaves])
            for (search, leaf), evaluation in zip(leaves, evaluations, strict=True):
                search.tell_evaluation(leaf, evaluation)
        still: list[Search] = []
        for search in active:
            if search.is_done:
                on_done(search)
            else:
                still.append(search)
        if len(still) == len(active) and not expansions and not leaves:
            for search in still:
                search.fail("nothing to ask and nothing awaited")
            for search in still:
                on_done(search)
            return
        active = still
