"""The values that a column may hold, each with what it means.

Columns that the database checks have an enum here; its values are the strings that are stored.
The words of `search/` are taken from there, and only explained here. Some columns hold texts of a
few known forms: these have a table of forms, where capitals stand for what differs.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeVar

from search.budget import StopReason
from search.state import Stop

T = TypeVar("T")


class Stage(StrEnum):
    """Where a round stands. It takes the stages in this order and ends in one of the last three."""

    IMAGINING = "imagining"
    """New problems are made, and a search is planned for each."""
    SEARCHING = "searching"
    """The planned searches run."""
    SELECTING = "selecting"
    """All searches have ended; the texts to learn from are chosen and frozen as a dataset."""
    TRAINING = "training"
    """The policy, the critics and the drafter learn."""
    EVALUATING = "evaluating"
    """The policy and the candidate answer the same held-out problems."""
    PROMOTED = "promoted"
    """Ended: the candidate became the policy."""
    KEPT = "kept"
    """Ended: the policy stayed, because the candidate was not better or there was none."""
    FAILED = "failed"
    """Ended: the round was given up, and `error` says why; what it found stays."""


ENDED = (Stage.PROMOTED, Stage.KEPT, Stage.FAILED)


class SearchStatus(StrEnum):
    """Where a search stands."""

    PENDING = "pending"
    """Planned, and claimed by nobody yet."""
    RUNNING = "running"
    """Claimed by a holder of the run; its rows are not written before it ends."""
    DONE = "done"
    """Ended with its rows written; `stop_reason` says why it ended."""
    FAILED = "failed"
    """Ended because it could not go on, or because its round was given up; `error` says why."""


OPEN = (SearchStatus.PENDING, SearchStatus.RUNNING)
"""Of searches that have not ended."""


class Role(StrEnum):
    """What a model is for."""

    POLICY = "policy"
    """Writes options and texts: the language model that is being improved."""
    DRAFTER = "drafter"
    """Guesses the policy's next tokens, which changes the speed and no text."""
    VALUE = "value"
    """Critic: the chance that the policy, going on from a state, ends with the right answer."""
    PROCESS = "process"
    """Critic: the chance that the last step of a state is sound."""
    OUTCOME = "outcome"
    """Critic: the chance that a finished text is right."""
    CHECKER = "checker"
    """Works out in writing what steps claim, where no tool checks them."""


class Choice(StrEnum):
    """What a judge says of two answers."""

    LEFT = "left"
    """The one shown first is better."""
    RIGHT = "right"
    """The one shown second is better."""
    TIE = "tie"
    """Both are about as good."""
    BAD = "bad"
    """Neither is any good; counts as a tie."""


CRITICS = (Role.VALUE, Role.PROCESS, Role.OUTCOME)
VOTER = "voter-"
"""With a number, the place of a further policy among the models of a round."""


def is_voter(place: str) -> bool:
    """Whether a place among a round's models is that of a policy which only votes on answers."""
    return place.startswith(VOTER)


def without_voters(models: Mapping[str, T]) -> dict[str, T]:
    """The models of a round, by place, that take part in a search."""
    return {place: model for place, model in models.items() if not is_voter(place)}


def role_of(place: str) -> str:
    """The role of the checkpoint in a place of a round: a voter is a policy.

    >>> role_of("voter-2"), role_of("value")
    ('policy', 'value')
    """
    return Role.POLICY.value if is_voter(place) else place


class CheckpointStatus(StrEnum):
    """Whether a checkpoint may be used."""

    READY = "ready"
    """Whole on disk when it was last looked at."""
    REJECTED = "rejected"
    """A candidate that was not promoted; its weights stay on disk for as long as
    `checkpoints.keep` says."""
    QUARANTINED = "quarantined"
    """Damaged or missing on disk when it was last looked at; not used until it is whole again."""


class EvaluationMode(StrEnum):
    """How the held-out problems were answered."""

    GREEDY = "greedy"
    """One text a problem, always the most probable next token."""
    SEARCH = "search"
    """One search a problem, with all the models."""
    MAJORITY = "majority"
    """Several sampled texts a problem, and the answer that most of them come to."""
    BEST_OF_N = "best-of-n"
    """Several sampled texts a problem, and the one that the outcome critic likes best."""
    WORDINGS = "wordings"
    """One text for each of several wordings, their answers weighed by the outcome critic."""


class ActorState(StrEnum):
    """How an actor was at the last beat."""

    ALIVE = "alive"
    """It answered."""
    UNREACHABLE = "unreachable"
    """It did not answer within five seconds: busy starting, or dead."""
    STOPPED = "stopped"
    """The command that hosted it ended in order."""


