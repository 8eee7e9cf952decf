"""Stored answers that can be compared with each other, and what was said of them."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased

from search.errors import NotFoundError, UsageError
from store.database import now_us
from store.schema import ArenaVote, EvaluationItem, EvaluationRow, HeldOutProblem
from store.states import Choice

LABEL = "{policy}/{mode}"
"""Name of a contestant: a policy and its way of answering."""


@dataclass(frozen=True, slots=True)
class ArenaAnswer:
    """What a contestant wrote for a problem, in its newest evaluation."""

    evaluation_id: int
    contestant: str
    text: str
    is_correct: bool

    @property
    def sha(self) -> str:
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class AnsweredProblem:
    """A held-out problem with the answers of all contestants that wrote one."""

    key: str
    text: str
    answers: tuple[ArenaAnswer, ...]
    """In the order of the contestants' names."""


@dataclass(frozen=True, slots=True)
class CastVote:
    """A vote as it is written and read."""

    problem: str
    left: ArenaAnswer
    right: ArenaAnswer
    choice: Choice
    judge: str
    strength: int = 1
    seconds: float | None = None
    seed: int = 0
    chance: float = 1.0


@dataclass(frozen=True, slots=True)
class StoredVote:
    id: int
    ts: int
    problem: str
    left: str
    right: str
    """Names of contestants."""
    left_sha: str
    right_sha: str
    choice: Choice
    judge: str
    strength: int
    seconds: float | None
    seed: int
    chance: float


def arena_tasks(session: Session) -> list[str]:
    """Tasks of which the store holds written answers."""
    query = (
        select(HeldOutProblem.task)
        .join(EvaluationItem, EvaluationItem.problem_key == HeldOutProblem.key)
        .where(EvaluationItem.text.is_not(None))
        .distinct()
        .order_by(HeldOutProblem.task)
    )
    return list(session.scalars(query))


def chosen_task(session: Session, task: str | None) -> str:
    """The task that is meant: the only one with answers need not be named. Raises
    NotFoundError, UsageError."""
    known = arena_tasks(session)
    if task is not None and task not in known:
        raise NotFoundError(
            f"the store has no written answers of task {task!r}",
            f"it has those of {', '.join(known)}"
            if known
            else "run `ratchet evaluate --store URL`",
        )
    if task is None and len(known) != 1:
        if known:
            raise UsageError("several tasks have answers", f"add --task: {', '.join(known)}")
        raise NotFoundError(
            "the store has no written answers yet", "run `ratchet evaluate --store URL`, or a round"
        )
    return task or known[0]


def arena_problems(
    session: Session, task: str, contestants: Sequence[str] = ()
) -> list[AnsweredProblem]:
    """Problems of a task that two contestants or more answered, by key; with names, answers of
    those alone. Raises NotFoundError for a name that wrote nothing."""
    query = (
        select(EvaluationItem, EvaluationRow.policy_version, EvaluationRow.mode)
        .join(EvaluationRow, EvaluationRow.id == EvaluationItem.evaluation_id)
        .join(HeldOutProblem, HeldOutProblem.key == EvaluationItem.problem_key)
        .where(HeldOutProblem.task == task, EvaluationItem.text.is_not(None))
        .order_by(EvaluationRow.id)
    )
    found: dict[str, dict[str, ArenaAnswer]] = {}
    for item, policy, mode in session.execute(query):
        name = LABEL.format(policy=policy, mode=mode)
        answer = ArenaAnswer(item.evaluation_id, name, item.text or "", item.is_correct)
        found.setdefault(item.problem_key, {})[name] = answer  # the newest evaluation's stays
    _check_named(contestants, {name for answers in found.values() for name in answers})
    texts = dict(
        session.execute(
            select(HeldOutProblem.key, HeldOutProblem.text).where(HeldOutProblem.task == task)
        ).all()
    )
    problems = []
    for key, answers in sorted(found.items()):
        own = [a for name, a in sorted(answers.items()) if not contestants or name in contestants]
        if len(own) > 1:
            problems.append(AnsweredProblem(key, texts[key], tuple(own)))
    return problems


