"""Writing searches: everything that one search left behind, in the transaction that ends it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import numpy as np
from sqlalchemy import CursorResult, Table, bindparam, delete, insert, select, update
from sqlalchemy.orm import Session

from search.candidates import Candidate
from search.journal import Entry
from search.mcts import Search
from search.score import DOES_NOT_APPLY, Score
from search.state import Problem
from search.trajectory import first_text, trajectory
from store.bulk import insert_rows
from store.database import Store, now_us
from store.partitions import add_partitions, lock_planning
from store.schema import (
    CriticScore,
    Event,
    JournalRow,
    NodeRow,
    NodeText,
    ProblemRow,
    Round,
    SearchRow,
    SimulationRow,
    TrajectoryRow,
)
from store.states import OPEN, SearchStatus


class StoredStep(TypedDict):
    """One step of a trajectory."""

    text: str
    """Its text, line break included."""
    tokens: int
    """How many tokens it has."""
    visit_share: float | None
    """Visits of the option over those of all options of its state; null where there were none, or
    where a rollout wrote the step outside the tree."""
    q: float | None
    """Mean value of the option, in [0, 1]; null outside the tree or before a visit."""


class StoredSteps(TypedDict):
    steps: list[StoredStep]
    """The steps in order."""


IsCorrect = Callable[[str | None], bool | None]
"""Judges an answer against the reference; None when there is none."""


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Token ids as little-endian uint32."""
    return np.asarray(tokens, dtype="<u4").tobytes()


def unpack_tokens(raw: bytes) -> tuple[int, ...]:
    return tuple(int(t) for t in np.frombuffer(raw, dtype="<u4"))


def as_problem(row: ProblemRow) -> Problem:
    return Problem(
        row.key,
        row.text,
        row.answer,
        row.origin,
        row.difficulty,
        row.family,
        tuple(row.pictures.split()),
    )


def add_problems(
    session: Session, task: str, problems: Sequence[Problem], round_id: int | None
) -> list[ProblemRow]:
    """The rows of these problems, those of known ones included, in order."""
    known: dict[str, ProblemRow] = {}
    keys = [p.id for p in problems]
    for start in range(0, len(keys), 500):
        found = session.scalars(
            select(ProblemRow).where(
                ProblemRow.task == task, ProblemRow.key.in_(keys[start : start + 500])
            )
        )
        known.update((row.key, row) for row in found)
    for p in problems:
        row = known.get(p.id)
        if row is not None and row.answer is None and p.answer is not None:
            # A service was asked it first, and did not know more.
            row.answer, row.difficulty, row.origin = p.answer, p.difficulty, p.origin
        if row is None:
            known[p.id] = ProblemRow(
                task=task,
                key=p.id,
                text=p.text,
                answer=p.answer,
                origin=p.origin,
                difficulty=p.difficulty,
                family=p.family,
                pictures=" ".join(p.pictures),
                round_id=round_id,
            )
            session.add(known[p.id])
    session.flush()
    return [known[key] for key in keys]


def plan_searches(session: Session, round_row: Round, problems: Sequence[tuple[int, int]]) -> None:
    """One pending search for each (problem id, seed), in this order."""
    lock_planning(session)
    session.execute(
        insert(SearchRow),
        [
            {
                "round_id": round_row.id,
                "problem_id": problem_id,
                "position": i,
                "seed": seed,
                "status": SearchStatus.PENDING,
            }
            for i, (problem_id, seed) in enumerate(problems)
        ],
    )
    round_row.num_problems = len(problems)
    add_partitions(session, round_row.id)


def claim(session: Session, search_ids: Sequence[int], fence: int) -> None:
    """Mark searches as running under this fence; those that have ended stay as they are."""
    session.execute(
        update(SearchRow)
        .where(
            SearchRow.id.in_(search_ids),
            SearchRow.status.in_(OPEN),
            SearchRow.fence <= fence,
        )
        .values(status=SearchStatus.RUNNING, fence=fence)
    )