class DraftSource(StrEnum):
    """Who guesses the policy's next tokens."""

    MODEL = "model"
    """The drafter."""
    LOOKUP = "lookup"
    """What followed the same tokens before, in texts of the same problem."""


class EventKind(StrEnum):
    """What happened."""

    MODELS = "models"
    """A command began with these models, in a run that had no round yet."""
    ROUND_STARTED = "round-started"
    """A round was opened."""
    IMAGINED = "imagined"
    """A round made its problems."""
    SELECTED = "selected"
    """A round chose the texts that it learns from."""
    STAGE_ENDED = "stage-ended"
    """A stage of a round came to its end."""
    ROUND_PROMOTED = "round-promoted"
    """A round ended, and its candidate became the policy."""
    ROUND_KEPT = "round-kept"
    """A round ended, and the policy stayed."""
    ROUND_FAILED = "round-failed"
    """A round was given up."""
    CHECKPOINT_QUARANTINED = "checkpoint-quarantined"
    """A checkpoint was found damaged and set aside."""
    CHECKPOINT_RESTORED = "checkpoint-restored"
    """A checkpoint that was set aside was found whole again."""
    CHECKPOINT_REMOVED = "checkpoint-removed"
    """The weights of a rejected model were removed from disk, by `checkpoints.keep`."""
    STORE_AWAY = "store-away"
    """The store answers again after a while without; what had waited was handed over."""


OPTION_STOPS: Mapping[Stop, str] = {
    "boundary": "At the boundary where a step ends; the text may go on.",
    "end": "With the text itself: the policy wrote its end.",
    "length": "At the limit on tokens; the text is cut off and nothing may follow.",
}
SEARCH_STOPS: Mapping[StopReason, str] = {
    "simulations": "All the simulations that it may make were asked for.",
    "tokens": "Its models had generated as many tokens as it may spend.",
    "calls": "It had made as many requests to models as it may.",
    "seconds": "Its time was up.",
    "solved": "It came across a finished text with a high enough outcome score.",
    "decided": "All that it had not explored could not have changed its answer.",
    "converged": "So many simulations in a row left its answer as it was.",
    "exhausted": "Nothing was left to try: every option was closed.",
    "failed": "It could not go on; `error` says why.",
}
PROBE = "probe"
"""Origin of a labelled problem that a round searches to see what it may trust."""
PROBLEM_ORIGINS: Mapping[str, str] = {
    "given": "The task's own, such as a row of the problem file.",
    "generated": "Drawn by the task's generator as a problem to start from.",
    PROBE: "A labelled problem, searched to see which answers may be trusted; never learned from.",
    "OPERATOR:KEY": "Made by this operator of the task from the problem with this key.",
    "OPERATOR+OPERATOR:KEY": "Made by two operators, one after the other.",
    "SCHEME:KEY": "Written by a model under this scheme (`imagination.schemes`) from that problem.",
}
SCORE_REASONS: Mapping[str, str] = {
    "weight 0": "No score: the critic has no weight in the blend and was not asked.",
    "held-out AUC A is under B": "No score: the critic ranks too badly to be asked.",
    "the score was nan": "No score: the critic returned no number, such as for too long a text.",
    "not scored yet": "No score: the rollout was cut off by length; it counted as 0 in the value.",
    "tool: unsound step": "The score was set to 0 because the tool refuted a step of the text.",
}
ACTOR_NAMES: Mapping[str, str] = {
    "ROLE": "The actor of this role, as in `checkpoints.role`.",
    "policy-N": "One more actor of the policy, from 1 on (`hosting.workers`).",
}

Values = Sequence[StrEnum] | type[StrEnum] | Mapping[Any, str]

COLUMNS: Mapping[str, Values] = {
    "actors.role": ACTOR_NAMES,
    "actors.state": ActorState,
    "arena_votes.choice": Choice,
    "checkpoints.role": Role,
    "checkpoints.status": CheckpointStatus,
    "critic_scores.critic": CRITICS,
    "critic_scores.reason": SCORE_REASONS,
    "evaluations.mode": EvaluationMode,
    "events.kind": EventKind,
    "nodes.stop": OPTION_STOPS,
    "problems.origin": PROBLEM_ORIGINS,
    "rounds.stage": Stage,
    "searches.status": SearchStatus,
    "searches.stop_reason": SEARCH_STOPS,
    "speculation.actor": ACTOR_NAMES,
    "speculation.source": DraftSource,
}
"""Column to its values, or the forms of them."""
