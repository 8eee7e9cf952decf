"""The Python door: what the commands do, as functions that return typed records.

    from agent import api

    with api.open_run(task="expressions") as run:
        found = run.solve("7+2*3-4+5*6-1")
        print(found.answer, found.confidence, [step.text for step in found.steps])

Settings are those of the command line, by the same names: `open_run(**{"search.simulations": 32})`.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from agent.config.load import load_config
from agent.config.settings import Config
from agent.evaluation.answering import Mode, Plan, evaluate
from agent.open_models import open_models
from agent.search_models import Models
from agent.solve import Solution, search_for, solution_of
from search import frontier
from search.errors import UsageError
from store import viewing
from store.database import read_store
from store.evaluations import Evaluation
from store.inspection import list_rounds, read_tree

IN_PROCESS = {"hosting.hosting": "inline"}


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A stored round."""

    run: str
    number: int
    stage: str
    searches: str
    """Ended ones of all."""
    solved: int
    policy: str
    candidate: str | None
    difference: float | None
    """Accuracy gained on the held-out problems, as a share."""
    p: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """A stored search."""

    id: int
    problem: str
    reference: str | None
    answer: str | None
    correct: bool | None
    status: str
    stop: str | None
    simulations: int | None
    tokens: int | None
    confidence: float | None


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node of a stored tree."""

    ix: int
    parent: int | None
    depth: int
    text: str
    visits: int
    q: float | None
    prior: float | None
    value: float | None
    unsound: str | None
    is_principal: bool
    """Whether it is on the most visited line."""


class Run:
    """The newest models of a run, and what its store holds."""

    def __init__(self, models: Models, config: Config) -> None:
        self.models = models
        self.config = config

    def solve(self, question: str, simulations: int | None = None) -> Solution:
        """Search for the answer to one question. Raises TaskError for what is no problem."""
        return self.solve_all([question], simulations)[0]

    def solve_all(self, questions: Sequence[str], simulations: int | None = None) -> list[Solution]:
        """The same for many, whose searches share their batches."""
        models, settings = self.models, self.models.settings
        if simulations is not None:
            settings = replace(settings, simulations=simulations)
        seed = self.config.seed
        searches = [search_for(models, q, seed, settings=settings) for q in questions]
        frontier.run(searches, models, models, clock=time.monotonic)
        return [
            solution_of(models, question, search)
            for question, search in zip(questions, searches, strict=True)
        ]

    def evaluate(self, mode: Mode = "greedy", num_problems: int = 200) -> Evaluation:
        """Accuracy on held-out problems with its 95 % interval."""
        problems = self.models.task.held_out(num_problems, self.config.evaluation.seed)
        return evaluate(self.models, problems, Plan(mode, seed=self.config.seed))

    def rounds(self) -> list[RoundRecord]:
        """The run's stored rounds, oldest first."""
        store = read_store(self.config.store)
        try:
            rows = [row for row in list_rounds(store) if row["run"] == self.config.run]
        finally:
            store.close()
        names = ("run", "stage", "searches", "solved", "policy", "candidate", "difference", "p")
        return [
            RoundRecord(number=row["round"], reason=row["reason"], **{n: row[n] for n in names})
            for row in rows
        ]

    def searches(self, round: int, kind: str = "", words: str = "") -> Iterator[SearchRecord]:
        """A round's stored searches in order, all or those of a kind.

        `kind` is gained, lost, solved, unsolved, failed or running; `words` a part of the problem.
        Raises UsageError for another kind.
        """
        if kind and kind not in viewing.FILTERS:
            raise UsageError(f"there is no kind {kind!r}", f"one of {', '.join(viewing.FILTERS)}")
        page, names = 0, SearchRecord.__dataclass_fields__
        while True:
            store = read_store(self.config.store)
            try:
                with store.session() as session:
                    rows, _ = viewing.searches_shown(
                        session, self.config.run, round, kind=kind, words=words, page=page
                    )
            finally:
                store.close()
            if not rows:
                return
            for row in rows:
                yield SearchRecord(**{name: row[name] for name in names})
            page += 1

    def tree(self, search: int, after: int | None = None) -> list[NodeRecord]:
        """The nodes of a stored search, as they were after so many simulations.

        Raises NotFoundError.
        """
        store = read_store(self.config.store)
        try:
            rows = read_tree(store, search, after)
        finally:
            store.close()
        return [
            NodeRecord(
                row["ix"],
                row["parent"],
                row["depth"],
                row["text"] or "",
                row["n"],
                row["q"],
                row["p"],
                row["value"],
                row["unsound"],
                row["principal"],
            )
            for row in rows
        ]


@contextmanager
def open_run(
    run: str = "", *, store: str = "", task: str = "", policy: str = "", **settings: Any
) -> Iterator[Run]:
    """A run with its newest models loaded, in this process unless settings say otherwise.

    Without rounds the models are the embedded ones, or those of `policy`. Raises UsageError for
    unknown settings, NotFoundError for a run that is not there.
    """
    named = {"run": run, "store": store, "task": task, "policy": policy}
    flags = IN_PROCESS | {k: v for k, v in named.items() if v} | settings
    config, _ = load_config(flags)
    with open_models(config) as models:
        yield Run(models, config)
