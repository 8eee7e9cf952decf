"""Published tree searches beside ours: same policy, tool, problems and tokens.

    pip install 'treequest>=0.3,<0.4'
    pip install --no-deps 'llm-reasoners>=1.0,<2'
    python -m scripts.bench.peers                          # 100 expressions, 30 minutes
    python -m scripts.bench.peers --problems 20 --budgets 100 250

The peers are TreeQuest (SakanaAI), with its plain Monte-Carlo tree search and with its adaptive
branching, and llm-reasoners (Maitrix), with its MCTS in the settings of its RAP example on GSM8K.
They draw each line as a sample of the policy, and score it by the calculator and the value critic;
a node of TreeQuest is a text up to its first refuted line, one of llm-reasoners a line.
All arms end a problem at the first finished text that the calculator finds sound. A budget bounds
the tokens of each problem.
"""

import argparse
import importlib.util
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.search_models import Models
from scripts.bench import arms
from scripts.bench.report import Row, counted, missing, share, show, write
from scripts.bench.search import HELD_OUT_SEED, open_models
from search.interfaces import ExpandRequest
from search.randomness import derive_seed
from search.state import Problem, State

BUDGETS = (100, 250, 500, 1000)
CHILDREN = 4
CALLS = 4000
"""Of a problem at most: asking for more below a finished text costs no tokens."""


class Played:
    """One problem as a peer sees it: a function that draws a step and scores it."""

    def __init__(self, models: Models, problem: Problem, seed: int) -> None:
        self.models, self.problem, self.seed = models, problem, seed
        self.root = models.root(problem)
        self.tokens = self.calls = 0
        self.solution: State | None = None

    def draw(self, state: State) -> tuple[State, float] | None:
        """The state after one more line and its score; None where the line is refuted."""
        self.calls += 1
        request = ExpandRequest(state, 1, derive_seed(self.seed, self.problem.id, self.calls))
        (proposal,) = self.models.propose([request])
        self.tokens += proposal.num_tokens
        if state.is_terminal or not proposal.options or proposal.unsound[0]:
            return None
        state = state.extended(proposal.options[0])
        if state.is_finished:
            self.solution = self.solution or state
            return state, 1.0
        (score,) = self.models.value_scores([state])
        return state, 0.5 if score.value is None else score.value

    def written(self, parent: State | None) -> tuple[State, float]:
        """Lines until the text ends or one is refuted: what came before that, and its score."""
        state, score = parent or self.root, 0.0
        while not state.is_terminal and (found := self.draw(state)) is not None:
            state, score = found
        return state, score


def tree_quest(models: Models, problem: Problem, algorithm: Any, top: int, seed: int) -> arms.Point:
    """Steps of the peer's search until a sound finished text is there, or the tokens are spent."""
    random.seed(derive_seed(seed, problem.id))
    np.random.seed(derive_seed(seed, problem.id) % 2**32)
    played = Played(models, problem, seed)
    tree = algorithm.init_tree()
    while played.solution is None and played.tokens < top and played.calls < CALLS:
        tree = algorithm.step(tree, {"text": played.written}, inplace=True)
    answer = models.answer_of(played.solution) if played.solution else None
    return arms.Point(played.tokens, answer)


def llm_reasoners(models: Models, problem: Problem, top: int, seed: int) -> arms.Point:
    """The same with four samples a step, each a child that is scored before it is visited."""
    from reasoners import SearchConfig, WorldModel
    from reasoners.algorithm import MCTS
    from reasoners.algorithm.mcts import MCTSNode

    played = Played(models, problem, seed)
    scores: dict[int, float] = {}

    class Steps(WorldModel):
        def init_state(self) -> State:
            return played.root

        def step(self, state: State, action: State) -> tuple[State, dict[str, Any]]:
            return action, {}

        def is_terminal(self, state: State) -> bool:
            return state.is_terminal

    class Draws(SearchConfig):
        def get_actions(self, state: State) -> list[State]:
            found: dict[tuple[int, ...], State] = {}
            for _ in range(CHILDREN):
                if (drawn := played.draw(state)) is not None:
                    child, score = drawn
                    child = found.setdefault(tuple(child.tokens), child)
                    scores[id(child)] = score
            return list(found.values())

        def fast_reward(self, state: State, action: State) -> tuple[float, dict[str, Any]]:
            return scores[id(action)], {}

        def reward(self, state: State, action: State, **_: Any) -> tuple[float, dict[str, Any]]:
            return scores[id(action)], {}

    tree = MCTS(w_exp=1.0, depth_limit=64, cum_reward=np.mean, calc_q=max)
    tree.world_model, tree.search_config = Steps(), Draws()
    tree.root = MCTSNode(state=played.root, action=None, parent=None, calc_q=max)
    while played.solution is None and played.tokens < top and played.calls < CALLS:
        tree.iterate(tree.root)
    answer = models.answer_of(played.solution) if played.solution else None
    return arms.Point(played.tokens, answer)


def measured(num: int, budgets: list[int], seed: int) -> Iterator[Row]:
    models = open_models("expressions", True)
    sampling = models.with_search(replace(models.settings, proposal="sampled"))
    problems = models.task.held_out(num, HELD_OUT_SEED + seed)
    top = max(budgets)

    def ours() -> arms.Curves:
        return arms.searched(models, problems, arms.unlimited(models.settings, top), seed)[0]

    def quest(kind: Callable[[], Any]) -> arms.Curves:
        return arms.Curves([[tree_quest(sampling, p, kind(), top, seed)] for p in problems])

    def reasoned() -> arms.Curves:
        return arms.Curves([[llm_reasoners(sampling, p, top, seed)] for p in problems])

    work: dict[str, Callable[[], arms.Curves]] = {
        "ours": ours,
        "enumerated, no tree": lambda: arms.enumerated(models, problems, top),
        "sampled lines, no tree": lambda: arms.sampled_lines(models, problems, top, seed),
    }
    try:
        import treequest
    except ImportError:
        yield missing("solved_TreeQuest", "not installed: pip install 'treequest>=0.3,<0.4'")
    else:
        work["TreeQuest, standard"] = lambda: quest(treequest.StandardMCTS)
        work["TreeQuest, adaptive"] = lambda: quest(treequest.ABMCTSA)
    if importlib.util.find_spec("reasoners") is None:
        yield missing("solved_llm_reasoners", "not installed: pip install --no-deps llm-reasoners")
    else:
        work["llm-reasoners, MCTS"] = reasoned
    for name, make in work.items():
        started = time.process_time()
        arm = make()
        spent = time.process_time() - started
        for budget in budgets:
            points = arm.capped(budget)
            # A problem that is not solved within the budget has spent it.
            tokens = sum(p.tokens if p.answer is not None else budget for p in points) / num
            solved = sum(arms.solved(models, problems, points))
            what = f"{name}: {tokens:.0f} tokens a problem"
            yield share(f"solved@{budget}", solved, num, what, arm=name, mean_tokens=tokens)
        yield counted("cpu_seconds", round(spent, 1), "s", num, f"{name}: one run to {top} tokens")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=100, help="fresh hard expressions")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    given = parser.parse_args()
    if min(given.budgets) < 1 or given.problems < 1:
        parser.error("problems and budgets are positive")
    torch.set_num_threads(1)
    rows: list[Row] = []
    settings = {"problems": given.problems, "budgets": given.budgets}
    for row in measured(given.problems, given.budgets, given.seed):
        rows.append(row)
        show(row)
        write(given.json, "peers", settings, [given.seed], rows)


if __name__ == "__main__":
    main()
