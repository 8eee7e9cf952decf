"""Settings that do not go together, or that this environment cannot follow."""

import importlib.util

from agent.config.endpoint import check_served, is_served
from agent.config.settings import Config, ImaginationSettings, PolicyTraining
from search.errors import UsageError

KERNELS = ("", "auto", "twin", "triton")


def check_conflicts(config: Config, is_asking: bool = False) -> None:
    """Raises UsageError for the first conflict. A command that only asks trains nothing."""
    if config.hosting.engine == "vllm" and config.search.proposal == "drawn":
        raise UsageError(
            "setting 'search.proposal' is 'drawn', which hosting.engine 'vllm' cannot answer",
            "set search.proposal to distinct or sampled, or hosting.engine to torch",
        )
    _check_training(config.training)
    _check_problems(config)
    _check_judge(config.imagination)
    if config.hosting.training_workers > 1 and not is_asking:
        _check_workers(config)
    training, engine = config.training, config.hosting.engine
    if engine == "vllm" and training.lora_rank and training.trainer == "own" and not is_asking:
        raise UsageError(
            f"setting 'hosting.engine' is 'vllm', which is given whole weights, and with "
            f"training.lora_rank {training.lora_rank} our own loop trains adapters",
            "set hosting.engine to torch, training.trainer to trl (which merges what it trains), "
            "or training.lora_rank to 0",
        )
    if config.imagination.schemes and config.task != "jsonl":
        raise UsageError(
            f"setting 'imagination.schemes' is {list(config.imagination.schemes)}, but task "
            f"{config.task!r} makes its own problems",
            "leave it out, or use --task jsonl",
        )


def _check_judge(imagination: ImaginationSettings) -> None:
    """A judge that nobody asks, or that cannot be asked from here."""
    if is_served(imagination.judge):
        check_served(imagination.judge)
    if imagination.judge and not imagination.schemes:
        raise UsageError(
            f"setting 'imagination.judge' is {imagination.judge!r}, and nothing is written that it "
            "could judge",
            "set imagination.schemes, or leave it out",
        )
    if imagination.judge_model and not is_served(imagination.judge):
        raise UsageError(
            f"setting 'imagination.judge_model' is {imagination.judge_model!r}, which only an "
            "endpoint is asked for",
            "set imagination.judge to its address, or leave it out",
        )


def _check_problems(config: Config) -> None:
    """Settings of files and prompts that have no use where they stand."""
    if config.task != "jsonl":
        for key, plain in (("answers", "auto"), ("bad_rows", "refuse")):
            if getattr(config, key) != plain:
                raise UsageError(
                    f"setting {key!r} is {getattr(config, key)!r}, which task {config.task!r} does "
                    "not ask",
                    "leave it out, or use --task jsonl",
                )
    prompt = config.prompt
    if prompt.template and prompt.style != "template":
        raise UsageError(
            f"setting 'prompt.template' is {prompt.template!r}, but prompt.style is "
            f"{prompt.style!r}",
            "set prompt.style to template, or leave prompt.template out",
        )
    unused = [k for k in ("system", "instruction", "examples") if getattr(prompt, k)]
    if prompt.style == "template" and unused:
        raise UsageError(
            f"setting 'prompt.{unused[0]}' is {getattr(prompt, unused[0])!r}, but a template of "
            "your own says everything",
            "write it into the template, or leave it out",
        )


def check_kernels(switch: str) -> None:
    """Raises UsageError for a value of RATCHET_KERNELS that cannot be followed."""
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
    if training.quantization != "none" and training.trainer == "own":
        raise UsageError(
            f"setting 'training.quantization' is {training.quantization!r}, but our own loop holds "
            "the weights under adapters as the checkpoint has them",
            "set training.trainer to trl, or training.quantization to none",
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
