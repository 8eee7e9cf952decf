"""Evaluations with their items; one that was made before is found, not made again."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from search.state import Problem
from store.database import now_us
from store.schema import CheckpointRow, EvaluationItem, EvaluationRow, HeldOutProblem
from store.states import Role


@dataclass(frozen=True, slots=True)
class Answered:
    answer: str | None
    is_correct: bool
    text: str | None = None
    """What was written; None where nothing was finished."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Answers of one policy to held-out problems in one mode, and what they cost."""

    mode: str
    items: Mapping[str, Answered]
    """By problem id."""
    num_tokens: int
    """Generated tokens, all problems and models together."""
    seconds: float
    interval: tuple[float, float]
    """95 % interval of the share that is right."""
    bits_per_character: float | None = None
    """Of the task's held-out worked texts, measured with greedy answers; None where there are
    none, or it was not measured."""
    num_cut: int | None = None
    """Texts cut off by length, where each problem has one; None elsewhere."""

    @property
    def n(self) -> int:
        return len(self.items)

    @property
    def num_correct(self) -> int:
        return sum(a.is_correct for a in self.items.values())

    @property
    def num_unanswered(self) -> int:
        return sum(a.answer is None for a in self.items.values())

    @property
    def correct(self) -> dict[str, bool]:
        return {key: a.is_correct for key, a in self.items.items()}

    def with_bits(self, bits: float | None) -> "Evaluation":
        return replace(self, bits_per_character=bits)


@dataclass(frozen=True, slots=True)
class EvaluationKey:
    """All that a result depends on."""

    models: Mapping[str, str]
    """Role to version, the policy's among them."""
    settings: Mapping[str, Any]
    benchmark_sha: str

    @property
    def policy(self) -> str:
        return self.models["policy"]

    @property
    def digest(self) -> str:
        """Of all but the policy's own weights."""
        raw = [dict(self.models), dict(self.settings), self.benchmark_sha]
        return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()[:32]


def _row(session: Session, key: EvaluationKey) -> EvaluationRow | None:
    return session.scalars(
        select(EvaluationRow).where(
            EvaluationRow.policy_version == key.policy, EvaluationRow.config_sha == key.digest
        )
    ).one_or_none()


def find_evaluation(session: Session, key: EvaluationKey) -> Evaluation | None:
    row = _row(session, key)
    if row is None:
        return None
    items = session.scalars(select(EvaluationItem).where(EvaluationItem.evaluation_id == row.id))
    return Evaluation(
        row.mode,
        {i.problem_key: Answered(i.answer, i.is_correct, i.text) for i in items},
        row.num_tokens,
        row.seconds,
        (row.low, row.high),
        row.bits_per_character,
        row.num_cut,
    )


def record_evaluation(
    session: Session,
    key: EvaluationKey,
    found: Evaluation,
    round_id: int | None,
    problems: Sequence[Problem] = (),
    task: str = "",
) -> None:
    """Write an evaluation, its items and the problems; of one that is there already, the bits that
    it lacked."""
    _record_problems(session, problems, task)
    known = _row(session, key)
    if known is not None:
        if known.bits_per_character is None:
            known.bits_per_character = found.bits_per_character
        return
    row = EvaluationRow(
        policy_version=key.policy,
        config_sha=key.digest,
        round_id=round_id,
        mode=found.mode,
        settings=dict(key.settings),
        models=dict(key.models),
        benchmark_sha=key.benchmark_sha,
        n=found.n,
        num_correct=found.num_correct,
        num_unanswered=found.num_unanswered,
        num_cut=found.num_cut,
        num_tokens=found.num_tokens,
        low=found.interval[0],
        high=found.interval[1],
        seconds=found.seconds,
        bits_per_character=found.bits_per_character,
        created_ts=now_us(),
    )
    session.add(row)
    session.flush()
    items = [
        {
            "evaluation_id": row.id,
            "problem_key": key,
            "answer": answered.answer,
            "is_correct": answered.is_correct,
            "text": answered.text,
        }
        for key, answered in found.items.items()
    ]
    if items:
        session.execute(insert(EvaluationItem), items)


