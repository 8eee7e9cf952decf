"""Search the problems of one round with the code of a checkout; one JSON line of what it came to.

    python -m scripts.bench.stage --problems 200

`scripts.bench.engine --against CHECKOUT` runs two checkouts' own stage scripts in turn.
"""

import argparse
import json
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, nargs="?", default=Path())
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--task", default="expressions")
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.checkout.resolve()))
    import torch

    torch.set_num_threads(1)
    from agent.config.load import load_config
    from agent.open_models import base_refs, models_over
    from search import frontier
    from search.mcts import Search

    config, _ = load_config({"task": arguments.task, "hosting.hosting": "inline"})
    refs = base_refs(config)
    models = models_over(config, refs)
    task = models.task
    problems = task.held_out(arguments.problems, 7)
    right = {p.id: p.answer for p in problems}
    for ref in refs.values():
        models.hosts.load(ref)
    searches = [Search(models.root(p), config.search, i) for i, p in enumerate(problems)]
    start = time.perf_counter()
    for first in range(0, len(searches), config.hosting.cohort):
        frontier.run(searches[first : first + config.hosting.cohort], models, models)
    seconds = time.perf_counter() - start
    chosen = [s.result().chosen for s in searches]
    answers = [c.rollout.answer if c else None for c in chosen]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "simulations": sum(s.budget.simulations for s in searches),
                "tokens": sum(s.budget.tokens for s in searches),
                "solved": sum(
                    bool(a is not None and task.is_correct(a, right[s.root.state.problem_id] or ""))
                    for a, s in zip(answers, searches, strict=True)
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
