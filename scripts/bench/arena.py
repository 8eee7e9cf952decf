"""Are the arena's intervals what they claim, and what would simpler ways have said?

    python -m scripts.bench.arena
    python -m scripts.bench.arena --only coverage --repeats 1000 --json arena.json

Coverage: six contestants of known strengths; how often a 95 % interval holds the truth, over
repetitions of a whole set of votes, in four layouts. Ways: the inverse Hessian, the sandwich vote
by vote, that by problem, and the arena's own choice. Elo: the same votes in other orders. Judges:
a fifth of them click at random. Active: votes until the strengths are as sure as with drawn pairs.
Speed: 100,000 votes of 50 contestants.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median, stdev

import numpy as np

from agent.arena.bradley_terry import SCALE, Clusters, Strengths, fitted
from agent.arena.judges import judge_fits
from agent.arena.pairing import chances, drawn, met_of
from agent.arena.ranks import rank_sets
from agent.arena.votes import Vote, vote_table
from scripts.bench.report import Row, share, show, write
from store.states import Choice

STRENGTHS = np.array([-0.9, -0.5, -0.1, 0.2, 0.5, 0.8])
NAMES = [f"model-{i}" for i in range(len(STRENGTHS))]
NU = 0.6
"""Davidson's, of the layout with ties: about a fifth of the votes are ties there."""
TASTE = 0.7
"""Standard deviation of a judge's own liking of a contestant."""
Noise = np.random.Generator
Layout = Callable[[Noise, int], list[Vote]]


def _vote(noise: Noise, a: int, b: int, gap: float, problem: str, judge: str) -> Vote:
    if noise.random() < 0.5:
        a, b, gap = b, a, -gap
    choice = Choice.LEFT if noise.random() < 1 / (1 + np.exp(-gap)) else Choice.RIGHT
    return Vote(NAMES[a], NAMES[b], choice, problem, judge)


def independent(noise: Noise, size: int) -> list[Vote]:
    found = []
    for i in range(600 * size):
        a, b = noise.choice(6, 2, replace=False)
        gap = STRENGTHS[a] - STRENGTHS[b]
        found.append(_vote(noise, a, b, gap, f"p{i}", "j"))
    return found


def with_ties(noise: Noise, size: int) -> list[Vote]:
    found = []
    for i in range(600 * size):
        a, b = noise.choice(6, 2, replace=False)
        gap = STRENGTHS[a] - STRENGTHS[b]
        weight = np.exp([gap / 2, -gap / 2, np.log(NU)])
        told = noise.choice(3, p=weight / weight.sum())
        choice = (Choice.LEFT, Choice.RIGHT, Choice.TIE)[told]
        found.append(Vote(NAMES[a], NAMES[b], choice, f"p{i}", "j"))
    return found


def four_answers(noise: Noise, size: int) -> list[Vote]:
    """Four answers of a problem are put in an order, which is six votes."""
    found = []
    for i in range(150 * size):
        shown = noise.choice(6, 4, replace=False)
        liked = STRENGTHS[shown] + noise.gumbel(size=4)
        for j in range(4):
            for k in range(j + 1, 4):
                choice = Choice.LEFT if liked[j] > liked[k] else Choice.RIGHT
                found.append(Vote(NAMES[shown[j]], NAMES[shown[k]], choice, f"p{i}", "j"))
    return found


def judges_with_tastes(noise: Noise, size: int) -> list[Vote]:
    """Forty judges of twenty votes each, who like some contestants more than others do."""
    found = []
    for j in range(40 * size):
        taste = STRENGTHS + TASTE * noise.standard_normal(6)
        for _ in range(20):
            a, b = noise.choice(6, 2, replace=False)
            problem = f"p{noise.integers(400 * size)}"
            found.append(_vote(noise, a, b, taste[a] - taste[b], problem, f"j{j}"))
    return found


LAYOUTS: dict[str, Layout] = {
    "600 problems, one pair": independent,
    "600 problems, one pair, ties": with_ties,
    "150 problems, four answers": four_answers,
    "40 judges with tastes": judges_with_tastes,
}
WAYS: dict[str, Clusters | None] = {
    "inverse Hessian": "none",
    "sandwich by vote": "vote",
    "sandwich by problem": "problem",
    "the arena's": None,
}


