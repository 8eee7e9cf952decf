"""`ratchet improve --dry-run`: what rounds would do and cost.

No model is loaded, but a large one, for a trial.
"""

import contextlib
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agent.cli.output import emit
from agent.config.settings import Config
from agent.evaluation.gate import detectable, least_gained, level
from agent.imagination.imagine import Imagination
from agent.lengths import Lengths
from agent.networks.device import LARGE, expected_device, precision
from agent.rounds.checker_lesson import wants_checker
from agent.rounds.cost import checkpoint_bytes, cost_by_trial
from agent.rounds.inputs import RunInputs, checked_inputs
from agent.rounds.probes import num_searched
from agent.search_models import ModelSettings, lengths_of
from search.errors import NotFoundError, ResourceError
from store.address import sqlite_path
from store.database import read_store
from store.disks import free_bytes

# Means over rounds of the embedded default: tokens and stored bytes of one search, tokens of a
# text, and tokens a second of one CPU thread, generated and trained on. The plan says that they
# are estimates.
TOKENS_PER_SIMULATION = 40
TOKENS_PER_TEXT = 40
BYTES_PER_SEARCH = 12_000
RESERVE_BYTES = 200_000_000
TOKENS_PER_S = 4_000
TRAINED_TOKENS_PER_S = 12_000
EMBEDDED_SIZE = 384
"""Hidden size times layers of the embedded default; time goes with its square."""


def check_room(config: Config) -> None:
    """Raises ResourceError where a disk cannot hold a round."""
    places = {config.checkpoints.folder, str(sqlite_path(config.store) or "")} - {""}
    needed = RESERVE_BYTES + config.problems_per_round * BYTES_PER_SEARCH
    for place in sorted(places):
        path = Path(place).expanduser().absolute()
        if (free := free_bytes(path)) < needed:
            raise ResourceError(
                f"{path} has {free:,} bytes free, a round needs about {needed:,}",
                "free some space, or choose another place with --store and --checkpoints",
            )


def run(config: Config, rounds: int, as_json: bool) -> None:
    check_room(config)
    inputs = checked_inputs(config)
    config = inputs.config
    with contextlib.suppress(NotFoundError):  # the run makes its store
        read_store(config.store).close()
    limits = lengths_of(inputs.prompts, inputs.policy.ref("policy"), ModelSettings.of(config))
    plan = (
        _what(config, inputs, rounds)
        | _problems(config, inputs)
        | _lengths(inputs, limits)
        | {"by_the_model": [str(default) for default in inputs.defaults]}
        | _cost(config, inputs, limits, rounds)
    )
    if as_json:
        emit(plan)
        return
    grid = Table(title="Plan (nothing was started)", title_justify="left", show_header=False)
    for key, value in plan.items():
        grid.add_row(key, _cell(value))
    Console().print(grid)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(num)}" for name, num in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _what(config: Config, inputs: RunInputs, rounds: int) -> dict[str, Any]:
    return {
        "run": config.run,
        "task": config.task,
        "store": config.shown_store,
        "policy": str(inputs.policy.path),
        "policy_version": inputs.policy.version,
        "weights_in": precision(
            config.hosting.dtype,
            expected_device(config.hosting.device),
            inputs.policy.num_parameters,
        ),
        "rounds": rounds,
        "problems": rounds * config.problems_per_round,
        "probes": rounds * (num_searched(config, inputs.task) - config.problems_per_round),
    }


def _problems(config: Config, inputs: RunInputs) -> dict[str, Any]:
    held_out = inputs.task.held_out(config.num_held_out, config.evaluation.seed)
    imagination = Imagination(inputs.task, held_out)
    given = imagination.refused_given(config.seed)
    first = level(config.evaluation.gate_p, ())
    return {
        "given_problems": given.num,
        "given_refused": dict(given.refused),
        "common_n_grams_ignored": imagination.guard.num_common,
        "held_out_problems": len(held_out),
        "gate_needs_gained": least_gained(first),
        "gate_detects_points": round(100 * detectable(len(held_out), first), 1),
        "notes": inputs.task.notes(),
    }


def _lengths(inputs: RunInputs, limits: Lengths) -> dict[str, Any]:
    shown = inputs.task.seeds(20, 0)
    sizes = [len(inputs.prompts.tokens(p.text)) for p in shown]
    return {
        "prompt_tokens_about": sum(sizes) // max(1, len(sizes)),
        "option_tokens": limits.option_tokens,
        "text_tokens": limits.text_tokens,
        "lengths": limits.reason,
    }


def _cost(config: Config, inputs: RunInputs, limits: Lengths, rounds: int) -> dict[str, Any]:
    """Tokens and seconds by stage."""
    searches = rounds * num_searched(config, inputs.task)
    each = config.search.simulations * TOKENS_PER_SIMULATION
    searched = min(each, config.tokens_per_problem or each)
    text = limits.usual_text or TOKENS_PER_TEXT
    evaluation, critics, training = config.evaluation, config.critics, config.training
    n = len(inputs.task.held_out(config.num_held_out, evaluation.seed))
    # The old policy's figures are read again where a round before measured them.
    measured = n * text + min(n, evaluation.num_search_problems) * each
    written = {
        "searching": searches * searched,
        "labelling": rounds * critics.num_labelled * critics.samples * text,
        "evaluating": (rounds + 1) * measured,
    }
    steps = {
        "policy": rounds * training.num_steps * (1 + config.voting.trained),
        "critics": rounds * 3 * critics.steps,
        "drafter": rounds * training.drafter_steps,
    }
    has_checker = wants_checker(config, inputs.task)
    if has_checker:
        steps["checker"] = critics.checker_steps
    common = {
        "simulations_at_most": searches * config.search.simulations,
        "tokens_about": written,
        "training_steps_at_most": steps,
        "disk_bytes_about": searches * BYTES_PER_SEARCH + checkpoint_bytes(config, inputs, rounds),
        "checkpoints_to_write": rounds * 5 + (0 if len(inputs.base) == 5 else 7) + has_checker,
    }
    if inputs.policy.num_parameters >= LARGE:
        return common | cost_by_trial(config, inputs, limits, rounds)
    architecture = inputs.policy.architecture
    size = max(1.0, architecture.hidden_size * architecture.num_layers / EMBEDDED_SIZE) ** 2
    trained = sum(steps.values()) * training.batch_size * text
    seconds = {stage: round(num / TOKENS_PER_S * size) for stage, num in written.items()}
    seconds["training"] = round(trained / TRAINED_TOKENS_PER_S * size)
    return common | {
        "seconds_about": seconds | {"all": sum(seconds.values())},
        "note": "estimates from the embedded default on one CPU thread",
    }
