"""What imagination came to: yield, novelty, share in the target band, contamination.

    python -m scripts.bench.imagination --run ratchet-runs/bench/RUN
    python -m scripts.bench.imagination --task stories --json imagination.json

Of a run that scripts.bench.learning made: by round how many tries became problems, how many of
these share no thirteen words in a row with any problem before them, and how many turned out to lie
in the target band (solved by some texts of their search and not by others). Without a run: what
the operators alone give. Then the test of the guard: fifty held-out problems are planted among the
parents, half of them with their last sentence or operator changed. Under a minute.
"""

import argparse
import random
from pathlib import Path
from typing import Any

from sqlalchemy import select

from agent.config.settings import Config
from agent.imagination.decontamination import Decontamination
from agent.imagination.imagine import Imagination, Wanted
from agent.tasks.registry import open_task
from agent.tasks.task import Task
from scripts.bench.report import share, show, write
from search.state import Problem
from store.database import open_store
from store.recording import as_problem
from store.schema import Event, ProblemRow, Round, SearchRow
from store.selection import solve_rates


def novel(problems: list[Problem], before: list[Problem], task: Task) -> int:
    """Problems that share neither key nor n-gram with those before."""
    guard = Decontamination(before, task.key)
    return sum(not guard.leak(p.text) for p in problems)


def of_run(folder: Path, task: Task) -> list[dict[str, Any]]:
    """Rows by round of a finished run."""
    store = open_store(f"sqlite:///{folder}/store.db", must_exist=True)
    rows: list[dict[str, Any]] = []
    before = task.seeds(300, 0)
    with store.session() as session:
        for round_row in session.scalars(select(Round).order_by(Round.number)):
            event = session.scalars(
                select(Event).where(Event.round_id == round_row.id, Event.kind == "imagined")
            ).first()
            problems = [
                as_problem(p)
                for p in session.scalars(
                    select(ProblemRow)
                    .join(SearchRow, SearchRow.problem_id == ProblemRow.id)
                    .where(SearchRow.round_id == round_row.id)
                )
            ]
            rates = solve_rates(session, round_row.run_id)
            searched = [rates[p.id] for p in problems if p.id in rates]
            number = round_row.number
            if event:
                made = sum(event.payload["made"].values())
                rows.append(share(f"yield_round_{number}", made, event.payload["tries"], "tries"))
                leaks = event.payload["contaminated"]
                rows.append(
                    share(f"contaminated_round_{number}", leaks, event.payload["tries"], "tries")
                )
            rows.append(
                share(
                    f"novel_round_{number}",
                    novel(problems, before, task),
                    len(problems),
                    "no 13 words in a row of a seed or an earlier problem",
                )
            )
            rows.append(
                share(
                    f"in_band_round_{number}",
                    sum(0 < r < 1 for r in searched),
                    len(searched),
                    "solve rate under search strictly between 0 and 1",
                )
            )
            before += problems
    store.close()
    return rows


def of_operators(task: Task) -> list[dict[str, Any]]:
    """What the operators give without a run."""
    seeds = task.seeds(300, 0)
    found = Imagination(task, task.held_out(600, 0)).imagine(seeds, [], Wanted(1000, 1))
    report = found.report()
    made = sum(report["made"].values())
    return [
        share("yield", made, report["tries"], "tries"),
        share("contaminated", report["contaminated"], report["tries"], "tries"),
        share("novel", novel(found.problems, seeds, task), made, "no 13 words in a row of a seed"),
    ]


def planted(task: Task) -> list[dict[str, Any]]:
    """Held-out problems among the parents, as they are and slightly changed: are they caught?"""
    held_out = task.held_out(600, 0)
    guard = Decontamination(held_out, task.key)
    rng = random.Random(0)
    chosen = rng.sample([p for p in held_out if len(p.text) > 12], 50)
    whole = sum(guard.leak(p.text) != "" for p in chosen)
    edited = [p.text[:-1] + "3" if p.text[-1].isdigit() else p.text + " Think." for p in chosen]
    caught = sum(guard.leak(t) != "" for t in edited)
    imagined = Imagination(task, held_out).imagine(
        [*task.seeds(50, 0), *chosen], [], Wanted(1000, 2)
    )
    learned = sum(guard.leak(p.text) != "" for p in imagined.problems)
    return [
        share("planted_caught", whole, len(chosen), "held-out problems given to the guard"),
        share("planted_edited_caught", caught, len(chosen), "the same, the end changed"),
        share("planted_learned", learned, len(imagined.problems), "leaks among imagined problems"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="expressions", choices=["expressions", "stories"])
    parser.add_argument(
        "--run", type=Path, metavar="DIR", help="a run of python -m scripts.bench.learning"
    )
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    task = open_task(Config(task=arguments.task))
    rows = of_run(arguments.run.resolve(), task) if arguments.run else of_operators(task)
    rows += planted(task)
    for row in rows:
        show(row)
    write(arguments.json, "imagination", {"task": arguments.task}, [0], rows)


if __name__ == "__main__":
    main()
