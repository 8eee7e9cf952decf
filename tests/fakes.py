"""Stand-ins with real behaviour: a small world of digits whose best path is known by hand.

A problem is a string of digits. A text is right when it repeats them, one a line, and then ends.
The proposer prefers wrong digits by a known margin, so plain greedy decoding fails and search,
guided by the evaluator, succeeds.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from search.interfaces import (
    EvaluateRequest,
    Evaluation,
    ExpandRequest,
    Proposal,
    Rollout,
)
from search.score import Score
from search.state import Option, State

END = 99


def root(digits: str = "31") -> State:
    return State(digits, tuple(int(d) for d in digits), digits)


class DigitWorld:
    """Proposes each digit 0 to 3 and, after enough of them, the end; counts its calls."""

    def __init__(self, fails: bool = False) -> None:
        self.num_proposals = 0
        self.num_evaluations = 0
        self.batches: list[int] = []
        self.fails = fails

    def propose(self, requests: Sequence[ExpandRequest]) -> list[Proposal]:
        self.batches.append(len(requests))
        self.num_proposals += len(requests)
        return [self._proposal(r.state, r.count) for r in requests]

    def _proposal(self, state: State, count: int) -> Proposal:
        wanted = state.problem_id
        is_last = state.depth + 1 == len(wanted)
        right = int(wanted[state.depth])
        stop = "end" if is_last else "boundary"
        # The right digit is the second most probable one.
        order = [(right + 1) % 4, right, (right + 2) % 4, (right + 3) % 4]
        weights = [0.4, 0.3, 0.2, 0.1]
        options = tuple(
            Option((d,), f"{d}\n", math.log(p), stop)  # type: ignore[arg-type]
            for d, p in zip(order, weights, strict=True)
        )[:count]
        return Proposal(options, (), len(options))

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> list[Evaluation]:
        self.num_evaluations += len(requests)
        return [self._evaluation(r.state) for r in requests]

    def _evaluation(self, state: State) -> Evaluation:
        if self.fails:
            return Evaluation(None, (Score("value", "v", None, "not finite"),))
        written = "".join(str(t) for o in state.options for t in o.tokens)
        right = sum(a == b for a, b in zip(written, state.problem_id, strict=False))
        value = right / len(written) if written else 0.5
        rollouts: tuple[Rollout, ...] = ()
        if state.is_finished:
            outcome = Score("outcome", "v", float(written == state.problem_id))
            rollouts = (Rollout(state, state.depth, 0, None, outcome, written),)
        return Evaluation(value, (Score("value", "v", value),), rollouts, 1)


class Refuted(DigitWorld):
    """Its tool refutes the most probable option, which is always a wrong one."""

    def _proposal(self, state: State, count: int) -> Proposal:
        found = super()._proposal(state, count)
        return replace(found, unsound=("wrong digit", *([""] * (len(found.options) - 1))))
