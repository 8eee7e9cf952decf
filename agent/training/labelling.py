"""Labels for the critics from the policy's own sampled texts on problems with known answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.training.examples import LabelledExample
from search.interfaces import Rollout


@dataclass(frozen=True, slots=True)
class Labelled:
    """Rows for each critic, held-out problems apart."""

    train: dict[str, list[LabelledExample]]
    held_out: dict[str, list[LabelledExample]]

    @property
    def num_texts(self) -> int:
        return sum(len(part["value"]) for part in (self.train, self.held_out))


def label_rollouts(
    rollouts: Sequence[Rollout],
    is_correct: Callable[[Rollout], bool],
    step_is_sound: Callable[[Rollout, int], bool | None],
    is_held_out: Callable[[str], bool],
) -> Labelled:
    """Value: does the text end right, at every state. Process: is the step sound. Outcome: is the
    finished text right, and sound where the tool has something to say.

    Without a tool's word a step is labelled like its text.
    """
    train: dict[str, list[LabelledExample]] = {"value": [], "process": [], "outcome": []}
    held_out: dict[str, list[LabelledExample]] = {"value": [], "process": [], "outcome": []}
    for rollout in rollouts:
        state = rollout.state
        part = held_out if is_held_out(state.problem_id) else train
        good = is_correct(rollout)
        label = 1.0 if good else 0.0
        end = len(state.prompt_tokens) - 1
        ends = [end]
        for option in state.options:
            end += len(option.tokens)
            ends.append(end)
        steps: list[float] = []
        is_sound = True
        for i in range(state.depth):
            sound = step_is_sound(rollout, i)
            steps.append(label if sound is None else float(sound))
            is_sound = is_sound and sound is not False
        tokens = state.tokens
        # A text that ended by itself has nothing left to be uncertain of: its last state counts.
        part["value"].append(LabelledExample(tokens, tuple(ends), (label,) * len(ends)))
        if steps:
            part["process"].append(LabelledExample(tokens, tuple(ends[1:]), tuple(steps)))
        if state.is_finished:
            part["outcome"].append(
                LabelledExample(tokens, (ends[-1],), (float(good and is_sound),))
            )
    return Labelled(train, held_out)
