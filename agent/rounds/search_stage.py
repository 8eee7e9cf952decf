"""The searches of a round: cohort by cohort, each taken up again where a kill left it.

A cohort is a fixed set of searches that step together, so the batches of its model calls, and with
them the last bit of every result, depend neither on how many workers serve the round nor on what
else is under way. Its journal holds the answers of the models: it is flushed, for all searches of
the cohort in one transaction, before any of them is committed, so a resumed cohort goes on with
the very batches that would have followed.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agent.progress import Progress
from agent.rounds import failpoints
from agent.rounds.context import RunContext, chunks, judged
from agent.rounds.search_recorder import Recorder
from agent.search_models import Models
from search import frontier
from search.errors import StoreAwayError, StoreError
from search.interfaces import Evaluation, Proposal
from search.journal import Entry, entry_of, resume
from search.mcts import Expansion, Leaf, Search
from store.recording import (
    Claim,
    as_problem,
    claim,
    drop_journals,
    read_journals,
    record_search,
)
from store.rounds import searches_of
from store.schema import ProblemRow, SearchRow
from store.states import OPEN, Stage

FLUSH_EVERY_S = 5.0
LENGTH_SHARE = 0.05
"""Share of texts that end by length from which it is told."""

Row = tuple[SearchRow, ProblemRow]


class SearchStage:
    """Runs all searches of one round that have not ended."""

    def __init__(self, context: RunContext, models: Models, round_id: int) -> None:
        self.context = context
        self.models = models
        self._stopping = threading.Event()
        """Set when the process was asked to end: cohorts under way stop after their next step."""
        with context.store.session() as session:
            self.rows: list[Row] = searches_of(session, round_id)
        context.progress.stage(Stage.SEARCHING, len(self.rows), "problems")
        self.recorder = Recorder(context, self._stopping.is_set)
        self.tally = _Tally(self.rows, context.progress)

    def run(self) -> None:
        """All cohorts; enough are under way at a time for no worker to wait for the driver."""
        hosting = self.context.config.hosting
        cohorts = [
            cohort
            for cohort in chunks(self.rows, hosting.cohort)
            if any(_is_open(s) for s, _ in cohort)
        ]
        with ThreadPoolExecutor(hosting.workers + 1) as executor:
            futures = [executor.submit(self._search, cohort) for cohort in cohorts]
            try:
                for future in futures:
                    future.result()
                self.recorder.finish()
                self._report_lengths()
            except BaseException as error:
                self._stopping.set()
                if not isinstance(error, StoreAwayError):
                    self.context.store.patience_s = 0.0  # cohorts that wait for it end at once
                executor.shutdown(wait=True, cancel_futures=True)
                raise

    def _report_lengths(self) -> None:
        """Texts that were cut off say nothing: many of them mean that the length is too short."""
        tally, limits = self.tally, self.models.limits
        if tally.texts and tally.cut / tally.texts >= LENGTH_SHARE:
            self.context.progress.say(
                f"{tally.cut / tally.texts:.0%} of {tally.texts} texts ended by length: raise "
                f"hosting.text_tokens ({limits.text_tokens}, {limits.reason}), or teach the policy "
                "to end"
            )

    def _search(self, rows: Sequence[Row]) -> None:
        context, lease = self.context, self.context.lease
        lease.renew()
        with context.store.session() as session:
            claim(session, [s.id for s, _ in rows], lease.fence)
        failpoints.hit("after-claim")
        cohort = _Cohort(context, self.models, rows, self.recorder, self.tally)
        frontier.run(
            list(cohort.searches),
            self.models,
            self.models,
            cohort.listener,
            self._stopping.is_set,
            time.monotonic,
            context.config.hosting.batch_target,
        )


class _Cohort:
    """Searches that step together, and the journal of what they were told."""

    def __init__(
        self,
        context: RunContext,
        models: Models,
        rows: Sequence[Row],
        recorder: Recorder,
        tally: "_Tally",
    ) -> None:
        self.context = context
        self.models = models
        self.recorder = recorder
        self.tally = tally
        self.rows: dict[int, Row] = {}
        """By the identity of their search."""
        open_rows = [(s, p) for s, p in rows if _is_open(s)]
        with context.store.session() as session:
            journals = read_journals(session, [s.id for s, _ in open_rows])
        if not journals and len(open_rows) < len(rows):
            # Without journals the cohort begins anew as a whole: batches as if never stopped.
            open_rows = list(rows)
        try:
            self.searches = [self._started(row, journals) for row in open_rows]
        except StoreError as error:
            context.progress.say(f"warning: {error.message}; {len(rows)} searches begin anew")
            with context.store.session() as session:
                context.lease.guard(session)
                drop_journals(session, [s.id for s, _ in rows])
            journals, self.rows = {}, {}
            self.searches = [self._started(row, journals) for row in rows]
        if journals:
            done = sum(s.budget.simulations for s in self.searches)
            context.progress.say(
                f"took up {len(self.searches)} searches with {done} simulations done"
            )
        self._lengths = {s.id: len(journals.get(s.id, ())) for s, _ in rows}
        self._unwritten: list[tuple[int, int, Entry]] = []
        self._flushed = time.monotonic()
        self.listener = frontier.Listener(self._told, self._passed, self._done)

    def _started(self, row: Row, journals: dict[int, list[Entry]]) -> Search:
        search = self.models.search(as_problem(row[1]), row[0].seed, is_alone=True)
        self.rows[id(search)] = row
        resume(search, journals.get(row[0].id, ()))
        return search

    def _told(
        self, search: Search, request: Expansion | Leaf, answer: Proposal | Evaluation
    ) -> None:
        row = self.rows[id(search)][0]
        if isinstance(answer, Evaluation):
            self.tally.note(answer)
        if not _is_open(row):
            return
        key = row.id
        self._unwritten.append((key, self._lengths[key], entry_of(request, answer)))
        self._lengths[key] += 1

    def _passed(self) -> None:
        """Flush now and then, and always before a search of the cohort is committed."""
        is_time = time.monotonic() - self._flushed > FLUSH_EVERY_S
        if not self._unwritten or not (is_time or any(s.is_done for s in self.searches)):
            return
        self.recorder.journal(self._unwritten)
        self._unwritten = []
        self._flushed = time.monotonic()
        failpoints.hit("after-journal")

    def _done(self, search: Search) -> None:
        row, problem = self.rows[id(search)]
        self.searches.remove(search)

        def is_correct(answer: str | None) -> bool | None:
            return judged(self.context.task, answer, problem.answer)

        def commit() -> None:
            failpoints.hit("before-search-commit")
            held = Claim(row.id, self.context.lease.fence, self.models.policy.version)
            is_new = record_search(self.context.store, held, search, is_correct, 0.0)
            failpoints.hit("after-search-commit")
            if is_new:
                chosen = search.result().chosen
                self.tally.add(search, is_correct(chosen.rollout.answer if chosen else None))

        self.recorder.commit(commit)


class _Tally:
    """Counts what the search stage has done, for the progress line."""

    def __init__(self, rows: Sequence[Row], progress: Progress) -> None:
        self.progress = progress
        ended = [s for s, _ in rows if not _is_open(s)]
        self.done = len(ended)
        self.solved = sum(bool(s.is_correct) for s in ended)
        self.simulations = self.tokens = 0
        self.texts = self.cut = 0
        """Rollouts, and those of them that ended by length."""
        self._lock = threading.Lock()

    def note(self, evaluation: Evaluation) -> None:
        with self._lock:
            self.texts += len(evaluation.rollouts)
            self.cut += sum(not r.state.is_finished for r in evaluation.rollouts)

    def add(self, search: Search, is_correct: bool | None) -> None:
        with self._lock:
            self.done += 1
            self.solved += bool(is_correct)
            self.simulations += search.budget.simulations
            self.tokens += search.budget.tokens
            figures: dict[str, Any] = {
                "solved": self.solved / self.done,
                "simulations": self.simulations,
                "tokens": self.tokens,
            }
            self.progress.update(self.done, **figures)


def _is_open(row: SearchRow) -> bool:
    return row.status in OPEN
