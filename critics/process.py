"""PRM: the chance that the last step of a state is sound."""

from critics.heads import TrainedCritic
from search.state import State


class ProcessCritic(TrainedCritic):
    __slots__ = ()
    name = "process"

    def applies(self, state: State) -> bool:
        return state.depth > 0

    def num_given(self, state: State) -> int:
        return len(state.tokens) - len(state.options[-1].tokens)
