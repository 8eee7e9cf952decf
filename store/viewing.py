"""What the viewer's pages show, as plain rows."""

from typing import Any

from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.orm import Session

from search.errors import NotFoundError
from store.rounds import round_settings
from store.schema import (
    CheckpointRow,
    CriticScore,
    EvaluationRow,
    NodeRow,
    NodeText,
    PreferencePair,
    ProblemRow,
    Round,
    Run,
    SearchRow,
    SimulationRow,
    TrajectoryRow,
)

LABEL = 60
"""Characters of a step in lists; a node's detail has all of it."""
PAGE = 50
FILTERS = ("gained", "lost", "solved", "unsolved", "failed", "running")


def runs_shown(session: Session) -> list[dict[str, Any]]:
    """Runs with their counts, the newest first."""
    found = session.execute(
        select(Run, func.count(Round.id), func.max(Round.number), func.sum(Round.num_problems))
        .join(Round, Round.run_id == Run.id, isouter=True)
        .group_by(Run.id)
        .order_by(Run.id.desc())
    )
    return [
        {
            "name": run.name,
            "task": run.task,
            "rounds": rounds,
            "last": last or 0,
            "problems": problems or 0,
            "created_ts": run.created_ts,
            "code_version": run.code_version,
            "is_served": "serves" in run.config,
        }
        for run, rounds, last, problems in found
    ]


def searches_shown(
    session: Session,
    run: str,
    number: int,
    *,
    kind: str = "",
    words: str = "",
    stop: str = "",
    page: int = 0,
) -> tuple[list[dict[str, Any]], int]:
    """One page of a round's searches, and how many there are in all.

    `kind` is one of FILTERS, `words` a part of the problem's text, `stop` a reason to end.
    """
    query: Any = (
        select(SearchRow, ProblemRow)
        .join(ProblemRow, ProblemRow.id == SearchRow.problem_id)
        .join(Round, Round.id == SearchRow.round_id)
        .join(Run, Run.id == Round.run_id)
        .where(Run.name == run, Round.number == number)
    )
    query = _filtered(query, kind)
    if words:
        query = query.where(ProblemRow.text.contains(words, autoescape=True))
    if stop:
        query = query.where(SearchRow.stop_reason == stop)
    total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
    found = session.execute(query.order_by(SearchRow.position).limit(PAGE).offset(page * PAGE))
    return [_search(row, problem) for row, problem in found], total


def _filtered(query: Select[Any], kind: str) -> Select[Any]:
    right, greedy = SearchRow.is_correct, SearchRow.root_rollout_correct
    conditions = {
        "gained": and_(right.is_(True), or_(greedy.is_(False), greedy.is_(None))),
        "lost": and_(right.is_(False), greedy.is_(True)),
        "solved": right.is_(True),
        "unsolved": right.is_(False),
        "failed": SearchRow.status == "failed",
        "running": SearchRow.status.in_(("pending", "running")),
    }
    return query.where(conditions[kind]) if kind in conditions else query


def _search(row: SearchRow, problem: ProblemRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "problem_id": problem.id,
        "problem": problem.text,
        "pictures": problem.pictures.split(),
        "reference": problem.answer,
        "answer": row.answer,
        "correct": row.is_correct,
        "greedy": row.root_rollout_answer,
        "greedy_correct": row.root_rollout_correct,
        "status": row.status,
        "stop": row.stop_reason,
        "simulations": row.num_simulations,
        "tokens": row.num_tokens,
        "nodes": row.num_nodes,
        "confidence": row.confidence,
        "error": row.error,
        "request_id": row.request_id,
    }


def search_shown(session: Session, search_id: int) -> dict[str, Any]:
    """A search with its run and round. Raises NotFoundError."""
    found = session.execute(
        select(SearchRow, ProblemRow, Round, Run.name)
        .join(ProblemRow, ProblemRow.id == SearchRow.problem_id)
        .join(Round, Round.id == SearchRow.round_id)
        .join(Run, Run.id == Round.run_id)
        .where(SearchRow.id == search_id)
    ).one_or_none()
    if found is None:
        raise NotFoundError(f"there is no search {search_id}", "see the pages of the rounds")
    row, problem, round_row, run = found
    settings = round_settings(session, round_row.id)
    return _search(row, problem) | {
        "run": run,
        "round": round_row.number,
        "policy": row.policy_version,
        "is_trimmed": row.is_trimmed,
        "seed": row.seed,
        "search_config": dict(round_row.search_config),
        "settings": settings,
        "origin": problem.origin,
        "difficulty": problem.difficulty,
    }


