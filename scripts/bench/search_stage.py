"""What the searching stage of a round costs at an equal share of problems solved, before and after.

    git worktree add /tmp/before 388ead1                     # 0.9.0
    python -m scripts.bench.search_stage --before /tmp/before
    python -m scripts.bench.search_stage --before /tmp/before --task stories --problems 200

Each row is the searching stage of a first round of the embedded models with their calculator, in a
process of its own from the checkout that it names, at one bound of tokens a problem: share of
problems whose answer is right, tokens read and CPU seconds of the whole stage. The last rows set
the cheapest bounds beside each other at which this version solves at least what the older one does.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from scripts.bench.report import Row, counted, missing, repeats, share, show, write

HERE = Path(__file__).resolve().parent.parent.parent
BOUNDS = (64, 128, 256, 450)
STAGE = """
import json, sys, tempfile, time
import torch
torch.set_num_threads(1)
from sqlalchemy import select
from agent.config.load import load_config
from agent.progress import Silent
from agent.rounds.run import Improver
from store.schema import ProblemRow, Round, SearchRow, TrajectoryRow

task, bound, num, seed = sys.argv[1], *map(int, sys.argv[2:])
spent = [0.0]
class Clock(Silent):
    def stage(self, stage, *rest):
        spent.append(time.process_time())
        names.append(str(stage))
names = ["starting"]
with tempfile.TemporaryDirectory() as folder:
    flags = {
        "task": task, "seed": seed, "hosting.hosting": "inline", "problems_per_round": num,
        "tokens_per_problem": bound, "store": f"sqlite:///{folder}/s.db",
        "checkpoints": f"{folder}/c", "critics.steps": 0, "training.num_steps": 1,
        "training.drafter_steps": 0, "evaluation.num_problems": 10,
        "evaluation.num_search_problems": 0,
    }
    config = load_config(flags)[0]
    with Improver(config, Clock()).started() as improver:
        improver.run_round()
        with improver.store.session() as session:
            rows = session.execute(
                select(TrajectoryRow.is_correct, SearchRow.num_tokens, ProblemRow.origin)
                .join(SearchRow, SearchRow.id == TrajectoryRow.search_id)
                .join(ProblemRow, ProblemRow.id == SearchRow.problem_id)
                .where(TrajectoryRow.is_chosen)
            ).all()
            tokens = sum(t or 0 for t in session.scalars(
                select(SearchRow.num_tokens).join(
                    ProblemRow, ProblemRow.id == SearchRow.problem_id
                ).where(ProblemRow.origin != "probe")))
spent.append(time.process_time())
place = max(i for i, name in enumerate(names) if name.endswith("searching"))
print(json.dumps({
    "right": sum(bool(r) for r, _, origin in rows if origin != "probe"), "n": num,
    "tokens": tokens / num, "cpu_s": spent[place + 1] - spent[place],
}))
"""


def staged(checkout: Path, task: str, bound: int, num: int, seed: int) -> dict[str, Any]:
    """What the stage came to in that checkout."""
    arguments = [sys.executable, "-c", STAGE, task, str(bound), str(num), str(seed)]
    environment = {"PYTHONPATH": str(checkout), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        arguments, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{checkout} failed:\\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True, help="checkout of an older version")
    parser.add_argument("--task", choices=["expressions", "stories"], default="expressions")
    parser.add_argument("--problems", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    given = parser.parse_args()
    if not (given.before / "agent").is_dir():
        parser.error(f"{given.before} is no checkout: git worktree add {given.before} 388ead1")
    rows: list[Row] = []
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for seed in range(given.seeds):
        for bound in BOUNDS:
            for name, checkout in (("before", given.before.resolve()), ("after", HERE)):
                stage = staged(checkout, given.task, bound, given.problems, seed)
                found.setdefault((name, bound), []).append(stage)
                print(f"# seed {seed}, {bound} tokens, {name}: {stage}", flush=True)
    for (name, bound), stages in found.items():
        right, n = sum(s["right"] for s in stages), sum(s["n"] for s in stages)
        rows.append(share(f"solved_{name}@{bound}", right, n, given.task))
        rows.append(repeats(f"tokens_{name}@{bound}", [s["tokens"] for s in stages], "tokens", ""))
        rows.append(repeats(f"cpu_s_{name}@{bound}", [s["cpu_s"] for s in stages], "s", ""))
    solved = {key: sum(s["right"] for s in stages) for key, stages in found.items()}
    seconds = {key: sum(s["cpu_s"] for s in stages) for key, stages in found.items()}
    for bound in BOUNDS:
        enough = [b for b in BOUNDS if solved["after", b] >= solved["before", bound]]
        name = f"seconds_at_equal_share@{bound}"
        if not enough:
            rows.append(missing(name, "this version solves less at every bound"))
            continue
        ratio = seconds["after", enough[0]] / seconds["before", bound]
        why = f"of those before; this version at {enough[0]} tokens"
        rows.append(counted(name, ratio, "times", given.seeds, why))
    for row in rows:
        show(row)
    write(
        given.json,
        "search_stage",
        {"task": given.task, "problems": given.problems, "bounds": BOUNDS},
        list(range(given.seeds)),
        rows,
    )


if __name__ == "__main__":
    main()
