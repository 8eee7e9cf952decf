"""What a round offers its policy to learn from; each method takes what it needs of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.checkpoints.model_refs import ModelRef
from agent.config.settings import PolicyTraining
from agent.training.examples import Example, PairExample, SiblingSteps, StoredState
from agent.training.mixture import mixed_examples, rows_to_train
from agent.training.optimizer import TrainingSettings


class NothingToLearnError(Exception):
    """The round ends without a candidate; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Lesson:
    policy: ModelRef
    config: PolicyTraining
    settings: TrainingSettings
    """What is set, else what the policy's notes recommend."""
    seed: int
    texts: Sequence[Example]
    """Kept by this round and earlier ones, and right ones of labelled problems."""
    variants: Sequence[Example]
    """Of texts that no early stop is measured by, made by the task."""
    replayed: Callable[[int], list[Example]]
    """At most so many demonstrations for a training set of this many rows; none where none are
    known."""
    has_replay: bool
    pairs: Callable[[], Sequence[PairExample]]
    """A kept step each, with a worse sibling."""
    states: Callable[[], Sequence[StoredState]]
    """Beginnings of kept texts."""
    siblings: Callable[[], Sequence[SiblingSteps]]
    """States on the way to them with all steps that were tried there."""
    outcome: ModelRef
    outcome_doubt: str
    """Why the outcome critic is not trusted; empty when it is."""

    def with_replay(self, texts: Sequence[Example]) -> tuple[int, list[Example]]:
        """(steps, rows): the texts as often as it takes, and demonstrations among them."""
        num_steps, num_rows = rows_to_train(self.config, len(texts), self.has_replay)
        replayed = self.replayed(num_rows)
        share = self.config.replay_share
        return num_steps, mixed_examples(texts, replayed, share, num_rows, self.seed)

    def needed_pairs(self) -> Sequence[PairExample]:
        """Raises NothingToLearnError where there are none."""
        if pairs := self.pairs():
            return pairs
        raise NothingToLearnError(
            "no trajectory has a worse sibling to be preferred to; raise search.simulations, "
            "or set training.method to sft"
        )
