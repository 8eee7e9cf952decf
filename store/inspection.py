"""Read-only questions. Nothing here can write: SQLite is opened read-only and watched statement by
statement, PostgreSQL runs in a read-only transaction with a time limit."""

import difflib
import re
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

from search.errors import NotFoundError, UsageError
from search.simulation_log import Simulation, rebuild
from store.address import sqlite_path
from store.database import Store
from store.names import check_names, check_round, run_named
from store.questions import BY_NAME
from store.schema import (
    CriticScore,
    DatasetItem,
    NodeRow,
    NodeText,
    ProblemRow,
    Round,
    Run,
    SearchRow,
    SimulationRow,
    TrajectoryRow,
)

_ALLOWED = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
_FORBIDDEN_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}
MAX_CELL = 10_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    columns: list[str]
    rows: list[tuple[Any, ...]]
    is_cut: bool
    """Whether there were more rows than the limit."""


def outcome_scores(store: Store, run: str) -> list[tuple[int, str, float, bool | None, bool]]:
    """(round, critic version, outcome score, is it right, is it the search's answer) of every
    scored text of a run, by round. What is right is None where nobody knows the answer.
    """
    with store.session() as session:
        run_named(session, run)
        rows = session.execute(
            select(
                Round.number,
                Round.models,
                TrajectoryRow.outcome,
                TrajectoryRow.is_correct,
                TrajectoryRow.is_chosen,
            )
            .join(SearchRow, SearchRow.round_id == Round.id)
            .join(TrajectoryRow, TrajectoryRow.search_id == SearchRow.id)
            .join(Run, Run.id == Round.run_id)
            .where(Run.name == run, TrajectoryRow.outcome.is_not(None))
            .order_by(Round.number)
        )
        return [
            (number, str(models.get("outcome", "")), score, is_correct, is_chosen)
            for number, models, score, is_correct, is_chosen in rows
            if score is not None
        ]


def ask_sql(store: Store, statement: str, max_rows: int = 1000, timeout_s: float = 1.0) -> Answer:
    """Answer one SELECT. Raises UsageError for anything else, for bad SQL and for slow SQL."""
    path = sqlite_path(store.url)
    if path is not None:
        return _ask_sqlite(path, statement, {}, max_rows, timeout_s)
    return _ask_server(store, statement, None, max_rows, timeout_s)


def ask_question(
    store: Store, name: str, given: dict[str, Any], max_rows: int = 1000, timeout_s: float = 10.0
) -> Answer:
    """Answer one of `questions.QUESTIONS`; what it needs of `given` is bound, the rest is ignored.

    Without a round the run's last one is meant. Raises UsageError for an unknown name or a missing
    parameter, NotFoundError for a run without rounds.
    """
    question = BY_NAME.get(name)
    if question is None:
        near = difflib.get_close_matches(name, BY_NAME, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"there is no question {name!r}", f"{meant}`ratchet inspect ask` lists them all"
        )
    bound = {p: given.get(p) for p in question.parameters}
    if "round" in bound and bound["round"] is None:
        bound["round"] = _last_round(store, str(bound["run"]))
    missing = [p for p, value in bound.items() if value is None]
    if missing:
        raise UsageError(
            f"the question {name!r} needs a {missing[0]}", f"give --{missing[0]} as well"
        )
    with store.session() as session:
        check_names(session, bound)
    path = sqlite_path(store.url)
    if path is not None:
        return _ask_sqlite(path, question.sql, bound, max_rows, timeout_s)
    return _ask_server(store, question.sql, bound, max_rows, timeout_s)


def _last_round(store: Store, run: str) -> int:
    with store.session() as session:
        found = session.scalar(
            select(func.max(Round.number)).join(Run, Run.id == Round.run_id).where(Run.name == run)
        )
    if found is None:
        raise NotFoundError(
            f"run {run!r} has no round", "see `ratchet inspect rounds`, or give another --run"
        )
    return int(found)


