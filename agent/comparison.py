"""Two rounds side by side: what their policies solve of the same held-out problems."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from agent.intervals import mcnemar_p, paired_difference
from search.errors import NotFoundError, UsageError
from store.database import Store
from store.schema import EvaluationItem, EvaluationRow, Round, Run


def policies_by_round(session: Session, run: str) -> dict[int, str]:
    """Version of the policy that each ended round left behind; 0 is before the first round.

    Raises NotFoundError for a run without rounds.
    """
    rounds = session.scalars(
        select(Round).join(Run, Run.id == Round.run_id).where(Run.name == run)
        .order_by(Round.number)
    ).all()  # fmt: skip
    if not rounds:
        raise NotFoundError(f"run {run!r} has no round", "see `ratchet inspect rounds`")
    found = {0: rounds[0].models["policy"]}
    for row in rounds:
        is_new = row.stage == "promoted" and row.candidates
        found[row.number] = (row.candidates if is_new else row.models)["policy"]  # type: ignore[index]
    return found


def compare_rounds(store: Store, run: str, before: int, after: int) -> list[dict[str, Any]]:
    """By mode: accuracy of both, gained, lost, and the paired difference with its 95 % interval.

    Raises NotFoundError for a round that is not there, UsageError when nothing was measured twice.
    """
    with store.session() as session:
        policies = policies_by_round(session, run)
        for number in (before, after):
            if number not in policies:
                raise NotFoundError(
                    f"run {run!r} has no round {number}",
                    f"it has rounds 1 to {max(policies)}; 0 is before the first one",
                )
        rows = [
            _compared(session, mine, theirs)
            for mine in _evaluations(session, policies[before])
            for theirs in _evaluations(session, policies[after])
            if (mine.mode, mine.benchmark_sha, mine.settings)
            == (theirs.mode, theirs.benchmark_sha, theirs.settings)
        ]
    if not rows:
        raise UsageError(
            f"the policies of rounds {before} and {after} were not measured on the same problems",
            "see `ratchet evaluate --compare A B`",
        )
    return rows


def _evaluations(session: Session, version: str) -> list[EvaluationRow]:
    return list(
        session.scalars(
            select(EvaluationRow).where(EvaluationRow.policy_version == version)
            .order_by(EvaluationRow.mode, EvaluationRow.id)
        )
    )  # fmt: skip


def _compared(session: Session, mine: EvaluationRow, theirs: EvaluationRow) -> dict[str, Any]:
    old, new = _correct(session, mine.id), _correct(session, theirs.id)
    keys = old.keys() & new.keys()
    gained = sum(new[k] and not old[k] for k in keys)
    lost = sum(old[k] and not new[k] for k in keys)
    difference, low, high = paired_difference(gained, lost, len(keys))
    return {
        "mode": mine.mode, "n": len(keys), "before": sum(old[k] for k in keys) / len(keys),
        "after": sum(new[k] for k in keys) / len(keys), "gained": gained, "lost": lost,
        "same": len(keys) - gained - lost, "difference": difference, "low": low, "high": high,
        "p": mcnemar_p(gained, lost), "policy_before": mine.policy_version,
        "policy_after": theirs.policy_version,
    }  # fmt: skip


def _correct(session: Session, evaluation_id: int) -> dict[str, bool]:
    rows = session.execute(
        select(EvaluationItem.problem_key, EvaluationItem.is_correct)
        .where(EvaluationItem.evaluation_id == evaluation_id)
    )  # fmt: skip
    return {row.problem_key: row.is_correct for row in rows}
