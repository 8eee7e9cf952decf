"""What the critics are worth: AUC, calibration, and the search without each of them.

    python -m scripts.bench.critics                         # about ten minutes
    python -m scripts.bench.critics --quick                 # under a minute
    python -m scripts.bench.critics --task stories --json critics.json --plot critics.png

The shipped critics on texts that the policy samples for labelled problems which no critic learned
from, and, within a problem, on the options of one state. `auc_outcome_tool` lets the tool's word
overrule the outcome critic. Then the search of the same held-out problems with all critics and
with each one's weight set to zero, with the tool and without.

`auc_value_rollouts` ranks some of the value critic's states by what a value is an estimate of: the
share of sixteen further rollouts of the policy that end right; `auc_value_same_states` is the
critic on the same ones, `auc_node_value` the blend that a search gives them, which has one greedy
rollout's outcome score in it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from agent.config.load import load_config
from agent.config.settings import Config
from agent.evaluation.answering import Plan, evaluate, sample_rollouts
from agent.open_models import base_refs, models_over
from agent.rounds.label_sampling import LabelSampling
from agent.search_models import Models
from critics.calibration import (
    auc,
    brier,
    expected_calibration_error,
    reliability,
)
from scripts.bench.report import missing, share, show, write
from search.interfaces import EvaluateRequest
from search.randomness import derive_seed
from search.state import State

LABELLED_SEED = 20_261_124
HELD_OUT_SEED = 20_261_125
NUM_ROLLOUTS = 16
Scored = tuple[list[float], list[float]]
"""Scores and labels."""


def opened(task: str, **flags: Any) -> tuple[Config, Models]:
    config, _ = load_config({"task": task, "hosting.hosting": "inline"} | flags)
    return config, models_over(config, base_refs(config))


def scored_texts(models: Models, num: int) -> dict[str, Scored]:
    """Each critic's scores and their labels, on fresh labelled problems."""
    problems = models.task.labelled(num, LABELLED_SEED)
    examinee = LabelSampling(models, models.task, problems, LABELLED_SEED)
    groups = sample_rollouts(models, problems, 6, 1.0, LABELLED_SEED)
    rollouts = [r for group in groups for r in group if r.state.is_finished]
    right = [float(examinee.is_correct(r) and r.is_sound is not False) for r in rollouts]
    outcome = models.outcome_scores([r.state for r in rollouts])
    found: dict[str, Scored] = {"outcome": ([], []), "outcome_tool": ([], [])}
    for rollout, score, label in zip(rollouts, outcome, right, strict=True):
        if score.value is not None:
            found["outcome"][0].append(score.value)
            found["outcome_tool"][0].append(0.0 if rollout.is_sound is False else score.value)
            found["outcome"][1].append(label)
            found["outcome_tool"][1].append(label)
    siblings, _ = examinee.siblings(problems, groups, 2, 5)
    states = [g.state.extended(o) for g in siblings for o in g.options]
    labels = [float(good) for g in siblings for good in g.is_good]
    process = models.process_scores(states)
    pairs = [(s.value, y) for s, y in zip(process, labels, strict=True) if s.value is not None]
    found["process"] = ([s for s, _ in pairs], [y for _, y in pairs])
    logprob = [s.options[-1].logprob for s in states]
    found["logprob_of_options"] = (logprob, labels)
    beginnings = [
        (replace(r.state, options=r.state.options[:d]), float(examinee.is_correct(r)))
        for r in rollouts
        for d in range(r.state.depth + 1)
    ]
    some = beginnings[:: max(1, len(beginnings) // (4 * num))]
    found["value_rollouts"] = (
        shares_right(models, examinee, [s for s, _ in some]),
        [y for _, y in some],
    )
    found["value_same_states"] = (
        [s.value or 0.0 for s in models.value_scores([s for s, _ in some])],
        [y for _, y in some],
    )
    blended = models.evaluate([EvaluateRequest(s, 0) for s, _ in some])
    found["node_value"] = ([e.value or 0.0 for e in blended], [y for _, y in some])
    values = models.value_scores([s for s, _ in beginnings])
    known = [
        (v.value, y) for v, (_, y) in zip(values, beginnings, strict=True) if v.value is not None
    ]
    found["value"] = ([v for v, _ in known], [y for _, y in known])
    return found


def shares_right(models: Models, examinee: LabelSampling, states: Sequence[State]) -> list[float]:
    """For each state the share of the policy's rollouts at temperature 1 that end right."""
    open_ones = [s for s in states if not s.is_terminal for _ in range(NUM_ROLLOUTS)]
    seeds = [derive_seed(LABELLED_SEED, i, "rollout") for i in range(len(open_ones))]
    ends = iter(
        [
            end
            for start in range(0, len(open_ones), 4096)
            for end in models.completed(
                open_ones[start : start + 4096], 1.0, seeds[start : start + 4096]
            )
        ]
    )
    shares = []
    for state in states:
        known = state.is_terminal
        group = [models.checked(state, [])] if known else [next(ends) for _ in range(NUM_ROLLOUTS)]
        shares.append(
            sum(end is not None and examinee.is_correct(end) for end in group) / len(group)
        )
    return shares


def critic_rows(found: dict[str, Scored]) -> list[dict[str, Any]]:
    aims = {"value": 0.85, "process": 0.80, "outcome": 0.90, "outcome_tool": 0.97}
    rows: list[dict[str, Any]] = []
    for name, (scores, labels) in found.items():
        value = auc(scores, labels)
        if value is None:
            rows.append(missing(f"auc_{name}", "labels of one class"))
            continue
        extra = {"target": aims[name]} if name in aims else {}
        rows.append(
            {
                "name": f"auc_{name}",
                "value": value,
                "unit": "AUC",
                "n": len(labels),
                "baseline": f"{sum(labels) / len(labels):.2f} good",
            }
            | extra
        )
        if name in aims:
            rows += [
                {
                    "name": f"brier_{name}",
                    "value": brier(scores, labels),
                    "unit": "Brier",
                    "n": len(labels),
                },
                {
                    "name": f"ece_{name}",
                    "value": expected_calibration_error(scores, labels),
                    "unit": "gap",
                    "n": len(labels),
                },
            ]
    return rows


def removal_rows(task: str, num: int) -> list[dict[str, Any]]:
    """Search accuracy with each critic's weight at zero."""
    rows = []
    for use_tool in (True, False):
        for gone in ("", "value", "process", "outcome"):
            flags: dict[str, Any] = {
                "critics.use_tool": use_tool,
                "search.simulations": 16,
                "search.max_tokens": 400,
            }
            if gone:
                flags[f"critics.{gone}_weight"] = 0
            config, models = opened(task, **flags)
            problems = models.task.held_out(num, HELD_OUT_SEED)
            report = evaluate(models, problems, Plan("search"), config.hosting.cohort)
            name = f"search_{'without_' + gone if gone else 'with_all'}"
            tool = "tool" if use_tool else "no_tool"
            rows.append(
                share(
                    f"{name}_{tool}",
                    report.num_correct,
                    report.n,
                    f"{report.num_tokens / report.n:.0f} tokens a problem",
                )
            )
            show(rows[-1])
    return rows


def plot(found: dict[str, Scored], path: Path) -> None:
    """Share of good ones against mean score, by tenths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 5))
    axes.plot([0, 1], [0, 1], "k:", linewidth=1)
    for name in ("value", "process", "outcome"):
        bins = reliability(*found[name])
        axes.plot([b["score"] for b in bins], [b["good"] for b in bins], "o-", label=name)
    axes.set(xlabel="mean score", ylabel="share good", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="expressions", choices=["expressions", "stories"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--plot", type=Path, help="also draw the calibration")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    _, models = opened(given.task)
    found = scored_texts(models, 60 if given.quick else 400)
    rows = critic_rows(found)
    for row in rows:
        show(row)
    if given.plot:
        plot(found, given.plot)
    rows += removal_rows(given.task, 20 if given.quick else 200)
    write(given.json, "critics", {"task": given.task, "quick": given.quick}, [LABELLED_SEED], rows)


if __name__ == "__main__":
    main()