def _ask_sqlite(
    path: Path, statement: str, bound: dict[str, Any], max_rows: int, timeout_s: float
) -> Answer:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    deadline = time.monotonic() + timeout_s
    refused: list[str] = []

    def authorize(action: int, first: str | None, second: str | None, *_: object) -> int:
        is_good = action in _ALLOWED and not (
            action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FORBIDDEN_FUNCTIONS
        )
        if not is_good:
            refused.append(first or second or "")
        return sqlite3.SQLITE_OK if is_good else sqlite3.SQLITE_DENY

    try:
        connection.execute("PRAGMA query_only = ON")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CELL)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 200)
        connection.set_authorizer(authorize)
        cursor = connection.execute(statement, bound)
        if cursor.description is None:
            raise UsageError("that is not a SELECT", "ask with SELECT ...")
        rows = cursor.fetchmany(max_rows + 1)
        columns = [d[0] for d in cursor.description]
        return Answer(columns, rows[:max_rows], len(rows) > max_rows)
    except (sqlite3.Error, sqlite3.Warning, ValueError, UnicodeError) as error:
        raise _explained(str(error), bool(refused), timeout_s) from error
    finally:
        connection.close()


def _explained(cause: str, is_refused: bool, timeout_s: float) -> UsageError:
    if is_refused or "readonly" in cause or "not authorized" in cause:
        return UsageError(
            f"the statement does more than read: {cause}", "ask with one SELECT statement"
        )
    if "interrupted" in cause:
        return UsageError(
            f"the statement took longer than {timeout_s:g} s", "narrow it, or raise --timeout"
        )
    return UsageError(
        f"the statement failed: {cause}", "correct it; `ratchet store dictionary` has the tables"
    )


def _ask_server(
    store: Store, statement: str, bound: dict[str, Any] | None, max_rows: int, timeout_s: float
) -> Answer:
    """With `bound` the statement is one of ours; without, whoever asks wrote it."""
    with store.engine.connect() as connection:
        try:
            connection.execute(text("SET TRANSACTION READ ONLY"))
            limit = max(1, int(1000 * timeout_s))
            connection.execute(text(f"SET LOCAL statement_timeout = {limit}"))
            if bound is not None:
                own = connection.execute(text(statement), bound)
                rows = [_plain(row) for row in own.fetchmany(max_rows + 1)]
                return Answer(list(own.keys()), rows[:max_rows], len(rows) > max_rows)
            # A cursor declared for the statement can hold one SELECT and nothing else.
            connection.exec_driver_sql(
                f"DECLARE answer NO SCROLL CURSOR FOR {statement.replace('%', '%%')}"
            )
            result = connection.exec_driver_sql(f"FETCH {max_rows + 1} FROM answer")
            rows = [_plain(row) for row in result]
            return Answer(list(result.keys()), rows[:max_rows], len(rows) > max_rows)
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", error)).splitlines()[0]
            if "statement timeout" in cause:
                cause = "interrupted"
            raise _explained(cause, "read-only" in cause, timeout_s) from error
        finally:
            connection.rollback()


def _plain(row: Iterable[Any]) -> tuple[Any, ...]:
    """PostgreSQL averages whole numbers as decimals; SQLite, and JSON, know floats."""
    return tuple(float(x) if isinstance(x, Decimal) else x for x in row)


def list_rounds(store: Store) -> list[dict[str, Any]]:
    with store.session() as session:
        found = session.execute(
            select(Run.name, Round).join(Round, Round.run_id == Run.id).order_by(Round.id)
        ).all()
        solved = {
            row.round_id: row
            for row in session.execute(
                text(
                    "SELECT round_id, count(*) AS n, "
                    "sum(CASE WHEN status IN ('done', 'failed') THEN 1 ELSE 0 END) AS done, "
                    "sum(CASE WHEN is_correct THEN 1 ELSE 0 END) AS solved, "
                    "sum(CASE WHEN root_rollout_correct THEN 1 ELSE 0 END) AS greedy "
                    "FROM searches GROUP BY round_id"
                )
            )
        }
    rows = []
    for name, row in found:
        counts = solved.get(row.id)
        verdict = row.verdict or {}
        rows.append(
            {
                "run": name,
                "round": row.number,
                "stage": row.stage,
                "searches": f"{counts.done}/{counts.n}" if counts else "0/0",
                "solved": counts.solved if counts else 0,
                "solved_greedily": counts.greedy if counts else 0,
                "policy": row.models.get("policy"),
                "candidate": (row.candidates or {}).get("policy"),
                "difference": verdict.get("difference"),
                "p": verdict.get("p"),
                "reason": verdict.get("reason", row.error or ""),
                "seconds": round(sum(row.timings.values())),
            }
        )
    return rows