def coverage(repeats: int, seed: int) -> Iterator[Row]:
    for name, layout in LAYOUTS.items():
        # What the fit tends to with ever more votes: with tastes and ties that is not STRENGTHS.
        truth = fitted(vote_table(layout(np.random.default_rng(seed + 10**6), 300))).values
        held: dict[str, list[float]] = {way: [] for way in WAYS}
        widths: dict[str, list[float]] = {way: [] for way in WAYS}
        ranks = []
        rank = len(truth) - np.argsort(np.argsort(truth))
        for i in range(repeats):
            ballots = vote_table(layout(np.random.default_rng((seed, i)), 1))
            for way, clusters in WAYS.items():
                found = fitted(ballots, clusters=clusters)
                ends = np.array(found.intervals())
                held[way].append(float(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean()))
                widths[way].append(SCALE * float((ends[:, 1] - ends[:, 0]).mean()))
            sets = rank_sets(found)
            ranks.append(all(s.best <= r <= s.worst for s, r in zip(sets, rank, strict=True)))
        for way in WAYS:
            error = 1.96 * stdev(held[way]) / repeats**0.5
            yield {
                "name": f"coverage, {name}: {way}",
                "value": mean(held[way]),
                "unit": "share of intervals with the truth; .95 claimed",
                "low": mean(held[way]) - error,
                "high": mean(held[way]) + error,
                "n": repeats * len(truth),
                "baseline": f"width {mean(widths[way]):.0f} Elo",
            }
        told = "all six at once; .95 claimed at least"
        yield share(f"coverage, {name}: rank sets", sum(ranks), repeats, told)


def online_elo(orders: int, seed: int) -> Iterator[Row]:
    """The same 600 votes in other orders, by the rule of chess clubs."""
    noise = np.random.default_rng(seed)
    votes = independent(noise, 1)
    place = {name: i for i, name in enumerate(NAMES)}
    fixed = SCALE * fitted(vote_table(votes)).values
    for k in (32.0, 4.0):
        finals = []
        for _ in range(orders):
            rating = np.zeros(6)
            for i in noise.permutation(len(votes)):
                a, b = place[votes[i].left], place[votes[i].right]
                p = 1 / (1 + 10 ** ((rating[b] - rating[a]) / 400))
                step = k * ((votes[i].choice is Choice.LEFT) - p)
                rating[a] += step
                rating[b] -= step
            finals.append(rating)
        spread = np.std(finals, axis=0, ddof=1)
        first = [int(np.argmax(f)) for f in finals]
        moved = sum(f != int(np.argmax(fixed)) for f in first)
        width = mean(float(f.max() - f.min()) for f in finals)
        yield {
            "name": f"online Elo, K = {k:.0f}: spread by order",
            "value": float(spread.mean()),
            "unit": "Elo, standard deviation",
            "low": float(spread.min()),
            "high": float(spread.max()),
            "n": orders,
            "baseline": f"0 of a fit; another first in {moved}; range {width:.0f}, "
            f"of a fit {fixed.max() - fixed.min():.0f}",
        }


def random_judges(repeats: int, seed: int) -> Iterator[Row]:
    """Fifty judges of 60 votes, ten of whom click at random."""
    caught, honest = 0, 0
    for i in range(repeats):
        noise = np.random.default_rng((seed, 7, i))
        votes = []
        for j in range(50):
            for _ in range(60):
                a, b = noise.choice(6, 2, replace=False)
                gap = 0.0 if j < 10 else 2 * (STRENGTHS[a] - STRENGTHS[b])
                votes.append(_vote(noise, a, b, gap, f"p{noise.integers(500)}", f"j{j:02d}"))
        flagged = {f.judge for f in judge_fits(votes) if f.is_flagged}
        clicked = {f"j{j:02d}" for j in range(10)}
        caught += len(flagged & clicked)
        honest += len(flagged - clicked)
    yield share("judges who click at random, flagged", caught, 10 * repeats, "60 votes each")
    yield share("honest judges, flagged", honest, 40 * repeats, "60 votes each; .05 allowed")