def tree_columns(session: Session, search_id: int) -> dict[str, list[Any]]:
    """All nodes column by column, which is a third of the size of row by row; and the log."""
    rows = session.execute(
        select(
            NodeRow.ix,
            NodeRow.parent_ix,
            NodeRow.depth,
            NodeRow.visits,
            NodeRow.value_sum,
            NodeRow.prior,
            NodeRow.value,
            NodeRow.stop,
            NodeRow.unsound_reason,
            func.substr(NodeText.text, 1, LABEL),
        )
        .join(
            NodeText,
            (NodeText.search_id == NodeRow.search_id) & (NodeText.ix == NodeRow.ix),
            isouter=True,
        )
        .where(NodeRow.search_id == search_id)
        .order_by(NodeRow.ix)
    ).all()
    scores: dict[int, dict[str, float]] = {}
    for ix, critic, mean in session.execute(
        select(CriticScore.ix, CriticScore.critic, func.avg(CriticScore.score))
        .where(CriticScore.search_id == search_id, CriticScore.score.is_not(None))
        .group_by(CriticScore.ix, CriticScore.critic)
    ):
        scores.setdefault(ix, {})[critic] = _short(float(mean)) or 0.0
    log = session.execute(
        select(SimulationRow.leaf_ix, SimulationRow.value)
        .where(SimulationRow.search_id == search_id)
        .order_by(SimulationRow.seq)
    ).all()
    found: dict[str, list[Any]] = {
        "ix": [r[0] for r in rows],
        "parent": [r[1] for r in rows],
        "depth": [r[2] for r in rows],
        "n": [r[3] for r in rows],
        "w": [_short(r[4]) for r in rows],
        "p": [_short(r[5]) for r in rows],
        "value": [_short(r[6]) for r in rows],
        "stop": [r[7] for r in rows],
        "unsound": [1 if r[8] else 0 for r in rows],
        "label": [(r[9] or "").strip() for r in rows],
        "leaf": [r[0] for r in log],
        "backed": [_short(r[1]) for r in log],
    }
    for critic in ("value", "process", "outcome"):
        found[f"{critic}_score"] = [scores.get(r[0], {}).get(critic) for r in rows]
    return found


def _short(value: float | None) -> float | None:
    """Six digits are enough to look at."""
    return None if value is None else float(f"{value:.6g}")


def node_shown(session: Session, search_id: int, ix: int) -> dict[str, Any]:
    """All of one node: texts from the root on, scores, and the pairs that it is part of.

    Raises NotFoundError.
    """
    row = session.get(NodeRow, (search_id, ix))
    if row is None:
        raise NotFoundError(f"search {search_id} has no node {ix}", "see its tree")
    path: list[tuple[int, str]] = []
    at: NodeRow | None = row
    while at is not None:
        step = session.get(NodeText, (search_id, at.ix))
        path.append((at.ix, step.text if step else ""))
        at = session.get(NodeRow, (search_id, at.parent_ix)) if at.parent_ix is not None else None
    path.reverse()
    scores = session.scalars(
        select(CriticScore)
        .where(CriticScore.search_id == search_id, CriticScore.ix == ix)
        .order_by(CriticScore.critic, CriticScore.seq)
    )
    pairs = session.scalars(
        select(PreferencePair).where(
            PreferencePair.search_id == search_id,
            or_(PreferencePair.chosen_ix == ix, PreferencePair.rejected_ix == ix),
        )
    )
    return {
        "ix": ix,
        "parent": row.parent_ix,
        "depth": row.depth,
        "n": row.visits,
        "w": row.value_sum,
        "p": row.prior,
        "value": row.value,
        "stop": row.stop,
        "unsound": row.unsound_reason,
        "num_tokens": row.num_tokens,
        "text": path[-1][1],
        "path": [{"ix": i, "text": t} for i, t in path],
        "scores": [
            {"critic": s.critic, "version": s.version, "score": s.score, "reason": s.reason}
            for s in scores
        ],
        "pairs": [
            {
                "as": "chosen" if p.chosen_ix == ix else "rejected",
                "other": p.rejected_ix if p.chosen_ix == ix else p.chosen_ix,
                "margin": p.margin,
                "reason": p.reason or "its Q was lower",
            }
            for p in pairs
        ],
    }


