"""Every setting with its default, its bounds and its meaning, by section."""

import difflib
import hashlib
import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator

from critics.registry import CRITICS
from search.settings import SearchSettings
from store.masking import masked

MANY = 1_000_000
"""More problems than a file has."""
STEPS = 10_000_000
TOKENS = 2_097_152
"""As many as the longest context that a checkpoint may have."""
MANY_TOKENS = 1_000_000_000
LARGE = 1e6
"""Of weights and other factors: what is larger is a mistake."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ImaginationSettings(Section):
    schemes: tuple[Literal["lamini", "evol-deepen", "evol-widen", "orca-explain"], ...] = Field(
        (), description="problems that an instruction-following model writes (jsonl only)"
    )
    written_share: float = Field(
        0.5, ge=0, le=1, description="share of a round's new problems that the schemes write"
    )
    writer: str = Field("", description="checkpoint directory that writes; empty: the policy")
    judge: str = Field(
        "",
        description="who says whether what was written is a problem: a checkpoint directory or "
        "the address of an OpenAI-compatible endpoint (its key in RATCHET_JUDGE_KEY); empty: the "
        "writer",
    )
    judge_model: str = Field(
        "", description="name of the model that the endpoint is asked for; empty: its first"
    )
    wordings: int = Field(
        0,
        ge=0,
        le=1_000,
        description="other wordings searched of each new problem, to compare answers",
    )
    ladder: bool = Field(
        False,
        description="no problem more than one rung (the task's difficulty) above what is solved "
        "reliably",
    )
    served: bool = Field(
        False, description="start also from questions that a service of this store was asked"
    )


class CriticSettings(Section):
    value_weight: float = Field(
        CRITICS["value"].default_weight, ge=0, le=LARGE, description="beta_v of the blend"
    )
    process_weight: float = Field(
        CRITICS["process"].default_weight, ge=0, le=LARGE, description="beta_PRM of the blend"
    )
    outcome_weight: float = Field(
        CRITICS["outcome"].default_weight, ge=0, le=LARGE, description="beta_ORM of the blend"
    )
    min_auc: float = Field(
        0.6, ge=0, le=1, description="a critic whose held-out AUC is lower is left out of scores"
    )
    use_tool: bool = Field(True, description="let the task's tool check steps")
    num_labelled: int = Field(
        150, ge=0, le=MANY, description="labelled problems that critics learn from"
    )
    samples: int = Field(6, ge=1, le=1_000, description="sampled texts for each labelled problem")
    states: int = Field(
        2, ge=0, le=1_000, description="states of each right text whose options are judged"
    )
    options: int = Field(5, ge=2, le=1_000, description="options judged at each of those states")
    window: int = Field(
        0, ge=0, le=MANY, description="rounds whose stored trees critics learn from, too; 0: none"
    )
    steps: int = Field(
        120, ge=0, le=STEPS, description="training steps of each critic a round; 0 keeps them"
    )
    tuned_layers: int = Field(
        0,
        ge=0,
        le=LARGE,
        description="last blocks of a critic that training changes; those below stay the policy's "
        "and are held once; 0: all are trained",
    )
    checker_steps: int = Field(
        0,
        ge=0,
        le=STEPS,
        description="training steps, when a run begins, of a checker: a copy of the policy that "
        "works out in writing what steps claim where no tool checks them; 0: none",
    )
    rate_share: float = Field(
        0.17, gt=0, le=1, description="learning rate of token critics as a share of the policy's"
    )
    head_rate: float | None = Field(
        None,
        gt=0,
        le=10.0,
        description="learning rate of a critic with a scalar head; unset: the policy's",
    )

    @property
    def weights(self) -> dict[str, float]:
        """Critic to its weight in the blend."""
        return {name: getattr(self, f"{name}_weight") for name in CRITICS}


class VotingSettings(Section):
    wordings: int = Field(
        0,
        ge=0,
        le=1_000,
        description="further wordings of each problem that are answered without a search, to "
        "compare answers",
    )
    policies: tuple[str, ...] = Field(
        (), description="checkpoint directories that answer, too, beside the policy"
    )
    trained: int = Field(
        0,
        ge=0,
        le=15,
        description="further policies that a round trains with other seeds: the gate takes the "
        "best of all, the others vote until the next promotion",
    )


class SelectionSettings(Section):
    min_precision: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="share of right answers that a round must show on labelled problems before it "
        "learns from answers that nothing checks; 0: ask for none",
    )
    certainty: float = Field(
        0.9, gt=0, lt=1, description="probability with which that share must hold"
    )
    probes: int = Field(
        150, ge=0, le=MANY, description="labelled problems searched with a round to show it"
    )
    min_outcome: float = Field(0.0, ge=0, le=1, description="least outcome score (gamma)")
    must_be_sound: bool = Field(True, description="drop what the tool found unsound")
    must_answer: bool = Field(True, description="drop texts without a final answer")
    min_confidence: float = Field(0.0, ge=0, le=1, description="least confidence in the answer")
    min_support: float = Field(
        0.0,
        ge=0,
        le=LARGE,
        description="least sum of outcome scores behind an answer, over its wordings",
    )
    best: int = Field(1, ge=1, le=MANY, description="trajectories kept of one search, at most")
    min_distance: int = Field(
        1,
        ge=0,
        le=MANY,
        description="steps in which two kept trajectories of one search differ, at least",
    )
    max_tokens: int = Field(0, ge=0, le=TOKENS, description="longest trajectory kept; 0: any")
    must_be_correct: bool = Field(
        False, description="drop what is not right; problems without a known answer give nothing"
    )
    reward: str = Field(
        "", description="FILE.py:FUNCTION in verl's form that rates a text; empty: none is asked"
    )
    min_reward: float = Field(
        1.0, ge=-LARGE, le=LARGE, description="least reward of a kept text, where one is asked"
    )


class PolicyTraining(Section):
    """Unset values come from the checkpoint's ratchet.json, else from the trainer's defaults."""

    num_steps: int = Field(600, ge=1, le=STEPS, description="steps a round")
    batch_size: int = Field(48, ge=1, le=65_536, description="texts a step")
    learning_rate: float | None = Field(None, gt=0, le=10.0, description="AdamW's rate")
    matrix_learning_rate: float | None = Field(None, gt=0, le=10.0, description="Muon's rate")
    optimizer: Literal["adamw", "muon"] | None = Field(None, description="adamw or muon")
    position_span: int | None = Field(
        None, ge=0, le=TOKENS, description="range of random positions"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="what products of training are made in, weights being float32; auto: as "
        "hosting.dtype",
    )
    replay_share: float = Field(
        0.35, ge=0, lt=1, description="share of demonstrations among the training texts"
    )
    max_epochs: float = Field(16.0, gt=0, le=LARGE, description="passes over the texts, at most")
    use_labelled: bool = Field(
        True, description="learn also from the policy's own right texts on labelled problems"
    )
    variants: int = Field(
        0,
        ge=0,
        le=100,
        description="texts with other numbers that are made of each one learned from, where the "
        "task can",
    )
    sharding: Literal["auto", "always", "never"] = Field(
        "auto",
        description="whether several training workers share one copy of weights, gradients and "
        "optimiser (FSDP2); auto: for large models; with muon never",
    )
    method: Literal["sft", "dpo", "tr-dpo", "dr-po", "tree-pg"] = Field(
        "sft",
        description="on kept texts, on sibling pairs, on policy from stored states, or on all "
        "steps that searches tried",
    )
    trainer: Literal["own", "trl"] = Field("own", description="our loop, or TRL (sft and dpo)")
    lora_rank: int = Field(
        0,
        ge=0,
        le=4_096,
        description="rank of the LoRA adapters that policy, drafter and critics train on one base; "
        "0: all weights",
    )
    quantization: Literal["none", "nf4"] = Field(
        "none",
        description="of the weights under the adapters while they train (trl only: QLoRA)",
    )
    min_margin: float = Field(
        0.1, ge=0, le=1, description="DPO: least difference in Q between a pair's steps"
    )
    beta: float = Field(0.1, gt=0, le=LARGE, description="DPO: hold on the reference")
    sft_weight: float = Field(
        10.0,
        ge=0,
        le=LARGE,
        description="DPO (own trainer), tree-pg: weight of kept and replayed texts",
    )
    reference_update: Literal["soft", "hard"] = Field("soft", description="TR-DPO: how it moves")
    reference_alpha: float = Field(
        0.1, gt=0, le=1, description="TR-DPO: share of the policy in a soft update"
    )
    reference_steps: int | None = Field(
        None, ge=1, le=STEPS, description="TR-DPO: steps between updates (tau); soft 8, hard 128"
    )
    clip_reference: bool = Field(
        False, description="DPO (own trainer): a reference that prefers the worse step counts as 0"
    )
    disputed_states: bool = Field(
        False,
        description="DR-PO: begin only where steps that a search tried came to different things",
    )
    texts_per_state: int = Field(4, ge=2, le=1_000, description="DR-PO: completions of one state")
    kl_weight: float = Field(0.05, ge=0, le=LARGE, description="DR-PO: log-ratio in the reward")
    clip_below: float = Field(
        0.2,
        gt=0,
        le=1,
        description="DR-PO, tree-pg: share by which a token's probability may fall and pull on",
    )
    clip_above: float = Field(
        0.2,
        gt=0,
        le=LARGE,
        description="DR-PO, tree-pg: share by which it may rise and pull on",
    )
    count_steps_alike: bool = Field(
        True,
        description="tree-pg: steps of a state count alike and not as the policy would draw them",
    )
    draw_epochs: int = Field(
        4, ge=1, le=1_000, description="DR-PO: steps on a draw of texts (PPO's epochs)"
    )
    drafter_steps: int = Field(
        120, ge=0, le=STEPS, description="distillation steps of the drafter; 0: none"
    )


class PromptSettings(Section):
    style: Literal["plain", "chat", "template"] = Field(
        "plain", description="as text, by the checkpoint's chat template, or by a file of your own"
    )
    system: str = Field("", description="system message; in plain style the text before all")
    instruction: str | None = Field(
        None, description="what to do, before each problem; unset: the task's own"
    )
    examples: str = Field("", description="file of worked problems, shown before each one")
    num_examples: int = Field(4, ge=1, le=1_000, description="how many of them, from the first on")
    template: str = Field("", description="file with {problem} in it, for style template")


class CheckpointSettings(Section):
    folder: str = Field("ratchet-runs/checkpoints", description="where new weights go")
    keep: int = Field(
        0,
        ge=0,
        le=MANY,
        description="rounds whose rejected models stay on disk, the newest; 0: of all",
    )


TASKS = (
    "expressions",
    "stories",
    "stories-de",
    "stories-es",
    "game24",
    "ledger",
    "pictures",
    "jsonl",
)
"""Those that come with Ratchet."""
TASK_GROUP = "ratchet.tasks"
"""Entry points by which an installed package names tasks of its own."""
UNSET_PROBLEMS = 600
"""Held-out problems where nobody says how many and no file gives them."""


class EvaluationSettings(Section):
    num_problems: int | None = Field(
        None, ge=1, le=MANY, description="held-out problems, greedy; unset: 600, or all of held_out"
    )
    num_search_problems: int = Field(
        150, ge=0, le=MANY, description="held-out problems, with search"
    )
    seed: int = Field(0, ge=0, lt=2**62, description="draws the held-out problems")
    gate_p: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="promotions that are none, at most, among a run's; its tests share it (LORD++)",
    )


class HostingSettings(Section):
    hosting: Literal["ray", "inline"] = Field("ray", description="actors, or this process")
    ray_address: str = Field("", description="cluster to join; empty starts a local one")
    workers: int = Field(
        1, ge=1, le=1_024, description="policy actors that share the searches (ray only)"
    )
    training_workers: int = Field(
        1,
        ge=1,
        le=1_024,
        description="processes that train the policy together (ray, own trainer, sft)",
    )
    threads: int = Field(
        1, ge=1, le=1_024, description="torch threads of each actor and of training"
    )
    device: str = Field("auto", description="auto, cpu or cuda")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="what weights are held in; auto: bfloat16 on a GPU, and on a CPU that "
        "multiplies it for models from ten million parameters on",
    )
    engine: Literal["torch", "vllm"] = Field("torch", description="what runs the policy")
    batch_rows: int = Field(512, ge=1, le=65_536, description="rows of one forward, at most")
    cohort: int = Field(250, ge=1, le=MANY, description="searches that step together")
    batch_target: int = Field(
        0, ge=0, le=MANY, description="requests of one model call; 0: of all searches"
    )
    speculation: Literal["auto", "always", "never"] = Field("auto", description="draft rollouts")
    draft_tokens: int = Field(4, ge=1, le=16, description="tokens of one draft, at most")
    draft_source: Literal["all", "both", "model", "lookup", "retrieval", "hierarchy"] = Field(
        "all",
        description="drafts come from the drafter, from earlier texts, from the policy over a part "
        "of a long text, from whichever is best of these or of the first two, or, with hierarchy, "
        "from the last with the drafter below it",
    )
    kv_mib: int = Field(
        256, ge=1, le=1_048_576, description="MiB of prefixes kept for each set of weights"
    )
    pictures: str = Field(
        "ratchet-runs/pictures",
        description="folder of the pictures that problems come with, by digest; all hosts see it",
    )

    @property
    def pictures_folder(self) -> Path:
        """The same as an absolute path, which other processes can be told."""
        return Path(self.pictures).expanduser().resolve()

    store_wait_s: float = Field(
        1800.0,
        ge=0,
        le=604800.0,
        description="how long a round waits for a store that does not answer",
    )
    option_tokens: int | None = Field(
        None,
        ge=1,
        le=TOKENS,
        description="longest option; unset: by the worked answers and the context",
    )
    text_tokens: int | None = Field(
        None,
        ge=1,
        le=TOKENS,
        description="longest completion; unset: by the worked answers and the context",
    )

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if value not in ("auto", "cpu") and not value.startswith("cuda"):
            raise ValueError("must be auto, cpu or cuda")
        return value


class ServeSettings(Section):
    host: str = Field("127.0.0.1", min_length=1, description="address to listen at")
    port: int = Field(8000, ge=0, le=65_535, description="port to listen at; 0: any free one")
    names: tuple[str, ...] = Field(
        (), description="host names that clients may use; empty: the address, and localhost's"
    )
    keys: str = Field("", description="file of keys; empty: none, and loopback alone is served")
    run: str = Field("served", min_length=1, description="run that keeps the searches")
    keep_days: float = Field(30.0, ge=0, le=36_500, description="days that they are kept; 0: all")
    active: int = Field(64, ge=1, le=10_000, description="searches that run at a time")
    waiting: int = Field(64, ge=0, le=100_000, description="requests that may wait for a place")
    per_key: int = Field(128, ge=1, le=100_000, description="searches of one key at a time")
    tokens_per_minute: int = Field(
        0, ge=0, le=MANY_TOKENS, description="tokens of one key in a minute, at most; 0: any number"
    )
    queue_s: float = Field(30.0, gt=0, le=3_600, description="seconds to wait for a place")
    request_s: float = Field(600.0, gt=0, le=86_400, description="seconds of a search, at most")
    drain_s: float = Field(30.0, ge=0, le=3_600, description="seconds to finish in at the end")
    body_mib: float = Field(2.0, gt=0, le=1_024, description="MiB of a request, at most")


NO_RESULT = {
    *("store", "checkpoints", "run", "hosting", "serve", "tracking", "tracking_folder"),
}
"""What no result depends on, but for a few settings of hosting; see `Config.digest`."""


class Config(Section):
    task: str = Field(
        "expressions", description="whose problems: a name of Ratchet's, or FILE.py:CLASS"
    )
    policy: str = Field("", description="checkpoint directory; empty: the embedded one")
    bundle: str = Field("", description="folder with all five models; empty: the embedded one")
    problems: str = Field("", description="file of problems for the task jsonl, or hf:NAME")
    held_out: str = Field("", description="file of problems for evaluation alone (jsonl)")
    labelled: str = Field("", description="file of problems with answers, for critics (jsonl)")
    bad_rows: Literal["refuse", "skip"] = Field(
        "refuse", description="what to do with rows of these files that cannot be used"
    )
    answers: Literal["auto", "math", "text", "choice"] = Field(
        "auto", description="rule by which two answers are equal (jsonl)"
    )
    store: str = Field("sqlite:///ratchet-runs/ratchet.db", description="SQLAlchemy URL")
    run: str = Field("default", min_length=1, description="name of the run")
    seed: int = Field(0, ge=0, lt=2**62, description="of everything random")
    problems_per_round: int = Field(2500, ge=1, le=MANY, description="problems imagined a round")
    tokens_per_problem: int = Field(
        450,
        ge=0,
        le=MANY_TOKENS,
        description="tokens of one search of a round, at most; 0: search.max_tokens",
    )
    tracking: Literal["none", "tensorboard", "mlflow", "wandb", "trackio"] = Field(
        "none", description="who is told the curves of a round, beside the store; offline"
    )
    tracking_folder: str = Field("ratchet-runs/tracking", description="where a tracker writes")
    num_seeds: int = Field(300, ge=1, le=MANY, description="problems that imagination starts from")
    search: SearchSettings = SearchSettings()
    imagination: ImaginationSettings = ImaginationSettings()
    critics: CriticSettings = CriticSettings()
    voting: VotingSettings = VotingSettings()
    selection: SelectionSettings = SelectionSettings()
    training: PolicyTraining = PolicyTraining()
    evaluation: EvaluationSettings = EvaluationSettings()
    hosting: HostingSettings = HostingSettings()
    prompt: PromptSettings = PromptSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    serve: ServeSettings = ServeSettings()

    @field_validator("task")
    @classmethod
    def _known_task(cls, value: str) -> str:
        if value in TASKS or ":" in value or value in entry_points(group=TASK_GROUP).names:
            return value
        near = difflib.get_close_matches(value, TASKS, 1)
        meant = f"did you mean {near[0]!r}? It " if near else ""
        raise ValueError(f"{meant}must be one of {', '.join(TASKS)}, or FILE.py:CLASS")

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _folder_alone(cls, value: object) -> object:
        return {"folder": value} if isinstance(value, str) else value

    @property
    def shown_store(self) -> str:
        """The store's URL without a password: for people, and for what is written down."""
        return masked(self.store)

    @field_serializer("store")
    def _without_password(self, value: str) -> str:
        return masked(value)

    @property
    def names_run(self) -> bool:
        """Whether somebody named the run."""
        return "run" in self.model_fields_set

    @property
    def num_held_out(self) -> int:
        """Held-out problems to ask for, at most."""
        if self.evaluation.num_problems is None:
            return MANY if self.held_out else UNSET_PROBLEMS
        return self.evaluation.num_problems

    def _lengths(self) -> tuple[int | None, int | None]:
        """As set; unset ones are the usual ones, but for files they follow the worked answers."""
        option, text = self.hosting.option_tokens, self.hosting.text_tokens
        return (option, text) if self.task == "jsonl" else (option or 48, text or 256)

    def digest(self) -> str:
        """Digest of what results depend on: everything but places and hosting.

        Settings that came later count only where they are set: a round that was begun before
        them goes on.
        """
        kept = self.model_dump(exclude=NO_RESULT)
        for key in ("held_out", "labelled", "bad_rows", "answers", "prompt"):
            if getattr(self, key) == type(self).model_fields[key].default:
                kept.pop(key)
        for name in ("must_be_correct", "reward", "min_reward"):
            if getattr(self.selection, name) == SelectionSettings.model_fields[name].default:
                kept["selection"].pop(name)
        if not self.imagination.served:
            kept["imagination"].pop("served")
        if self.critics.head_rate is None:
            kept["critics"].pop("head_rate")
        if self.training.dtype == "auto":
            kept["training"].pop("dtype")
        if self.hosting.dtype != "auto":
            kept["dtype"] = self.hosting.dtype
        kept["evaluation"]["num_problems"] = self.num_held_out
        kept["limits"] = [
            *self._lengths(),
            self.hosting.cohort,
            self.hosting.batch_target,
        ]
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
