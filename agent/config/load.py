"""Settings from defaults, a TOML file, the environment and flags, each value with its origin.

Later sources win: default < ratchet.toml < RATCHET_SECTION__KEY < flag. An unknown key is an error
that names the nearest known one.
"""

import difflib
import hashlib
import importlib.util
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from agent.config.settings import (
    CriticSettings,
    EvaluationSettings,
    HostingSettings,
    ImaginationSettings,
    PolicyTraining,
    Section,
    SelectionSettings,
)
from search.errors import SearchSettingsError, UsageError
from search.settings import SearchSettings

DEFAULT_FILE = "ratchet.toml"
NOT_SETTINGS = ("RATCHET_FAILPOINT", "RATCHET_DEBUG", "RATCHET_JOB_ID", "RATCHET_KERNELS")
KERNELS = ("", "auto", "twin", "triton")


class Config(Section):
    task: Literal["expressions", "stories", "game24", "jsonl"] = Field(
        "expressions", description="problems"
    )
    policy: str = Field("", description="checkpoint directory; empty: the embedded one")
    bundle: str = Field("", description="folder with all five models; empty: the embedded one")
    problems: str = Field("", description="JSONL file of the task jsonl")
    store: str = Field("sqlite:///ratchet-runs/ratchet.db", description="SQLAlchemy URL")
    checkpoints: str = Field("ratchet-runs/checkpoints", description="where new weights go")
    run: str = Field("default", description="name of the run")
    seed: int = Field(0, ge=0, lt=2**62, description="of everything random")
    problems_per_round: int = Field(2500, ge=1, description="problems imagined a round")
    tokens_per_problem: int = Field(
        450, ge=0, description="tokens of one search of a round, at most; 0: search.max_tokens"
    )
    num_seeds: int = Field(300, ge=1, description="problems that imagination starts from")
    search: SearchSettings = SearchSettings()
    imagination: ImaginationSettings = ImaginationSettings()
    critics: CriticSettings = CriticSettings()
    selection: SelectionSettings = SelectionSettings()
    training: PolicyTraining = PolicyTraining()
    evaluation: EvaluationSettings = EvaluationSettings()
    hosting: HostingSettings = HostingSettings()

    def digest(self) -> str:
        """Digest of what results depend on: everything but places and hosting."""
        kept = self.model_dump(exclude={"store", "checkpoints", "run", "hosting"})
        kept["limits"] = [
            self.hosting.option_tokens,
            self.hosting.text_tokens,
            self.hosting.cohort,
            self.hosting.batch_target,
        ]
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Setting:
    key: str
    value: Any
    origin: str
    """default, FILE, environment NAME, or flag."""


def known_keys() -> dict[str, type[Any] | None]:
    """All dotted keys."""
    keys: dict[str, Any] = {}
    for name, info in Config.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys |= {f"{name}.{inner}": None for inner in kind.model_fields}
        elif kind is SearchSettings:
            keys |= {f"{name}.{field.name}": None for field in dataclass_fields(SearchSettings)}
        else:
            keys[name] = None
    return keys


def _check_key(key: str, where: str) -> None:
    known = known_keys()
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    tail = {k.rpartition(".")[2]: k for k in known}
    near = near or [tail[n] for n in difflib.get_close_matches(key.rpartition(".")[2], tail, n=1)]
    raise UsageError(
        f"unknown setting {key!r} in {where}",
        f"did you mean {near[0]!r}?" if near else "see `ratchet config show`",
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _from_file(file: str) -> dict[str, Setting]:
    path = Path(file or DEFAULT_FILE)
    if not path.is_file():
        if file:
            raise UsageError(f"config file {file!r} is not there", "check --config")
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}", "correct that line") from error
    found = {}
    for key, value in _flat(values).items():
        _check_key(key, str(path))
        found[key] = Setting(key, value, str(path))
    return found


def _from_environment() -> dict[str, Setting]:
    found = {}
    for name, text in os.environ.items():
        if not name.startswith("RATCHET_") or name in NOT_SETTINGS:
            continue
        key = name.removeprefix("RATCHET_").lower().replace("__", ".")
        _check_key(key, f"environment variable {name}")
        found[key] = Setting(key, text, f"environment {name}")
    return found


