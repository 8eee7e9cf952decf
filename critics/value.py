"""V(s): the chance that the policy, going on from a state, ends with the right answer."""

from critics.heads import TrainedCritic
from search.state import State


class ValueCritic(TrainedCritic):
    """Regressed on the final reward of trajectories through the state (Monte-Carlo returns)."""

    __slots__ = ()
    name = "value"

    def applies(self, state: State) -> bool:
        return not state.is_terminal or state.is_finished