def _record_problems(session: Session, problems: Sequence[Problem], task: str) -> None:
    """The rows of held-out problems; one that is there takes the newest reference."""
    rows = {p.id: {"key": p.id, "task": task, "text": p.text, "answer": p.answer} for p in problems}
    if not rows:
        return
    dialect = session.get_bind().dialect.name
    adding = (sqlite.insert if dialect == "sqlite" else postgresql.insert)(HeldOutProblem)
    newest = {"text": adding.excluded.text, "answer": adding.excluded.answer}
    session.execute(
        adding.on_conflict_do_update(index_elements=["key"], set_=newest), list(rows.values())
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """A policy whose greedy answers were counted."""

    version: str
    path: str
    num_correct: int
    n: int
    bits_per_character: float | None
    """Conditional ones, as the evaluation has them."""
    benchmark: str
    """Digest of the problems that were asked."""


def measured_policies(session: Session, task: str) -> list[Measured]:
    """Policies with greedy answers to the same problems of a task under the same settings, those
    that most of the store's policies were asked, oldest first."""
    asked = (
        select(EvaluationItem.evaluation_id)
        .join(HeldOutProblem, HeldOutProblem.key == EvaluationItem.problem_key)
        .where(HeldOutProblem.task == task)
    )
    rows = session.execute(
        select(EvaluationRow, CheckpointRow.path)
        .join(CheckpointRow, CheckpointRow.version == EvaluationRow.policy_version)
        .where(
            EvaluationRow.mode == "greedy",
            CheckpointRow.role == Role.POLICY,
            EvaluationRow.id.in_(asked),
        )
        .order_by(EvaluationRow.id)
    ).all()
    alike: dict[str, dict[str, Measured]] = {}
    for row, path in rows:
        key = json.dumps([row.settings, row.benchmark_sha], sort_keys=True)
        found = Measured(
            row.policy_version,
            path,
            row.num_correct,
            row.n,
            row.bits_per_character,
            row.benchmark_sha,
        )
        alike.setdefault(key, {}).setdefault(row.policy_version, found)
    return list(max(alike.values(), key=len).values()) if alike else []


@dataclass(frozen=True, slots=True)
class Sample:
    """A text that was written for a held-out problem."""

    policy: str
    mode: str
    problem: str
    reference: str | None
    answer: str | None
    is_correct: bool
    text: str | None


def last_measured(session: Session) -> str | None:
    """Version of the policy of the newest evaluation; None without any."""
    return session.scalars(
        select(EvaluationRow.policy_version).order_by(EvaluationRow.id.desc())
    ).first()


def samples_of(
    session: Session, policy: str, mode: str, is_correct: bool | None, limit: int
) -> list[Sample]:
    """What a policy wrote in its newest evaluation of a mode: right ones, wrong ones or all."""
    newest = session.scalars(
        select(EvaluationRow.id)
        .where(EvaluationRow.policy_version == policy, EvaluationRow.mode == mode)
        .order_by(EvaluationRow.id.desc())
    ).first()
    query = (
        select(EvaluationItem, HeldOutProblem)
        .outerjoin(HeldOutProblem, HeldOutProblem.key == EvaluationItem.problem_key)
        .where(EvaluationItem.evaluation_id == newest)
        .order_by(EvaluationItem.problem_key)
        .limit(limit)
    )
    if is_correct is not None:
        query = query.where(EvaluationItem.is_correct.is_(is_correct))
    return [
        Sample(
            policy,
            mode,
            problem.text if problem else item.problem_key,
            problem.answer if problem else None,
            item.answer,
            item.is_correct,
            item.text,
        )
        for item, problem in session.execute(query)
    ]


def evaluations_of(session: Session, policy_version: str) -> list[EvaluationRow]:
    """Everything that was measured of a policy, oldest first."""
    return list(
        session.scalars(
            select(EvaluationRow)
            .where(EvaluationRow.policy_version == policy_version)
            .order_by(EvaluationRow.id)
        )
    )


def correct_answers(session: Session, evaluation_id: int) -> dict[str, bool]:
    """Problem id to whether the answer was right."""
    rows = session.execute(
        select(EvaluationItem.problem_key, EvaluationItem.is_correct).where(
            EvaluationItem.evaluation_id == evaluation_id
        )
    )
    return {row.problem_key: row.is_correct for row in rows}
