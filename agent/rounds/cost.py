"""What rounds of a large model would cost on this machine, by a trial of it."""

import os
from typing import Any

from agent.checkpoints.model_refs import CRITIC_ROLES, ROLES
from agent.config.settings import Config
from agent.engine.requests import OptionRequest
from agent.lengths import Lengths
from agent.networks.shapes import adapter_size
from agent.rounds.checker_lesson import wants_checker
from agent.rounds.inputs import RunInputs
from agent.rounds.label_sampling import HELD_OUT_SHARE
from agent.rounds.probes import num_searched
from agent.training.early_stop import MOST_OF_LARGE
from agent.training.job_memory import PROCESS_BYTES, serving_bytes, training_bytes, tuned_share
from agent.training.recipe import own_lora_rank
from agent.trial import PROPOSED, TEXTS, Rates, measured

TOKENS_PER_SIMULATION = 25
"""Mean over searches of a taught model of 135 million parameters."""
SHARE_RIGHT = 0.4
"""Of labelled problems that some sampled text solves, whose options are judged."""
OPEN_SHARE = 0.6
"""Of judged options that no tool refutes and that do not end their text: they are completed."""
DRAFTER_SHARE = 0.6
"""Of the policy's bytes: half of its blocks, and all embeddings."""
THINNER = 1.4
"""Times that searches take longer than the trial's full batches: they end one after the other, and
those that are left share smaller ones."""
LOOKS = 7
"""Times that held-out rows are looked at while a critic trains."""


def cost_by_trial(
    config: Config, inputs: RunInputs, limits: Lengths, rounds: int
) -> dict[str, Any]:
    """Seconds by stage, under the names that a round's own timings have, and bytes at the peak."""
    rates = measured(inputs.policy, config, _asked(config, inputs, limits), inputs.task.claim_of)
    seconds = _seconds(config, inputs, limits, rounds, rates)
    told = {stage: round(value) for stage, value in seconds.items()}
    return {
        "tokens_per_s": {
            "written": round(rates.decoded),
            "proposed": round(rates.proposed),
            "read": round(rates.read),
            "trained": round(rates.trained),
        },
        "proposals": [*map(str, rates.proposals), *_advice(config, rates)],
        "seconds_about": told | {"all": sum(told.values())},
        "memory_bytes_about": round(_memory(config, inputs, rates)),
        "note": "by a trial of this policy on this machine",
    }


def _advice(config: Config, rates: Rates) -> list[str]:
    best = rates.proposals[0].proposal if rates.proposals else config.search.proposal
    if best == config.search.proposal:
        return []
    return [f"more of it a token: --set search.proposal={best}"]


def checkpoint_bytes(config: Config, inputs: RunInputs, rounds: int) -> int:
    """That rounds write: critics which train their last blocks have those below in one file."""
    rank = own_lora_rank(config.training)
    if rank:
        rounds_and_first = rounds + (len(inputs.base) < len(ROLES))
        return rounds_and_first * len(ROLES) * 4 * adapter_size(inputs.policy.architecture, rank)
    whole = inputs.policy.num_bytes
    tuned = tuned_share(inputs.policy, config.critics.tuned_layers)
    checker = whole if wants_checker(config, inputs.task) else 0
    if tuned == 1.0:
        return rounds * 10 * whole + checker
    critics = len(CRITIC_ROLES) * tuned
    first = 0.0 if len(inputs.base) == len(ROLES) else DRAFTER_SHARE + 1.0 - tuned + 2 * critics
    return checker + round(whole * (first + rounds * (1.0 + DRAFTER_SHARE + critics)))


def _asked(config: Config, inputs: RunInputs, limits: Lengths) -> list[OptionRequest]:
    search = config.search
    return [
        OptionRequest(
            tuple(inputs.prompts.tokens(problem.text)),
            PROPOSED,
            limits.option_tokens,
            search.proposal,
            search.temperature,
            number,
            inputs.task.boundary,
        )
        for number, problem in enumerate(inputs.task.seeds(TEXTS, 0))
    ]


def _processes(config: Config) -> int:
    """Training jobs and critics that work at the same time."""
    return len(os.sched_getaffinity(0)) if config.hosting.hosting == "ray" else 1


