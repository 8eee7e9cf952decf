"""Models and hosts for who only asks: those of a run's last round, or the base ones."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from agent.checkpoints.base_models import base_checkpoints
from agent.checkpoints.custody import current_models
from agent.checkpoints.model_refs import ROLES, ModelRef, ModelSet
from agent.config.settings import Config
from agent.config.stored import with_problems_of
from agent.defaults import tuned_layers
from agent.hosting.open_hosts import open_hosts
from agent.scratch import scratch_folder
from agent.search_models import Models, ModelSettings
from agent.tasks.registry import open_task
from agent.tasks.task import Task
from agent.training.initial import initial_models
from agent.training.job import Place
from agent.training.recipe import own_lora_rank
from agent.trial import check_serving, needs_of
from search.errors import NotFoundError, UsageError
from store.address import sqlite_path
from store.database import read_store
from store.names import DEFAULT_RUN, chosen_run, run_named
from store.runs import find_run
from store.states import without_voters


def models_over(config: Config, refs: Mapping[str, ModelRef], task: Task | None = None) -> Models:
    """These weights on hosts of their own, which the caller closes (`models.hosts.close()`), for
    the settings' task where none is given.

    Raises ResourceError for weights that do not fit the memory, before they are loaded.
    """
    check_serving(refs["policy"].header, config)
    task = task or open_task(config)
    others = [ref.header for role, ref in refs.items() if role != "policy"]
    hosts = open_hosts(
        config.hosting, needs_of([refs["policy"].header, *others], config, trains=False)
    )
    try:
        return Models(hosts, ModelSet(refs), task, ModelSettings.of(config))
    except BaseException:
        hosts.close()
        raise


@contextmanager
def opened_over(
    config: Config, refs: Mapping[str, ModelRef], task: Task | None = None
) -> Iterator[Models]:
    """As `models_over`, with the hosts running for as long as the block."""
    models = models_over(config, refs, task)
    try:
        yield models
    finally:
        models.hosts.close()


def base_refs(config: Config) -> dict[str, ModelRef]:
    """The models that come with the task or the policy, as far as they exist."""
    return {role: checkpoint.ref(role) for role, checkpoint in base_checkpoints(config).items()}


@contextmanager
def open_models(config: Config) -> Iterator[Models]:
    """The models to ask, with their hosts running for as long as the block."""
    open_task(config)  # refused before a model is looked for
    with scratch_folder("models") as scratch:
        refs, config = _last_models(config) or (_base_models(config, str(scratch)), config)
        with opened_over(config, refs) as models:
            yield models


def _last_models(config: Config) -> tuple[dict[str, ModelRef], Config] | None:
    """Models after the run's last round, and the settings with the run's prompts; None without
    such a run, or with models of one's own."""
    path = sqlite_path(config.store)
    is_own = bool(config.policy or config.bundle)
    if is_own or (path is not None and not path.is_file()):
        if not is_own and config.run != "default":
            raise NotFoundError(
                f"there is no run {config.run!r}: there is no store at {path}",
                "give its --store, or leave --run out to ask the base models",
            )
        return None
    store = read_store(config.store)
    try:
        with store.session() as session:
            is_default = not config.names_run or config.run == DEFAULT_RUN
            name = chosen_run(session, config.run, config.names_run)
            run = find_run(session, name) if is_default else run_named(session, name)
        if run is None:
            return None
        if run.task != config.task:
            if is_default:
                return None
            raise UsageError(
                f"run {run.name!r} is of task {run.task!r}, not {config.task!r}",
                f"add --task {run.task}, or leave --run out",
            )
        found = current_models(store, run.id, _warn, is_written=False)
        asked = with_problems_of(config, run.config, ("answers", "prompt"))
        return None if found is None else (without_voters(found), asked)
    finally:
        store.close()


def _warn(text: str) -> None:
    print(text, file=sys.stderr)


def _base_models(config: Config, scratch: str) -> dict[str, ModelRef]:
    refs = base_refs(config)
    check_serving(refs["policy"].header, config)
    if not set(ROLES) <= refs.keys():
        place = Place(scratch, config.hosting.threads)
        tuned = config.critics.tuned_layers or tuned_layers(refs["policy"].header)
        adapter = refs["policy"].header.adapter
        rank = own_lora_rank(config.training) if adapter is None else adapter.rank
        made = initial_models(refs["policy"], place, tuned, rank)
        refs |= {each.role: each.ref() for each in made}
    return refs
