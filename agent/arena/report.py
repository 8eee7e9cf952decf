"""Standings as people and programs read them."""

from dataclasses import asdict
from typing import Any

from agent.arena.standings import Standings


def told(found: Standings) -> dict[str, Any]:
    """As `--json` prints it."""
    rows = []
    for row in found.rows:
        one = asdict(row)
        ranks = one.pop("ranks")
        rows.append(one | {"n": row.n, "best_rank": ranks["best"], "worst_rank": ranks["worst"]})
    return asdict(found) | {"rows": rows}


def standing_rows(found: Standings) -> list[dict[str, Any]]:
    """The table, for people."""
    return [
        {
            "contestant": row.contestant,
            "rating": f"{row.rating:.0f}",
            "95 %": f"{_end(row.low)} to {_end(row.high)}",
            "rank": f"{row.ranks.best} to {row.ranks.worst}",
            "won": row.wins,
            "lost": row.losses,
            "tied": row.ties,
        }
        for row in found.rows
    ]


def _end(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f}"


def facts(found: Standings) -> list[str]:
    """What stands below the table."""
    p = found.position
    lines = [
        f"{found.num_votes:,} votes on {found.num_problems:,} problems by {len(found.judges)} "
        f"judges, {found.tie_share:.0%} ties; votes taken together by {found.clusters}, which "
        f"makes variances {found.design_effect:.2f} times those of votes apart"
    ]
    if p.n:
        lines.append(
            f"the answer shown first was preferred in {p.share_left:.0%} [{p.low:.0%}, "
            f"{p.high:.0%}] of {p.n:,} preferences"
        )
    if found.num_repeated:
        kappa = "unknown" if found.kappa is None else f"{found.kappa:.2f}"
        lines.append(
            f"agreement of judges (Fleiss' kappa): {kappa} on {found.num_repeated:,} pairs"
        )
    return lines + [f"note: {note}" for note in found.notes]
