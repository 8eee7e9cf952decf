"""Everything that can be checked before a model is loaded, an actor started or a store opened."""

from dataclasses import dataclass
from pathlib import Path

from agent.checkpoints.base_models import base_checkpoints, policy_at
from agent.checkpoints.checkpoint import Checkpoint
from agent.checkpoints.header import Header
from agent.config.endpoint import is_served
from agent.config.settings import Config
from agent.defaults import Default, fitted
from agent.engine.tokenizer import Tokenizer
from agent.evaluation.gate import least_gained, level
from agent.hosting.open_hosts import check_hosting
from agent.imagination.decontamination import Decontamination
from agent.networks.device import expected_device
from agent.prompts import Prompts, check_prompts
from agent.rounds.label_sampling import HELD_OUT_SHARE
from agent.rounds.probes import has_unchecked, probes_of
from agent.search_models import ModelSettings, lengths_of
from agent.tasks.registry import open_task
from agent.tasks.rewards import own_reward
from agent.tasks.task import Task
from agent.training.examples import Example
from agent.training.recipe import check_adapters, policy_settings
from agent.training.rehearsal import read_demonstrations
from agent.trial import check_memory
from critics.trust import least_trusted
from search.errors import CheckpointError, TaskError, UsageError
from search.state import Problem


@dataclass(frozen=True, slots=True)
class RunInputs:
    """What a run begins with, found to be sound."""

    config: Config
    task: Task
    base: dict[str, Checkpoint]
    """Role to checkpoint, as far as they exist before the first round."""
    prompts: Prompts
    demonstrations: tuple[Example, ...]
    """What the base policy was taught with, as far as that is known."""
    defaults: tuple[Default, ...] = ()
    """Settings that follow the model, already in `config`."""

    @property
    def policy(self) -> Checkpoint:
        return self.base["policy"]

    @property
    def max_positions(self) -> int:
        """Tokens of the policy's context."""
        return self.policy.architecture.max_positions


