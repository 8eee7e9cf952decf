"""Two rounds side by side: what their models solve of the same held-out problems."""

from collections.abc import Mapping
from typing import Any

from agent.checkpoints.succession import models_after
from agent.evaluation.gate import judge
from search.errors import NotFoundError, UsageError
from store.database import Session, Store
from store.evaluations import correct_answers, evaluations_of
from store.rounds import rounds_of_run
from store.schema import EvaluationRow
from store.states import ENDED

Key = tuple[str, str, str]
"""Mode, benchmark and settings of an evaluation, which make two of them comparable."""


def models_by_round(session: Session, run: str) -> dict[int, dict[str, str]]:
    """Role to version that each ended round left behind; 0 is before the first round.

    Raises NotFoundError for a run without rounds.
    """
    rounds = rounds_of_run(session, run)
    if not rounds:
        raise NotFoundError(f"run {run!r} has no round", "see `ratchet inspect rounds`")
    return {0: dict(rounds[0].models)} | {
        row.number: models_after(row.stage, row.models, row.candidates)
        for row in rounds
        if row.stage in ENDED
    }


def measured_of(session: Session, models: Mapping[str, str]) -> dict[Key, EvaluationRow]:
    """What was measured of a policy, one evaluation a key.

    Of several that differ in critics or drafter, the one with just these models is taken, else the
    newest.
    """
    found: dict[Key, EvaluationRow] = {}
    for row in evaluations_of(session, models["policy"]):
        key = (row.mode, row.benchmark_sha, repr(sorted(row.settings.items())))
        if key not in found or not _fits(found[key], models) or _fits(row, models):
            found[key] = row
    return found


def _fits(row: EvaluationRow, models: Mapping[str, str]) -> bool:
    return all(models.get(role) == version for role, version in row.models.items())


def compare_rounds(store: Store, run: str, before: int, after: int) -> list[dict[str, Any]]:
    """By mode: accuracy of both, gained, lost, and the paired difference with its 95 % interval.

    Raises NotFoundError for a round that is not there, UsageError when nothing was measured twice.
    """
    with store.session() as session:
        models = models_by_round(session, run)
        for number in (before, after):
            if number not in models:
                raise NotFoundError(
                    f"run {run!r} has no ended round {number}",
                    f"it has {', '.join(map(str, models))}; 0 is before the first one",
                )
        old = measured_of(session, models[before])
        new = measured_of(session, models[after])
        rows = [_compared(session, old[key], new[key]) for key in old if key in new]
    if not rows:
        raise UsageError(
            f"the policies of rounds {before} and {after} were not measured on the same problems",
            "see `ratchet evaluate --compare A B`",
        )
    return rows


def _compared(session: Session, mine: EvaluationRow, theirs: EvaluationRow) -> dict[str, Any]:
    old, new = correct_answers(session, mine.id), correct_answers(session, theirs.id)
    found = judge(old, new, 1.0)
    keys = old.keys() & new.keys()
    return {
        "mode": mine.mode,
        "n": found.n,
        "before": sum(old[k] for k in keys) / found.n,
        "after": sum(new[k] for k in keys) / found.n,
        "gained": found.gained,
        "lost": found.lost,
        "same": found.n - found.gained - found.lost,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "policy_before": mine.policy_version,
        "policy_after": theirs.policy_version,
    }