_searches = cast(Table, SearchRow.__table__)
_END = (
    update(_searches)
    .where(
        _searches.c.id == bindparam("search"),
        _searches.c.fence == bindparam("holder"),
        _searches.c.status == SearchStatus.RUNNING,
    )
    .values(
        {
            name: bindparam(name)
            for name in (
                "status",
                "policy_version",
                "num_simulations",
                "num_tokens",
                "num_unscored",
                "num_nodes",
                "stop_reason",
                "answer",
                "confidence",
                "is_sound",
                "is_correct",
                "root_rollout_answer",
                "root_rollout_correct",
                "ended_ts",
                "error",
            )
        }
    )
)
"""Built once, and without the ORM: building it would take as long as running it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who ends a search."""

    search_id: int
    fence: int
    """Of the holder of the run's lease."""
    policy_version: str


def record_search(
    store: Store,
    claimed: Claim,
    search: Search,
    is_correct: IsCorrect,
    patience_s: float | None = None,
) -> bool:
    """End a search and write all it found, in one transaction.

    Returns False, and writes nothing, when the search was ended before or claimed by a later
    fence: a second commit changes nothing.
    """
    with store.session(patience_s) as session:
        return end_search(session, claimed, search, is_correct)


def end_search(session: Session, claimed: Claim, search: Search, is_correct: IsCorrect) -> bool:
    """The same inside a transaction of the caller."""
    search_id = claimed.search_id
    result = search.result()
    chosen = result.chosen
    root = first_text(search)
    ended = session.execute(
        _END,
        {
            "search": search_id,
            "holder": claimed.fence,
            "status": (
                SearchStatus.FAILED if result.stop_reason == "failed" else SearchStatus.DONE
            ),
            "policy_version": claimed.policy_version,
            "num_simulations": result.budget.simulations,
            "num_tokens": result.budget.tokens,
            "num_unscored": search.num_unscored,
            "num_nodes": sum(len(n.edges) for n in search.nodes) + 1,
            "stop_reason": result.stop_reason,
            "answer": chosen.rollout.answer if chosen else None,
            "confidence": result.confidence,
            "is_sound": chosen.rollout.is_sound if chosen else None,
            "is_correct": is_correct(chosen.rollout.answer if chosen else None),
            "root_rollout_answer": root.answer if root else None,
            "root_rollout_correct": is_correct(root.answer if root else None),
            "ended_ts": now_us(),
            "error": search.error or None,
        },
    )
    if cast(CursorResult[Any], ended).rowcount != 1:
        return False
    problem_row_id = session.execute(
        select(SearchRow.problem_id).where(SearchRow.id == search_id)
    ).scalar_one()
    _write_nodes(session, search_id, search)
    insert_rows(
        session,
        SimulationRow,
        ("search_id", "seq", "leaf_ix", "value", "num_tokens"),
        [(search_id, i, s.leaf_ix, s.value, s.num_tokens) for i, s in enumerate(search.log)],
    )
    drop_journals(session, [search_id])
    rows = [
        _trajectory_row(search, c, search_id, problem_row_id, c is chosen, is_correct)
        for c in search.candidates
    ]
    if rows:
        session.execute(insert(cast(Table, TrajectoryRow.__table__)), rows)
    return True


def add_journal(session: Session, entries: Sequence[tuple[int, int, Entry]]) -> None:
    """Append (search id, place, entry) to the journals. The caller holds the run's lease."""
    session.execute(
        insert(JournalRow), [{"search_id": i, "seq": n, "entry": e} for i, n, e in entries]
    )


def read_journals(session: Session, search_ids: Sequence[int]) -> dict[int, list[Entry]]:
    """By search id what searches under way were told, in order; those without are left out."""
    journals: dict[int, list[Entry]] = {}
    for start in range(0, len(search_ids), 500):
        found = session.execute(
            select(JournalRow.search_id, JournalRow.entry)
            .where(JournalRow.search_id.in_(search_ids[start : start + 500]))
            .order_by(JournalRow.search_id, JournalRow.seq)
        )
        for search_id, entry in found:
            journals.setdefault(search_id, []).append(entry)
    return journals