def texts_shown(session: Session, search_id: int) -> list[dict[str, Any]]:
    """The finished texts that a search found, the chosen one first."""
    rows = session.scalars(
        select(TrajectoryRow)
        .where(TrajectoryRow.search_id == search_id)
        .order_by(TrajectoryRow.is_chosen.desc(), TrajectoryRow.outcome.desc())
        .limit(100)
    )
    return [
        {
            "text": t.text,
            "answer": t.answer,
            "outcome": t.outcome,
            "sound": t.is_sound,
            "correct": t.is_correct,
            "chosen": t.is_chosen,
        }
        for t in rows
    ]


def problem_shown(session: Session, problem_id: int) -> dict[str, Any]:
    """A problem and its searches. Raises NotFoundError."""
    problem = session.get(ProblemRow, problem_id)
    if problem is None:
        raise NotFoundError(f"there is no problem {problem_id}", "see the pages of the rounds")
    found = session.execute(
        select(SearchRow, Round.number, Run.name)
        .join(Round, Round.id == SearchRow.round_id)
        .join(Run, Run.id == Round.run_id)
        .where(SearchRow.problem_id == problem_id)
        .order_by(SearchRow.id)
        .limit(200)
    )
    return {
        "id": problem.id,
        "task": problem.task,
        "text": problem.text,
        "pictures": problem.pictures.split(),
        "answer": problem.answer,
        "origin": problem.origin,
        "difficulty": problem.difficulty,
        "searches": [_search(s, problem) | {"round": n, "run": r} for s, n, r in found],
    }


def side_by_side(session: Session, run: str, before: int, after: int) -> list[dict[str, Any]]:
    """Problems that both rounds searched, those first whose answer changed from or to right."""
    left, right = (
        select(SearchRow)
        .join(Round, Round.id == SearchRow.round_id)
        .join(Run, Run.id == Round.run_id)
        .where(Run.name == run, Round.number == number)
        .subquery()
        for number in (before, after)
    )
    found = session.execute(
        select(
            ProblemRow.id,
            ProblemRow.text,
            left.c.id,
            left.c.answer,
            left.c.is_correct,
            right.c.id,
            right.c.answer,
            right.c.is_correct,
        )
        .join(left, left.c.problem_id == ProblemRow.id)
        .join(right, right.c.problem_id == ProblemRow.id)
        .order_by(left.c.is_correct == right.c.is_correct, ProblemRow.id)
        .limit(500)
    )
    names = ("problem_id", "problem", "left", "left_answer", "left_correct", "right")
    return [dict(zip((*names, "right_answer", "right_correct"), row, strict=True)) for row in found]


def accuracies(session: Session) -> list[dict[str, Any]]:
    """All evaluations with the policy they are of."""
    rows = session.scalars(select(EvaluationRow).order_by(EvaluationRow.id))
    return [
        {
            "id": e.id,
            "policy": e.policy_version,
            "mode": e.mode,
            "n": e.n,
            "correct": e.num_correct,
            "benchmark": e.benchmark_sha[:8],
            "bits": e.bits_per_character,
        }
        for e in rows
    ]


def checkpoints_shown(session: Session) -> list[dict[str, Any]]:
    """Checkpoints with the round that trained them, oldest first."""
    found = session.execute(
        select(CheckpointRow, Round.number, Run.name)
        .join(Round, Round.id == CheckpointRow.round_id, isouter=True)
        .join(Run, Run.id == Round.run_id, isouter=True)
        .order_by(CheckpointRow.id)
    )
    return [
        {
            "role": c.role,
            "version": c.version,
            "parent": c.parent_version,
            "status": c.status,
            "bytes": c.num_bytes,
            "round": number,
            "run": run,
            "report": c.report,
        }
        for c, number, run in found
    ]