def checked_inputs(config: Config) -> RunInputs:
    """Raises UsageError, CheckpointError or TaskError that names what is wrong."""
    check_hosting(config.hosting)
    task = open_task(config)
    base = base_checkpoints(config)
    policy = base["policy"]
    prompts = check_prompts(task, Tokenizer(policy.path), config.prompt)
    longest = policy.architecture.max_positions
    config, defaults = _fitted(config, prompts, policy)
    check_policy(config, policy)
    policy_settings(config.training, policy)
    check_memory(policy, config)
    _check_others(config, policy)
    _check_problems(config, prompts, longest)
    _check_gate(config, task)
    _check_learnable(config, task)
    _check_trust(config, task)
    folder = Path(config.checkpoints.folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--checkpoints {str(folder)!r} is a file", "name a folder")
    if config.selection.reward:
        own_reward(config.selection.reward)
    demonstrations = read_demonstrations(policy.path, prompts, longest)
    return RunInputs(config, task, base, prompts, demonstrations, tuple(defaults))


def _fitted(config: Config, prompts: Prompts, policy: Checkpoint) -> tuple[Config, list[Default]]:
    limits = lengths_of(prompts, policy.ref("policy"), ModelSettings.of(config))
    device = expected_device(config.hosting.device)
    return fitted(config, policy, prompts.task, limits.text_tokens, device)


def check_policy(config: Config, policy: Header) -> None:
    """Raises CheckpointError or UsageError for a policy of adapters that the trainer cannot go on
    from, or the engine cannot serve."""
    check_adapters(config.training, policy)
    if config.hosting.engine == "vllm" and policy.adapter is not None:
        raise UsageError(
            f"setting 'hosting.engine' is 'vllm', which is given whole weights, and {policy.path} "
            "holds adapters",
            "set hosting.engine to torch, or give whole weights (`ratchet models merge`)",
        )


def _check_gate(config: Config, task: Task) -> None:
    """A gate that no candidate can pass is no gate."""
    n = len(task.held_out(config.num_held_out, config.evaluation.seed))
    first = level(config.evaluation.gate_p, ())
    needed = least_gained(first)
    if n < needed:
        raise UsageError(
            f"the gate cannot pass: with {n} held-out problems even {n} gained and none lost give "
            f"p = {0.5**n:.2g}, and a run's first round needs {first:.2g} (evaluation.gate_p "
            f"{config.evaluation.gate_p:g}, shared by all rounds)",
            f"give {needed} held-out problems or more (--held-out FILE, evaluation.num_problems), "
            "or raise evaluation.gate_p",
        )


def _check_learnable(config: Config, task: Task) -> None:
    """A run without a problem to search is none."""
    if task.seeds(1, config.seed) or task.given(config.seed):
        return
    if config.task == "jsonl" and not config.problems:
        raise UsageError("task jsonl needs problems to learn from", "add --problems FILE.jsonl")
    raise UsageError(
        f"none of the problems of {config.problems or config.task} may be learned from: all are "
        "held out or shown in prompts",
        "give --held-out another file than --problems",
    )


def _check_trust(config: Config, task: Task) -> None:
    """Where only labelled problems can show which answers to trust, there must be enough of them,
    or a round searches all its problems and learns nothing."""
    if not has_unchecked(config, task) or any(p.answer is not None for p in _own(task, config)):
        return
    wanted = config.selection
    needed = least_trusted(wanted.min_precision, wanted.certainty)
    held_out = task.held_out(config.num_held_out, config.evaluation.seed)
    found = probes_of(config, task, Decontamination(held_out, task.key))
    num = len({p.family or p.id for p in found})
    if num >= needed:
        return
    if wanted.probes < needed:
        more = f"set selection.probes to {needed} or more"
    else:
        more = f"give about {HELD_OUT_SHARE * needed} labelled problems (--labelled FILE)"
    raise UsageError(
        f"no answer could be trusted: to show a precision of {wanted.min_precision:g} with "
        f"certainty {wanted.certainty:g} takes {needed} labelled problems that nothing learns from "
        f"(one in {HELD_OUT_SHARE}), all of them answered right, and there are {num}",
        f"{more}, ask for less (selection.min_precision), or for none (selection.min_precision=0)",
    )


def _own(task: Task, config: Config) -> list[Problem]:
    """Problems of the user's own, whose answers decide where they are known."""
    return task.given(config.seed) if task.gives_answers else []


def _check_others(config: Config, policy: Checkpoint) -> None:
    """Other models that write must speak the policy's tokens: what they write is read by it."""
    judge = config.imagination.judge
    if judge and not is_served(judge):
        policy_at(Path(judge).expanduser())  # of any family: it reads text
    named = {"imagination.writer": [config.imagination.writer]}
    named["voting.policies"] = list(config.voting.policies)
    for setting, paths in named.items():
        for path in filter(None, paths):
            other = policy_at(Path(path).expanduser())
            ours, theirs = (c.path / "tokenizer.json" for c in (policy, other))
            if ours.read_bytes() != theirs.read_bytes():
                raise CheckpointError(
                    f"{other.path} ({setting}) has another tokenizer than the policy",
                    f"set {setting} to a model of the policy's family, or leave it out",
                )


def _check_problems(config: Config, prompts: Prompts, max_positions: int) -> None:
    """Every problem that is known now must be spellable, and fit the context."""
    task = prompts.task
    given = [
        *task.seeds(config.num_seeds, config.seed),
        *task.held_out(config.num_held_out, config.evaluation.seed),
        *task.labelled(config.critics.num_labelled, config.seed),
    ]
    for problem in given:
        try:
            size = len(prompts.tokens(problem.text))
        except TaskError as error:
            message = f"problem {problem.text[:60]!r}: {error.message}"
            raise TaskError(message, error.fix) from error
        if size >= max_positions:
            raise TaskError(
                f"problem {problem.text[:60]!r} takes {size} tokens; the policy's context "
                f"holds {max_positions} with the answer",
                "remove it, or use a policy with a longer context",
            )