def list_searches(
    store: Store, run: str, round_number: int | None, unsolved: bool, gained: bool, limit: int
) -> list[dict[str, Any]]:
    query = (
        select(SearchRow, ProblemRow.text, ProblemRow.answer, Round.number)
        .join(ProblemRow, ProblemRow.id == SearchRow.problem_id)
        .join(Round, Round.id == SearchRow.round_id)
        .join(Run, Run.id == Round.run_id)
        .where(Run.name == run)
        .order_by(Round.number.desc(), SearchRow.position)
        .limit(limit)
    )
    if round_number is not None:
        query = query.where(Round.number == round_number)
    if unsolved:
        query = query.where(SearchRow.is_correct.is_(False))
    if gained:
        query = query.where(
            SearchRow.is_correct.is_(True), SearchRow.root_rollout_correct.is_(False)
        )
    with store.session() as session:
        check_round(session, run, round_number)
        return [
            {
                "search": s.id,
                "round": number,
                "problem": problem,
                "reference": reference,
                "answer": s.answer,
                "correct": s.is_correct,
                "greedy": s.root_rollout_answer,
                "status": s.status,
                "stop": s.stop_reason,
                "simulations": s.num_simulations,
                "tokens": s.num_tokens,
                "confidence": s.confidence,
            }
            for s, problem, reference, number in session.execute(query)
        ]


def list_trajectories(
    store: Store, run: str, round_number: int | None, kept: bool, limit: int
) -> list[dict[str, Any]]:
    query = (
        select(TrajectoryRow, ProblemRow.text, Round.number)
        .join(SearchRow, SearchRow.id == TrajectoryRow.search_id)
        .join(ProblemRow, ProblemRow.id == TrajectoryRow.problem_id)
        .join(Round, Round.id == SearchRow.round_id)
        .join(Run, Run.id == Round.run_id)
        .where(Run.name == run)
        .order_by(TrajectoryRow.id)
        .limit(limit)
    )
    if round_number is not None:
        query = query.where(Round.number == round_number)
    if kept:
        query = query.where(TrajectoryRow.id.in_(select(DatasetItem.trajectory_id)))
    with store.session() as session:
        check_round(session, run, round_number)
        found = session.execute(query).all()
        ids = [t.id for t, _, _ in found]
        taken = set(
            session.scalars(
                select(DatasetItem.trajectory_id).where(DatasetItem.trajectory_id.in_(ids))
            )
        )
        return [
            {
                "trajectory": t.id,
                "search": t.search_id,
                "round": number,
                "problem": problem,
                "text": t.text,
                "answer": t.answer,
                "outcome": t.outcome,
                "sound": t.is_sound,
                "correct": t.is_correct,
                "chosen": t.is_chosen,
                "kept": t.id in taken,
                "steps": t.steps["steps"],
            }
            for t, problem, number in found
        ]


def read_siblings(store: Store, search_id: int, parent: int) -> list[dict[str, Any]]:
    """The options of a node, most visited first, as `read_tree` gives them and with `difference`.

    That is a list of (same, added or missing; words), against the first one. Raises NotFoundError.
    """
    nodes = [n for n in read_tree(store, search_id) if n["parent"] == parent]
    if not nodes:
        raise NotFoundError(
            f"node {parent} of search {search_id} has no options", "see `ratchet inspect tree`"
        )
    nodes.sort(key=lambda n: (-n["n"], n["ix"]))
    best = _words(nodes[0]["text"])
    return [n | {"difference": _difference(best, _words(n["text"]))} for n in nodes]