def _listed(value: Any) -> Any:
    """Flags and environment bring lists as text: `[8, 4]`."""
    if isinstance(value, str) and value.startswith("["):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def _check_kernels(switch: str) -> None:
    if switch not in KERNELS:
        raise UsageError(
            f"environment variable RATCHET_KERNELS is {switch!r}",
            "set it to auto, twin or triton, or unset it",
        )
    if switch == "triton" and importlib.util.find_spec("triton") is None:
        raise UsageError(
            "environment variable RATCHET_KERNELS is 'triton', which is not installed",
            "pip install triton, or set it to auto or twin",
        )


def _check_training(training: PolicyTraining) -> None:
    """Settings that do not go together."""
    if training.trainer == "own" and training.lora_rank:
        raise UsageError(
            f"setting 'training.lora_rank' is {training.lora_rank}, but our own loop trains all "
            "weights",
            "set training.trainer to trl, or training.lora_rank to 0",
        )
    if training.quantization != "none" and not training.lora_rank:
        raise UsageError(
            f"setting 'training.quantization' is {training.quantization!r}, but quantized weights "
            "cannot be trained, only adapters on them",
            "set training.lora_rank, such as 16, or training.quantization to none",
        )
    if training.quantization != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            f"setting 'training.quantization' is {training.quantization!r}, but bitsandbytes is "
            "not installed",
            "pip install -e '.[trl]', or set training.quantization to none",
        )
    if training.trainer == "trl" and training.method not in ("sft", "dpo"):
        raise UsageError(
            f"setting 'training.method' is {training.method!r}, which training.trainer 'trl' does "
            "not offer here",
            "set training.trainer to own, or training.method to sft or dpo",
        )
    if training.trainer == "trl" and importlib.util.find_spec("trl") is None:
        raise UsageError(
            "setting 'training.trainer' is 'trl', which is not installed",
            "pip install -e '.[trl]', or set training.trainer to own",
        )


def _check_workers(config: Config) -> None:
    """Several training workers are Ray Train's, and our own trainer's on texts."""
    together = config.training.method == "sft" and config.training.trainer == "own"
    if not together or config.hosting.hosting != "ray":
        raise UsageError(
            f"setting 'hosting.training_workers' is {config.hosting.training_workers}, which needs "
            "hosting.hosting ray, training.trainer own and training.method sft",
            "set it to 1, or set those",
        )
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError(
            f"setting 'hosting.training_workers' is {config.hosting.training_workers}, but Ray "
            "Train is not installed",
            "pip install -e '.[train]', or set it to 1",
        )


def load_config(
    flags: Mapping[str, Any], file: str = "", defaults: Mapping[str, Any] | None = None
) -> tuple[Config, list[Setting]]:
    """The configuration and where each value came from. Raises UsageError naming key and value."""
    _check_kernels(os.environ.get("RATCHET_KERNELS", ""))
    own = {key: Setting(key, value, "default") for key, value in (defaults or {}).items()}
    given = own | _from_file(file) | _from_environment()
    for key, value in flags.items():
        if value is not None:
            _check_key(key, "a flag")
            given[key] = Setting(key, value, "flag")
    nested: dict[str, Any] = {}
    for key, setting in given.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = _listed(setting.value)
    try:
        config = Config.model_validate(nested)
    except SearchSettingsError:
        raise
    except ValidationError as error:
        first = error.errors()[0]
        loc = [str(part) for part in first["loc"]]
        # A value of several possible types is followed by the type that was tried first.
        key = next(
            (k for n in range(len(loc), 0, -1) if (k := ".".join(loc[:n])) in given), ".".join(loc)
        )
        origin = given[key].origin if key in given else "the configuration"
        raise UsageError(
            f"setting {key!r} is {first['input']!r} in {origin}: {first['msg'].lower()}",
            f"see `ratchet config show` for {key!r}",
        ) from error
    if config.hosting.engine == "vllm" and config.search.proposal == "drawn":
        raise UsageError(
            "setting 'search.proposal' is 'drawn', which hosting.engine 'vllm' cannot answer",
            "set search.proposal to distinct or sampled, or hosting.engine to torch",
        )
    _check_training(config.training)
    if config.hosting.training_workers > 1 and not defaults:
        _check_workers(config)
    if config.imagination.schemes and config.task != "jsonl":
        raise UsageError(
            f"setting 'imagination.schemes' is {list(config.imagination.schemes)}, but task "
            f"{config.task!r} makes its own problems",
            "leave it out, or use --task jsonl",
        )
    values = _flat(config.model_dump())
    return config, [
        Setting(key, values[key], given[key].origin if key in given else "default")
        for key in known_keys()
    ]
