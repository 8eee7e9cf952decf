"""Whether a critic still means what it says: its scores against the truth, by round."""

from typing import Any

from critics.calibration import auc
from store.database import Store
from store.inspection import outcome_scores


def critic_drift(store: Store, run: str) -> list[dict[str, Any]]:
    """By round and critic version: the outcome scores that searches were given, against the truth.

    Truth is the reference answer, where it is known; no critic ever sees it. A mean score that
    rises from round to round while the share of right texts does not is over-optimisation.
    """
    groups: dict[tuple[int, str], list[tuple[float, bool | None, bool]]] = {}
    for number, version, score, is_correct, is_chosen in outcome_scores(store, run):
        groups.setdefault((number, version), []).append((score, is_correct, is_chosen))
    found = []
    for (number, version), texts in groups.items():
        known = [(s, float(c)) for s, c, _ in texts if c is not None]
        chosen = [(s, float(c)) for s, c, is_chosen in texts if is_chosen and c is not None]
        area = auc([s for s, _ in known], [c for _, c in known])
        found.append(
            {
                "round": number,
                "critic": "outcome",
                "version": version,
                "texts": len(texts),
                "mean_score": _mean([s for s, _, _ in texts]),
                "right": _mean([c for _, c in known]),
                "AUC": None if area is None else round(area, 4),
                "chosen_mean_score": _mean([s for s, _ in chosen]),
                "chosen_right": _mean([c for _, c in chosen]),
            }
        )
    return found


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
