"""Defaults that follow the model: what was tuned on models of half a million parameters is not
handed to a pretrained one.

Only settings that nobody set are changed, only for a policy from `LARGE` parameters on, and only
where its ratchet.json recommends nothing. They follow from its size, the device and the data, never
from a measured speed, so that the same command gives the same settings everywhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from agent.checkpoints.header import Header
from agent.config.settings import Config
from agent.networks.device import LARGE
from agent.tasks.task import Task
from agent.training.recipe import own_lora_rank, pretrained_rate

ON_A_GPU = 5
"""Times as many problems, labels and steps where a GPU does the work."""
WIDER_ON_A_GPU = 4
"""Times as many searches that step together there, and as much memory for their texts."""
LONGEST_TO_TYPICAL = 3.0
"""How much longer the longest text that is allowed is than a usual one: lengths leave half as much
again, and one answer in fifty is twice as long as the others."""
TUNED_PART = 5
"""Of a pretrained critic's blocks one in so many is trained."""
KV_BYTES = 2**31
"""Of the texts that are written at once, in bfloat16, prompts as long as texts."""
ROUND_RATE = 0.1
"""A round's rate as a share of teaching's: its texts are the policy's own, near to what it says."""

LABELLED = 400
"""Labelled problems, at most; on 150 the value and the process critic of a model of 135 million
parameters ranked at .68 and .56 (docs/results/real-2026-11-27.md)."""

HEAD_RATE = 3.0
"""A head's rate as a share of teaching's."""


@dataclass(frozen=True, slots=True)
class Default:
    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.key} {self.value}: {self.reason}"


def fitted(
    config: Config, policy: Header, task: Task, text_tokens: int, device: str
) -> tuple[Config, list[Default]]:
    """The settings with this model's defaults, and which those are."""
    is_recommended = "training" in policy.notes or "task" in policy.notes
    if policy.num_parameters < LARGE or is_recommended:
        return config, []
    changed = [
        default
        for default in _defaults(config, policy, task, text_tokens, device)
        if not _is_set(config, default.key) and default.value != _value(config, default.key)
    ]
    for default in changed:
        config = _with(config, default.key, default.value)
    return config, changed


def _defaults(
    config: Config, policy: Header, task: Task, text_tokens: int, device: str
) -> Iterator[Default]:
    size = f"{policy.num_parameters / 1e6:,.0f} million parameters"
    more = ON_A_GPU if device.startswith("cuda") else 1
    where = "a GPU" if more > 1 else "a CPU"
    yield Default("problems_per_round", 150 * more, f"{size} on {where}")
    typical = text_tokens / LONGEST_TO_TYPICAL
    most = 50 * -(-int(8 * typical) // 50)
    yield Default("tokens_per_problem", max(200, most), f"eight texts of {typical:.0f} tokens")
    wider = WIDER_ON_A_GPU if more > 1 else 1
    yield Default("hosting.cohort", 64 * wider, f"keys and values of {size} on {where}")
    if wider > 1:
        yield Default("hosting.kv_mib", 1024, "a GPU's memory is large beside its time")
    arch = policy.architecture
    token = arch.num_layers * arch.kept_bytes
    fitting = KV_BYTES * wider // (token * 2 * text_tokens)
    rows = 2 ** max(4, min(9, fitting.bit_length() - 1))
    yield Default("hosting.batch_rows", rows, f"{token:,} bytes of keys and values a token")
    labelled = len(task.labelled(LABELLED * more, 0))
    if labelled:
        yield Default("critics.num_labelled", labelled, "problems with answers, as far as needed")
    yield Default("critics.samples", 4, f"{size} on {where}")
    tuned = tuned_layers(policy)
    yield Default("critics.tuned_layers", tuned, "the blocks below are held once for all critics")
    yield Default("critics.steps", 60 * more, f"{size}: a pretrained critic needs few steps")
    yield Default(
        "critics.head_rate",
        float(f"{HEAD_RATE * pretrained_rate(policy):.2g}"),
        "a head that begins at zero learns nothing at a round's rate",
    )
    yield Default("training.num_steps", 60 * more, f"{size}: more would forget")
    yield Default("training.batch_size", 16, f"{size} on {where}")
    yield Default("training.max_epochs", 3.0, "a pretrained model learns a text in a few passes")
    rate = float(f"{ROUND_RATE * pretrained_rate(policy, own_lora_rank(config.training)):.2g}")
    yield Default("training.learning_rate", rate, "a tenth of what teaching takes")
    yield Default("training.drafter_steps", 20 * more, f"{size} on {where}")
    yield Default("evaluation.num_search_problems", 50 * more, f"{size} on {where}")


def tuned_layers(policy: Header) -> int:
    """Last blocks of a critic of this policy that training changes; 0, which is all, where it is
    small."""
    if policy.num_parameters < LARGE:
        return 0
    return max(1, policy.architecture.num_layers // TUNED_PART)


def _parts(key: str) -> tuple[str, str]:
    section, _, name = key.rpartition(".")
    return section, name


def _section(config: Config, key: str) -> BaseModel:
    section, _ = _parts(key)
    found: BaseModel = getattr(config, section) if section else config
    return found


def _value(config: Config, key: str) -> Any:
    return getattr(_section(config, key), _parts(key)[1])


def _is_set(config: Config, key: str) -> bool:
    return _parts(key)[1] in _section(config, key).model_fields_set


def _with(config: Config, key: str, value: Any) -> Config:
    section, name = _parts(key)
    if not section:
        return config.model_copy(update={name: value})
    part = _section(config, key).model_copy(update={name: value})
    return config.model_copy(update={section: part})
