"""The models of a run's first round, made from its base where some are missing."""

from collections.abc import Mapping

from agent.checkpoints.checkpoint import Checkpoint
from agent.checkpoints.custody import as_new, trained_as_new
from agent.checkpoints.model_refs import ROLES, ModelRef
from agent.checkpoints.publish import copied
from agent.checkpoints.trained import Trained
from agent.rounds.checker_lesson import CheckerLesson, wants_checker
from agent.rounds.context import RunContext
from agent.rounds.training_stage import TrainingStage
from agent.training.initial import initial_models
from agent.training.recipe import own_lora_rank
from store.checkpoints import register
from store.recording import add_event
from store.states import EventKind

BEFORE_THE_FIRST = 0
"""Number of the round that first critics are trained for."""


def first_models(context: RunContext, base: Mapping[str, Checkpoint]) -> dict[str, ModelRef]:
    """Role to weights, registered. A policy of the user's gets critics and a drafter of its own:
    the critics learn from its texts in the same stage as in every round."""
    config = context.config
    if not config.policy:
        folder = context.trainer.folder
        base = {role: copied(checkpoint, folder, role) for role, checkpoint in base.items()}
    refs = {role: checkpoint.ref(role) for role, checkpoint in base.items()}
    with context.store.session() as session:
        for role, checkpoint in base.items():
            register(session, as_new(role, checkpoint, _known_parent(role, base)))
    if not set(ROLES) <= refs.keys():
        refs |= _registered(context, _initial(context, refs["policy"]))
        if config.critics.steps and config.critics.num_labelled:
            stage = TrainingStage(context, refs, BEFORE_THE_FIRST)
            refs |= _registered(context, list(stage.critics_alone().values()))
    made = CheckerLesson(context, refs).taught() if wants_checker(config, context.task) else None
    refs |= _registered(context, [made] if made else [])
    with context.store.session() as session:
        versions = {role: ref.version for role, ref in refs.items()}
        add_event(session, context.lease.run_id, EventKind.MODELS, versions)
    return refs


def _initial(context: RunContext, policy: ModelRef) -> list[Trained]:
    config = context.config
    place = context.trainer.place
    return initial_models(
        policy, place, config.critics.tuned_layers, own_lora_rank(config.training)
    )


def _known_parent(role: str, base: Mapping[str, Checkpoint]) -> str | None:
    """The policy of the base, for a model that says it was made from it."""
    policy = base["policy"].version
    return policy if role != "policy" and base[role].notes.get("parent") == policy else None


def _registered(context: RunContext, made: list[Trained]) -> dict[str, ModelRef]:
    with context.store.session() as session:
        for trained in made:
            register(session, trained_as_new(trained))
    return {trained.role: trained.ref() for trained in made}