def _seconds(
    config: Config, inputs: RunInputs, limits: Lengths, rounds: int, rates: Rates
) -> dict[str, float]:
    critics, training, evaluation = config.critics, config.training, config.evaluation
    shown = inputs.task.seeds(20, 0)
    prompt = sum(len(inputs.prompts.tokens(p.text)) for p in shown) / max(1, len(shown))
    text = limits.usual_text or limits.text_tokens / 2
    row, step = prompt + text, text / 2
    jobs = _processes(config)

    def searched_s(num: int, most: int) -> float:
        each = config.search.simulations * TOKENS_PER_SIMULATION
        tokens = num * min(each, most or each)
        reading = len(CRITIC_ROLES) * tokens / rates.read / min(jobs, len(CRITIC_ROLES))
        return THINNER * tokens / rates.proposed + reading

    is_proving = critics.use_tool and inputs.task.proves == "steps"
    looked_into = SHARE_RIGHT * critics.states + (0 if is_proving else 1)
    judged = looked_into * critics.options
    completed = 0 if is_proving else judged * OPEN_SHARE
    labelling = critics.num_labelled * (
        (critics.samples * text + completed * step) / rates.decoded + judged * step / rates.proposed
    )
    tuned = tuned_share(inputs.policy, config.critics.tuned_layers)
    held_out = critics.num_labelled / HELD_OUT_SHARE * (2 * critics.samples + judged)
    looked_at = held_out + LOOKS * tuned * min(held_out, MOST_OF_LARGE)
    batch = training.batch_size
    critic = (
        critics.steps * batch * row * (1 + 2 * tuned) / 3 / rates.trained
        + looked_at * row / 3 / rates.trained
    )
    own = training.num_steps * batch * row / rates.trained
    policies = 1 + config.voting.trained
    n = len(inputs.task.held_out(config.num_held_out, evaluation.seed))
    measuring = n * text / rates.decoded + searched_s(min(n, evaluation.num_search_problems), 0)
    has_critics = bool(critics.num_labelled and critics.steps)
    all_critics = len(CRITIC_ROLES) * critic if has_critics else 0.0
    first = has_critics and len(inputs.base) < len(ROLES)
    starting = (labelling + all_critics / min(jobs, len(CRITIC_ROLES))) if first else 0.0
    if wants_checker(config, inputs.task):
        # What is worked out is about as long as a text.
        starting += critics.num_labelled * critics.samples * text / rates.decoded
        starting += critics.checker_steps * batch * text / rates.trained
    return {
        "starting": starting,
        "searching": rounds
        * searched_s(num_searched(config, inputs.task), config.tokens_per_problem),
        "training": rounds
        * (
            (labelling if has_critics else 0.0)
            + max(own, (policies * own + all_critics) / jobs)
            + training.drafter_steps * batch * row / 2 / rates.trained
        ),
        "evaluating": (rounds + 1) * measuring
        + rounds * config.voting.trained * n * text / rates.decoded,
    }


def _memory(config: Config, inputs: RunInputs, rates: Rates) -> float:
    """Bytes of all processes at the peak: while texts are written, or while models train."""
    tuned = tuned_share(inputs.policy, config.critics.tuned_layers)
    is_ray = config.hosting.hosting == "ray"
    # Ray's own processes take as much as two of ours.
    processes = (len(ROLES) + 3 if is_ray else 1) * PROCESS_BYTES
    kept = len(ROLES) * config.hosting.kv_mib * 2**20
    # Blocks of equal weights are held once; critics have their last ones apart.
    writing = 2 if wants_checker(config, inputs.task) else 1
    rank = own_lora_rank(config.training)
    models = writing + len(CRITIC_ROLES) * tuned
    itemsize = rates.serving_bytes // inputs.policy.num_parameters
    serving = serving_bytes(inputs.policy, itemsize, models, rank) - PROCESS_BYTES + kept
    critic = training_bytes(inputs.policy, config.critics.tuned_layers, rank)
    others = min(_processes(config), len(ROLES)) - 1
    return processes + max(serving, training_bytes(inputs.policy, 0, rank) + others * critic)
