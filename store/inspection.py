"""Read-only questions. Nothing here can write: SQLite is opened read-only and watched statement by
statement, PostgreSQL runs in a read-only transaction with a time limit."""

import difflib
import json
import re
import subprocess
import sys
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
from store import console
from store.address import sqlite_path
from store.database import Store, reading_uri
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

ROWS_A_FETCH = 50
"""Rows of a server's answer that are in memory before their size is looked at."""
KILL_AFTER_S = 1.0
"""Seconds past its limit at which a statement that looks at no clock is ended."""


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
        return _ask_child(path, statement, max_rows, timeout_s)
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
        return _ask_here(path, question.sql, bound, max_rows, timeout_s)
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


def _ask_child(path: Path, statement: str, max_rows: int, timeout_s: float) -> Answer:
    """In a process that can be ended: a single function call of SQLite may take minutes."""
    request = {
        "uri": reading_uri(path),
        "statement": statement,
        "bound": {},
        "max_rows": max_rows,
        "timeout_s": timeout_s,
    }
    with subprocess.Popen(
        [sys.executable, "-I", console.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        try:
            out, _ = child.communicate(json.dumps(request).encode(), timeout_s + KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            raise _explained("interrupted", False, timeout_s) from None
        finally:
            child.kill()
    if child.returncode or not out:
        raise _explained("it needs more memory than it may have", False, timeout_s)
    return _read(json.loads(out), timeout_s)


def _ask_here(
    path: Path, statement: str, bound: dict[str, Any], max_rows: int, timeout_s: float
) -> Answer:
    """A statement of ours, which asks nothing that takes long between two looks at the clock."""
    request = {
        "uri": reading_uri(path),
        "statement": statement,
        "bound": bound,
        "max_rows": max_rows,
        "timeout_s": timeout_s,
    }
    return _read(console.answer(request), timeout_s)


def _read(found: dict[str, Any], timeout_s: float) -> Answer:
    if "error" in found:
        raise _explained(found["error"], found["is_refused"], timeout_s)
    rows = [tuple(map(_cell, row)) for row in found["rows"]]
    return Answer(found["columns"], rows, found["is_cut"])


def _cell(value: Any) -> Any:
    return f"<{value['bytes']} bytes>" if isinstance(value, dict) else value


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
            rows, size, end = [], 0, time.monotonic() + timeout_s
            while len(rows) <= max_rows:
                result = connection.exec_driver_sql(f"FETCH {ROWS_A_FETCH} FROM answer")
                fetched = [_plain(row) for row in result]
                rows += fetched
                size += sum(len(v) for row in fetched for v in row if isinstance(v, str | bytes))
                if size > console.MAX_ANSWER:
                    raise _explained(
                        f"it answers with over {console.MAX_ANSWER:,} characters", False, timeout_s
                    )
                if time.monotonic() > end:
                    raise _explained("interrupted", False, timeout_s)
                if len(fetched) < ROWS_A_FETCH:
                    break
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
            "pictures": problem.pictures.split(),
            "reference": problem.answer,
            "answer": row.answer,
            "correct": row.is_correct,
            "confidence": row.confidence,
            "status": row.status,
            "stop": row.stop_reason,
            "simulations": row.num_simulations,
            "tokens": row.num_tokens,
        }