def _words(step: str | None) -> list[str]:
    return re.findall(r"\d+|\w+|\s+|[^\w\s]", step or "")


def _difference(old: list[str], new: list[str]) -> list[tuple[str, str]]:
    parts: list[tuple[str, str]] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, False).get_opcodes():
        if kind == "equal":
            parts.append(("same", "".join(new[c:d])))
            continue
        if a < b:
            parts.append(("missing", "".join(old[a:b])))
        if c < d:
            parts.append(("added", "".join(new[c:d])))
    return parts


def _principal(parents: dict[int, int | None], visits: list[int]) -> set[int]:
    """Numbers of the nodes on the most visited line below the root; the first of equals.

    `parents` is by number, `visits` in the same order.
    """
    count = dict(zip(parents, visits, strict=True))
    line: set[int] = set()
    here: int | None = 0
    while here is not None:
        children = [ix for ix, parent in parents.items() if parent == here and count[ix] > 0]
        here = max(children, key=lambda ix: (count[ix], -ix), default=None)
        if here is not None:
            line.add(here)
    return line


def read_tree(store: Store, search_id: int, after: int | None = None) -> list[dict[str, Any]]:
    """Nodes of a search in order of their number, each with its text and scores.

    With `after`, N and Q are those after this many simulations, rebuilt from the log.
    """
    with store.session() as session:
        if session.get(SearchRow, search_id) is None:
            raise NotFoundError(f"there is no search {search_id}", "see `ratchet inspect searches`")
        scores: dict[int, dict[str, list[float | None]]] = {}
        for s in session.scalars(select(CriticScore).where(CriticScore.search_id == search_id)):
            scores.setdefault(s.ix, {}).setdefault(s.critic, []).append(s.score)
        found = session.execute(
            select(NodeRow, NodeText.text)
            .join(
                NodeText,
                (NodeText.search_id == NodeRow.search_id) & (NodeText.ix == NodeRow.ix),
                isouter=True,
            )
            .where(NodeRow.search_id == search_id)
            .order_by(NodeRow.ix)
        )
        rows = found.all()
        visits, sums = [n.visits for n, _ in rows], [n.value_sum for n, _ in rows]
        if after is not None:
            log = session.scalars(
                select(SimulationRow)
                .where(SimulationRow.search_id == search_id, SimulationRow.seq < after)
                .order_by(SimulationRow.seq)
            )
            visits, sums = rebuild(
                [n.parent_ix for n, _ in rows],
                [Simulation(s.leaf_ix, s.value, s.num_tokens) for s in log],
            )
        line = _principal({n.ix: n.parent_ix for n, _ in rows}, visits)
        return [
            {
                "ix": n.ix,
                "parent": n.parent_ix,
                "depth": n.depth,
                "text": step,
                "n": visits[i],
                "q": sums[i] / visits[i] if visits[i] else None,
                "p": n.prior,
                "value": n.value,
                "stop": n.stop,
                "unsound": n.unsound_reason,
                "critics": scores.get(n.ix, {}),
                "principal": n.ix in line,
            }
            for i, (n, step) in enumerate(rows)
        ]


def read_search(store: Store, search_id: int) -> dict[str, Any]:
    """The problem of a search, its answers, and why it ended. Raises NotFoundError."""
    with store.session() as session:
        row = session.get(SearchRow, search_id)
        if row is None:
            raise NotFoundError(f"there is no search {search_id}", "see `ratchet inspect searches`")
        problem = session.get_one(ProblemRow, row.problem_id)
        return {
            "search": row.id,
            "problem": problem.text,
            "reference": problem.answer,
            "answer": row.answer,
            "correct": row.is_correct,
            "confidence": row.confidence,
            "status": row.status,
            "stop": row.stop_reason,
            "simulations": row.num_simulations,
            "tokens": row.num_tokens,
        }
