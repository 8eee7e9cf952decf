"""Evaluations with their items; one that was made before is found, not made again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from store.database import now_us
from store.schema import EvaluationItem, EvaluationRow


@dataclass(frozen=True, slots=True)
class Answered:
    answer: str | None
    is_correct: bool


class Measured(Protocol):
    """What is recorded of an evaluation."""

    @property
    def mode(self) -> Any: ...
    @property
    def items(self) -> Mapping[str, Answered]: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def seconds(self) -> float: ...


@dataclass(frozen=True, slots=True)
class StoredEvaluation:
    items: dict[str, Answered]
    num_tokens: int
    seconds: float


def settings_digest(
    versions: Mapping[str, str], settings: Mapping[str, Any], benchmark_sha: str
) -> str:
    """Digest of all that a result depends on besides the policy's own weights."""
    raw = json.dumps([dict(versions), dict(settings), benchmark_sha], sort_keys=True)
    return hashlib.sha256(raw.encode()).hexdigest()[:32]


def find_evaluation(
    session: Session, versions: Mapping[str, str], settings: Mapping[str, Any], benchmark_sha: str
) -> StoredEvaluation | None:
    row = session.scalars(
        select(EvaluationRow).where(
            EvaluationRow.policy_version == versions["policy"],
            EvaluationRow.config_sha == settings_digest(versions, settings, benchmark_sha),
        )
    ).one_or_none()
    if row is None:
        return None
    items = session.scalars(select(EvaluationItem).where(EvaluationItem.evaluation_id == row.id))
    return StoredEvaluation(
        {i.problem_key: Answered(i.answer, i.is_correct) for i in items},
        row.num_tokens,
        row.seconds,
    )


def record_evaluation(
    session: Session,
    versions: Mapping[str, str],
    settings: Mapping[str, Any],
    benchmark_sha: str,
    report: Measured,
    interval: tuple[float, float],
    round_id: int | None,
) -> None:
    """Write an evaluation and its items; one that is there already stays as it is."""
    if find_evaluation(session, versions, settings, benchmark_sha) is not None:
        return
    answers = list(report.items.values())
    row = EvaluationRow(
        policy_version=versions["policy"],
        config_sha=settings_digest(versions, settings, benchmark_sha),
        round_id=round_id,
        mode=report.mode,
        settings=dict(settings),
        models=dict(versions),
        benchmark_sha=benchmark_sha,
        n=len(answers),
        num_correct=sum(a.is_correct for a in answers),
        num_unanswered=sum(a.answer is None for a in answers),
        num_tokens=report.num_tokens,
        low=interval[0],
        high=interval[1],
        seconds=report.seconds,
        created_ts=now_us(),
    )
    session.add(row)
    session.flush()
    if answers:
        session.execute(
            insert(EvaluationItem),
            [
                {
                    "evaluation_id": row.id,
                    "problem_key": key,
                    "answer": a.answer,
                    "is_correct": a.is_correct,
                }
                for key, a in report.items.items()
            ],
        )