def record_votes(session: Session, votes: Iterable[CastVote]) -> int:
    """Write votes; how many of them are new. What a judge said of a pair on a problem before
    stays."""
    rows = [
        {
            "ts": now_us(),
            "problem_key": v.problem,
            "left_id": v.left.evaluation_id,
            "right_id": v.right.evaluation_id,
            "pair": pair_name(v.left.contestant, v.right.contestant),
            "left_sha": v.left.sha,
            "right_sha": v.right.sha,
            "choice": v.choice,
            "strength": v.strength,
            "judge": v.judge,
            "seconds": v.seconds,
            "seed": v.seed,
            "chance": v.chance,
        }
        for v in votes
    ]
    if not rows:
        return 0
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    adding = (sqlite.insert if is_sqlite else postgresql.insert)(ArenaVote)
    new = session.scalars(adding.on_conflict_do_nothing().returning(ArenaVote.id), rows)
    return len(new.all())


def pair_name(one: str, other: str) -> str:
    return " ".join(sorted((one, other)))


def votes_cast(
    session: Session, task: str, judges: Sequence[str] = (), contestants: Sequence[str] = ()
) -> list[StoredVote]:
    """Votes on a task's problems, oldest first: all, or those of some judges and contestants.
    Raises NotFoundError for a judge or a contestant without a vote."""
    left, right = aliased(EvaluationRow), aliased(EvaluationRow)
    query = (
        select(ArenaVote, left.policy_version, left.mode, right.policy_version, right.mode)
        .join(HeldOutProblem, HeldOutProblem.key == ArenaVote.problem_key)
        .join(left, left.id == ArenaVote.left_id)
        .join(right, right.id == ArenaVote.right_id)
        .where(HeldOutProblem.task == task)
        .order_by(ArenaVote.id)
    )
    votes = [
        StoredVote(
            v.id,
            v.ts,
            v.problem_key,
            LABEL.format(policy=left_policy, mode=left_mode),
            LABEL.format(policy=right_policy, mode=right_mode),
            v.left_sha,
            v.right_sha,
            Choice(v.choice),
            v.judge,
            v.strength,
            v.seconds,
            v.seed,
            v.chance,
        )
        for v, left_policy, left_mode, right_policy, right_mode in session.execute(query)
    ]
    _check_named(contestants, {name for v in votes for name in (v.left, v.right)})
    _check_judges(judges, {v.judge for v in votes})
    return [
        v
        for v in votes
        if (not judges or v.judge in judges)
        and (not contestants or (v.left in contestants and v.right in contestants))
    ]


def compared_by(session: Session, task: str, judge: str) -> set[tuple[str, str]]:
    """Problem key and pair of all of a task that a judge has voted on."""
    rows = session.execute(
        select(ArenaVote.problem_key, ArenaVote.pair)
        .join(HeldOutProblem, HeldOutProblem.key == ArenaVote.problem_key)
        .where(HeldOutProblem.task == task, ArenaVote.judge == judge)
    )
    return {(key, pair) for key, pair in rows}


def exported_votes(votes: Iterable[StoredVote]) -> Iterator[dict[str, object]]:
    """Rows of a file: contestants by name, choice and what it was drawn with."""
    for v in votes:
        yield {
            "id": v.id,
            "ts": v.ts,
            "problem": v.problem,
            "left": v.left,
            "right": v.right,
            "left_sha": v.left_sha,
            "right_sha": v.right_sha,
            "choice": v.choice.value,
            "strength": v.strength,
            "judge": v.judge,
            "seconds": v.seconds,
            "seed": v.seed,
            "chance": v.chance,
        }


def _check_named(given: Sequence[str], known: set[str]) -> None:
    for name in given:
        if name not in known:
            listed = ", ".join(sorted(known)[:8]) or "none yet"
            raise NotFoundError(f"there is no contestant {name!r}", f"there are: {listed}")


def _check_judges(given: Sequence[str], known: set[str]) -> None:
    for name in given:
        if name not in known:
            listed = ", ".join(sorted(known)[:8]) or "none yet"
            raise NotFoundError(f"no vote is by a judge {name!r}", f"judges: {listed}")
