"""Models whose batches fail request by request: one that has no answer ends no other search."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from search.errors import ResourceError
from search.interfaces import (
    EvaluateRequest,
    Evaluation,
    Evaluator,
    ExpandRequest,
    Proposal,
    Proposer,
)

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

log = logging.getLogger("ratchet")


def is_of_all(error: BaseException) -> bool:
    """Whether the models themselves are away: to ask again one by one would take for ever."""
    return isinstance(error, ResourceError | OSError | MemoryError) or type(
        error
    ).__module__.startswith("ray")


class Apart:
    """The same answers; where a batch fails it is halved until the request is found that fails."""

    def __init__(self, proposer: Proposer, evaluator: Evaluator) -> None:
        self.proposer = proposer
        self.evaluator = evaluator
        self.failed: dict[int, BaseException] = {}
        """By the identity of a request why it has no answer."""

    def propose(self, requests: Sequence[ExpandRequest]) -> list[Proposal]:
        return self._answered(requests, self.proposer.propose, Proposal((), (), 0))

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> list[Evaluation]:
        return self._answered(requests, self.evaluator.evaluate, Evaluation(None))

    def _answered(
        self,
        requests: Sequence[Asked],
        ask: Callable[[Sequence[Asked]], list[Answer]],
        nothing: Answer,
    ) -> list[Answer]:
        try:
            return ask(requests)
        except Exception as error:
            if is_of_all(error):
                raise
            if len(requests) == 1:
                log.exception("a request of a search failed")
                self.failed[id(requests[0])] = error
                return [nothing]
            middle = len(requests) // 2
            return [
                answer
                for part in (requests[:middle], requests[middle:])
                for answer in self._answered(part, ask, nothing)
            ]
