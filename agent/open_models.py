"""Models and hosts for commands that only ask: those of the run's last round, or the base ones."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from sqlalchemy import select

from agent.checkpoints.custody import current_models
from agent.checkpoints.registry import as_ref, base_checkpoints, model_set
from agent.config.load import Config
from agent.hosting.hosts import Hosts, make_hosts
from agent.hosting.model_host import ModelRef
from agent.rounds.context import make_models
from agent.rounds.run import host_settings
from agent.search_models import Models
from agent.tasks.registry import open_task
from agent.tasks.task import Task
from agent.training.initial import initial_models_job
from agent.training.jobs import Place
from search.errors import NotFoundError, UsageError
from store.database import open_store, sqlite_path
from store.names import run_named
from store.schema import Run


@contextmanager
def asking(config: Config) -> Iterator[tuple[Models, Task, dict[str, ModelRef]]]:
    """(Models, task, refs), with the hosts running for as long as the block."""
    task = open_task(config.task, config.problems)
    with TemporaryDirectory(prefix="ratchet-models-") as scratch:
        refs = _last_models(config) or _base_models(config, scratch)
        hosts: Hosts = make_hosts(
            config.hosting.hosting, host_settings(config), config.hosting.ray_address
        )
        try:
            yield make_models(config, hosts, model_set(refs), task), task, refs
        finally:
            hosts.close()


def _last_models(config: Config) -> dict[str, ModelRef] | None:
    """Models after the run's last round; None without such a run, or with a policy of one's own."""
    path = sqlite_path(config.store)
    if config.policy or (path is not None and not path.is_file()):
        if not config.policy and config.run != "default":
            raise NotFoundError(
                f"there is no run {config.run!r}: there is no store at {path}",
                "give its --store, or leave --run out to ask the base models",
            )
        return None
    store = open_store(config.store, must_exist=True)
    try:
        with store.session() as session:
            run = (
                session.scalars(select(Run).where(Run.name == config.run)).one_or_none()
                if config.run == "default"
                else run_named(session, config.run)
            )
        if run is None:
            return None
        if run.task != config.task:
            if config.run == "default":
                return None
            raise UsageError(
                f"run {run.name!r} is of task {run.task!r}, not {config.task!r}",
                f"add --task {run.task}, or leave --run out",
            )
        return current_models(store, run.id, _warn, is_written=False)
    finally:
        store.close()


def _warn(text: str) -> None:
    print(text, file=sys.stderr)


def _base_models(config: Config, scratch: str) -> dict[str, ModelRef]:
    refs = {role: as_ref(role, c) for role, c in base_checkpoints(config).items()}
    if len(refs) < 5:
        made = initial_models_job(refs["policy"].path, Place(scratch, config.hosting.threads))
        refs |= {t.role: ModelRef(t.role, t.version, t.path) for t in made}
    return refs