def drop_journals(session: Session, search_ids: Sequence[int]) -> None:
    for start in range(0, len(search_ids), 500):
        part = search_ids[start : start + 500]
        session.execute(delete(JournalRow).where(JournalRow.search_id.in_(part)))


_NODE_COLUMNS = (
    "search_id",
    "ix",
    "parent_ix",
    "depth",
    "visits",
    "value_sum",
    "own_evaluations",
    "prior",
    "value",
    "stop",
    "unsound_reason",
    "num_tokens",
)
_SCORE_COLUMNS = ("search_id", "ix", "critic", "seq", "version", "score", "reason")


def _write_nodes(session: Session, search_id: int, search: Search) -> None:
    root = search.root
    root_sum = (root.value or 0.0) + sum(e.value_sum for e in root.edges)
    nodes: list[tuple[Any, ...]] = [
        (
            search_id,
            root.ix,
            None,
            0,
            root.visits,
            root_sum,
            root.num_evaluations,
            None,
            root.value,
            None,
            None,
            0,
        )
    ]
    texts = [(search_id, root.ix, root.state.prompt)]
    scores: list[tuple[Any, ...]] = []
    next_ix = len(search.nodes)
    for node in search.nodes:
        for seq, rollout in enumerate(node.rollouts):
            scores.append(_score_row(search_id, node.ix, seq, rollout.outcome, "outcome"))
        for score in node.scores:
            if score.reason != DOES_NOT_APPLY and score.critic != "outcome":
                scores.append(_score_row(search_id, node.ix, 0, score, score.critic))
        depth = node.depth + 1
        for edge in node.edges:
            child, option = edge.child, edge.option
            ix = child.ix if child else next_ix
            next_ix += child is None
            nodes.append(
                (
                    search_id,
                    ix,
                    node.ix,
                    depth,
                    edge.visits,
                    edge.value_sum,
                    child.num_evaluations if child else 0,
                    edge.prior,
                    child.value if child else None,
                    option.stop,
                    edge.unsound_reason or None,
                    len(option.tokens),
                )
            )
            texts.append((search_id, ix, option.text))
    insert_rows(session, NodeRow, _NODE_COLUMNS, nodes)
    insert_rows(session, NodeText, ("search_id", "ix", "text"), texts)
    insert_rows(session, CriticScore, _SCORE_COLUMNS, scores)


def _score_row(
    search_id: int, ix: int, seq: int, score: Score, critic: str
) -> tuple[int, int, str, int, str, float | None, str]:
    return search_id, ix, critic, seq, score.version, score.value, score.reason


def _trajectory_row(
    search: Search,
    candidate: Candidate,
    search_id: int,
    problem_id: int,
    is_chosen: bool,
    is_correct: IsCorrect,
) -> dict[str, Any]:
    found = trajectory(search, candidate)
    tokens = candidate.rollout.state.tokens
    steps: StoredSteps = {
        "steps": [
            {"text": s.text, "tokens": s.num_tokens, "visit_share": s.visit_share, "q": s.q}
            for s in found.steps
        ]
    }
    return {
        "sha": hashlib.sha256(pack_tokens(tokens)).hexdigest()[:32],
        "search_id": search_id,
        "problem_id": problem_id,
        "is_chosen": is_chosen,
        "prompt_tokens": pack_tokens(found.prompt_tokens),
        "tokens": pack_tokens(found.tokens),
        "text": "".join(step.text for step in found.steps),
        "steps": steps,
        "answer": found.answer,
        "outcome": found.outcome.value,
        "is_sound": found.is_sound,
        "is_correct": is_correct(found.answer),
    }


def add_event(
    session: Session, run_id: int, kind: str, payload: dict[str, Any], round_id: int | None = None
) -> None:
    session.add(Event(ts=now_us(), run_id=run_id, round_id=round_id, kind=kind, payload=payload))
