"""The search alone: its speed and growth with a policy and a critic that cost next to nothing."""

import cProfile
import math
import pstats
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.bench.report import Row, repeats
from search import frontier
from search.interfaces import EvaluateRequest, Evaluation, ExpandRequest, Proposal
from search.mcts import Search
from search.settings import LeafRule, SearchSettings
from search.state import Option, State


class FreeWorld:
    """A policy and a critic that cost next to nothing: options made beforehand, values of seeds."""

    def __init__(self, depth: int = 8) -> None:
        self.options = [
            tuple(
                Option((d, i), f"{d} {i}", -0.5 - 0.5 * i, "boundary" if d < depth - 1 else "end")
                for i in range(32)
            )
            for d in range(depth)
        ]

    def propose(self, requests: Sequence[ExpandRequest]) -> list[Proposal]:
        return [Proposal(self.options[len(r.state.options)][: r.count]) for r in requests]

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> list[Evaluation]:
        return [Evaluation((r.seed % 1009) / 1009) for r in requests]


def free_searches(trees: int, simulations: int, leaves: LeafRule = "states") -> list[Search]:
    settings = SearchSettings(
        simulations=simulations,
        max_tokens=0,
        leaves=leaves,
        importance=0.0,
        num_rollouts=0,
        stop_decided=False,
    )
    return [Search(State(str(i), (1,), "p"), settings, i) for i in range(trees)]


def free_rate(trees: int, simulations: int, leaves: LeafRule = "states") -> float:
    """Simulations a second of the search alone."""
    searches, world = free_searches(trees, simulations, leaves), FreeWorld()
    started = time.perf_counter()
    frontier.run(searches, world, world)
    return sum(s.budget.simulations for s in searches) / (time.perf_counter() - started)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares of log y over log x: 1 is linear growth."""
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    top = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
    return top / sum((x - mx) ** 2 for x in xs)


def speed(quick: bool) -> list[Row]:
    num = 2 if quick else 9
    what = "64 trees of 64 simulations, free policy and critic"
    rates_64 = [free_rate(64, 64) for _ in range(num)]
    rows = [repeats("pure_search_sims_per_s", rates_64, "1/s", what, target=20_000)]
    grids = {
        "simulations": [(16, 16), (16, 64), (16, 256), (16, 1024)],
        "trees": [(1, 64), (16, 64), (64, 64), (256, 64), (1024, 64)],
        "texts": [(16, 64), (16, 256), (16, 1024), (1, 16384)],
    }
    for name, grid in grids.items():
        grid = grid[:3] if quick else grid
        leaves: LeafRule = "texts" if name == "texts" else "states"
        rates = {}
        for trees, simulations in grid:
            few = [free_rate(trees, simulations, leaves) for _ in range(1 if quick else 3)]
            rates[trees, simulations] = max(few)
            rows.append(
                repeats(
                    f"pure_{'texts' if leaves == 'texts' else 'sims'}_per_s@{trees}x{simulations}",
                    few,
                    "1/s",
                    "trees x simulations" + (", of eight steps" if leaves == "texts" else ""),
                )
            )
        times = [(t * s, t * s / rates[t, s]) for t, s in grid]
        rows.append(
            {
                "name": "growth_exponent",
                "value": slope(times),
                "unit": f"over {name}",
                "n": len(times),
                "baseline": "1 is linear",
            }
        )
    profile = cProfile.Profile()
    searches, world = free_searches(64, 64), FreeWorld()
    profile.runcall(frontier.run, searches, world, world)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(v[2] for v in stats.values())
    top = sorted(stats.items(), key=lambda kv: -kv[1][2])[:6]
    for (file, _, function), figures in top:
        rows.append(
            {
                "name": f"profile_share_{Path(file).stem}.{function.strip('<>')}",
                "value": figures[2] / total,
                "unit": "share of own time",
                "n": figures[0],
                "baseline": "64 trees of 64 simulations under cProfile",
            }
        )
    return rows
