"""ORM: the chance that a finished text is right."""

from critics.heads import TrainedCritic
from search.state import State


class OutcomeCritic(TrainedCritic):
    __slots__ = ()
    name = "outcome"

    def applies(self, state: State) -> bool:
        return state.is_finished
