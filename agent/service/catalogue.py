"""Which models can be asked: the policy that the run began with, and each that was promoted.

A name is `RUN@ROUND`, round 0 being before the first; `latest` is the newest. With `:mcts` behind
it the answer is searched, without it is the policy's own text.
"""

import logging
import threading
import time
from dataclasses import dataclass

from agent.checkpoints.custody import stored_refs
from agent.checkpoints.model_refs import ModelSet
from agent.checkpoints.succession import models_after
from agent.config.settings import Config
from agent.search_models import Models
from agent.service.errors import ServiceError
from search.errors import RatchetError
from store.address import sqlite_path
from store.database import read_store
from store.rounds import rounds_of
from store.runs import find_run
from store.states import Stage, without_voters

SEARCHED = ":mcts"
LATEST = "latest"

log = logging.getLogger("ratchet")


@dataclass(frozen=True, slots=True)
class Entry:
    """A set of models that can be asked."""

    name: str
    """RUN@ROUND."""
    created: int
    """When it was published, in seconds since the epoch."""
    versions: tuple[tuple[str, str], ...]
    """Role and version."""


class Catalogue:
    """The models of one run. All methods are safe from any thread."""

    def __init__(self, models: Models, config: Config) -> None:
        """`models` are those that were opened, the run's newest."""
        self.config = config
        self.template = models
        self._lock = threading.Lock()
        self._opened: dict[tuple[tuple[str, str], ...], Models] = {_key(models.versions): models}
        now = int(time.time())
        self._entries = [Entry(f"{config.run}@0", now, _key(models.versions))]
        self.refresh()

    @property
    def entries(self) -> list[Entry]:
        """Oldest first."""
        return self._entries

    @property
    def latest(self) -> Entry:
        return self._entries[-1]

    def refresh(self) -> bool:
        """Look for models that were promoted since; whether the newest is another one now.

        A store that does not answer, or models that cannot be read, leave everything as it is.
        """
        before = self.latest
        try:
            found = self._promoted()
            for entry in found[-1:]:
                self.models_of(entry)
        except (RatchetError, OSError) as error:
            log.warning("the models stay as they are: %s", error)
            return False
        if found:
            self._entries = found
        return self.latest != before

    def _promoted(self) -> list[Entry]:
        config = self.config
        path = sqlite_path(config.store)
        if config.policy or config.bundle or (path is not None and not path.is_file()):
            return []
        store = read_store(config.store)
        try:
            with store.session() as session:
                run = find_run(session, config.run)
                rounds = (
                    [] if run is None or run.task != config.task else rounds_of(session, run.id)
                )
        finally:
            store.close()
        rounds.reverse()
        found = [
            Entry(f"{config.run}@0", row.started_ts // 1_000_000, _key(row.models))
            for row in rounds[:1]
        ]
        critics: dict[str, str] = {}
        for row in rounds:
            after = models_after(row.stage, row.models, row.candidates)
            if row.stage == Stage.PROMOTED:
                ended = (row.ended_ts or row.started_ts) // 1_000_000
                found.append(Entry(f"{config.run}@{row.number}", ended, _key(after)))
            critics = after
        if found and critics.get("policy") == dict(found[-1].versions).get("policy"):
            # Critics that learned since the promotion judge the newest policy.
            last = found[-1]
            found[-1] = Entry(last.name, last.created, _key(critics))
        return found

    def models_of(self, entry: Entry) -> Models:
        """The models, read and ready on their hosts. Raises CheckpointError, NotFoundError."""
        if (known := self._opened.get(entry.versions)) is not None:
            return known  # without the lock: reading another model's weights takes long
        with self._lock:
            if (known := self._opened.get(entry.versions)) is not None:
                return known
            store = read_store(self.config.store)
            try:
                refs = stored_refs(store, dict(entry.versions))
            finally:
                store.close()
            template = self.template
            for ref in refs.values():
                template.hosts.load(ref)
            models = Models(
                template.hosts, ModelSet(refs), template.task, template.given, template.prompts
            )
            self._opened[entry.versions] = models
            return models

    def resolve(self, name: str) -> tuple[Entry, bool]:
        """The entry of a model's name, and whether it is searched. Raises ServiceError (404)."""
        plain = name.removesuffix(SEARCHED)
        is_searched = plain != name
        if plain == LATEST:
            return self.latest, is_searched
        for entry in self._entries:
            if entry.name == plain:
                return entry, is_searched
        known = ", ".join(e.name for e in self._entries[-3:])
        raise ServiceError(
            404,
            f"there is no model {name!r}; there are {LATEST}, {known}, each also with {SEARCHED}",
            "model_not_found",
            "model",
        )


def _key(versions: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(without_voters(versions).items()))