def active(repeats: int, seed: int) -> Iterator[Row]:
    """Ten contestants, two of them close to each other: votes until the sum of variances is what
    800 votes of drawn pairs come to."""
    needed = []
    for i in range(repeats):
        noise = np.random.default_rng((seed, 11, i))
        strengths = np.sort(noise.normal(0, 1.2, 10))
        names = [f"m{j}" for j in range(10)]

        def voted(
            a: int,
            b: int,
            noise: Noise = noise,
            r: np.ndarray = strengths,
            names: list[str] = names,
        ) -> Vote:
            wins = noise.random() < 1 / (1 + np.exp(r[b] - r[a]))
            choice = Choice.LEFT if wins else Choice.RIGHT
            return Vote(names[a], names[b], choice, f"p{noise.integers(10**9)}", "j")

        def unsure(votes: list[Vote]) -> float:
            return float(np.trace(fitted(vote_table(votes), clusters="none").covariance))

        ring = [voted(a, (a + 1) % 10) for a in range(10) for _ in range(10)]
        by_chance = ring + [voted(*noise.choice(10, 2, replace=False)) for _ in range(700)]
        target = unsure(by_chance)
        votes = list(ring)
        possible = np.ones((10, 10))
        while unsure(votes) > target:
            ballots = vote_table(votes)
            chance = chances(names, met_of(ballots, names), fitted(ballots).values)
            for _ in range(20):
                draw = drawn(names, possible, chance, noise)
                votes.append(voted(names.index(draw.left), names.index(draw.right)))
        needed.append(len(votes) / len(by_chance))
    yield {
        "name": "votes by active choice, of those by chance",
        "value": median(needed),
        "unit": "times",
        "low": min(needed),
        "high": max(needed),
        "n": repeats,
        "baseline": "800 votes of pairs drawn alike",
    }


def speed(repeats: int, seed: int) -> Iterator[Row]:
    noise = np.random.default_rng(seed)
    m, n = 50, 100_000
    r = noise.normal(0, 0.7, m)
    a = noise.integers(0, m, n)
    b = (a + noise.integers(1, m, n)) % m
    wins = noise.random(n) < 1 / (1 + np.exp(r[b] - r[a]))
    votes = [
        Vote(
            f"m{x:02d}",
            f"m{y:02d}",
            Choice.LEFT if w else Choice.RIGHT,
            f"p{i // 4}",
            f"j{i % 500}",
        )
        for i, (x, y, w) in enumerate(zip(a.tolist(), b.tolist(), wins.tolist(), strict=True))
    ]
    seconds = []
    last: Strengths | None = None
    for i in range(repeats):
        order = np.random.default_rng(i).permutation(n).tolist()
        mixed = [votes[j] for j in order]
        began = time.process_time()
        found = fitted(vote_table(mixed))
        rank_sets(found)
        seconds.append(time.process_time() - began)
        if last is not None and not (
            np.array_equal(last.values, found.values)
            and np.array_equal(last.covariance, found.covariance)
        ):
            raise AssertionError("the order of votes changed a bit")
        last = found
    yield {
        "name": "100,000 votes of 50 contestants, with intervals and ranks",
        "value": median(seconds),
        "unit": "CPU s",
        "low": min(seconds),
        "high": max(seconds),
        "n": repeats,
        "baseline": "1 s allowed; every order of votes gave the same bits",
    }


PARTS = {
    "coverage": coverage,
    "elo": online_elo,
    "judges": random_judges,
    "active": active,
    "speed": speed,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, action="append", default=[])
    parser.add_argument("--repeats", type=int, default=300, help="of coverage; others take fewer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    counts = {
        "coverage": given.repeats,
        "elo": max(2, given.repeats * 2 // 3),
        "judges": max(1, given.repeats // 10),
        "active": max(1, given.repeats // 15),
        "speed": max(2, given.repeats // 60),
    }
    rows: list[Row] = []
    for name in given.only or PARTS:
        for row in PARTS[name](counts[name], given.seed):
            show(row)
            rows.append(row)
    settings = {"repeats": given.repeats, "only": ",".join(given.only)}
    write(given.json, "arena", settings, [given.seed], rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
