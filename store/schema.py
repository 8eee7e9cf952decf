"""Every table, typed. Times are integer microseconds since the epoch in UTC; sizes are in bytes.

One row of `searches` is the unit of work and of durability: it is claimed with a fence, and its
nodes, scores and trajectories are written in the one transaction that ends it.
"""

from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from store.states import ENDED as ENDED
from store.states import CheckpointStatus, Role, SearchStatus, Stage

Id = BigInteger().with_variant(Integer(), "sqlite")


def _one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    listed = ", ".join(f"'{v}'" for v in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {str: Text(), dict[str, Any]: JSON(), bytes: LargeBinary()}


class Run(Base):
    """One experiment: a task, a base policy, and the rounds that follow; its row is the lock."""

    __tablename__ = "runs"
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    task: Mapped[str]
    config: Mapped[dict[str, Any]]
    config_sha: Mapped[str]
    code_version: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    created_ts: Mapped[int] = mapped_column(BigInteger)
    fence: Mapped[int] = mapped_column(default=0)
    owner: Mapped[str] = mapped_column(default="")
    """host, process id and process start, joined by blanks; empty when nobody works on the run."""
    lease_until_ts: Mapped[int] = mapped_column(BigInteger, default=0)
    """By the database's clock, for processes of other hosts than the owner's."""
    lease_until_boot: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Microseconds since boot of the owner's host, for processes of that host."""


class Round(Base):
    """One turn of the ratchet."""

    __tablename__ = "rounds"
    __table_args__ = (UniqueConstraint("run_id", "number"), _one_of("stage", Stage))
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    number: Mapped[int]
    stage: Mapped[str]
    models: Mapped[dict[str, Any]]
    """Role to checkpoint version in use while the round searches."""
    candidates: Mapped[dict[str, Any] | None]
    """Role to checkpoint version that the round trained; empty before."""
    search_config: Mapped[dict[str, Any]]
    config_sha: Mapped[str]
    verdict: Mapped[dict[str, Any] | None]
    """What the gate saw and decided."""
    timings: Mapped[dict[str, Any]]
    """Seconds spent in each stage, over all attempts."""
    num_problems: Mapped[int] = mapped_column(default=0)
    started_ts: Mapped[int] = mapped_column(BigInteger)
    ended_ts: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[str | None]


class ProblemRow(Base):
    __tablename__ = "problems"
    __table_args__ = (UniqueConstraint("task", "key"),)
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    task: Mapped[str]
    key: Mapped[str]
    """Digest: equal for problems that count as the same."""
    text: Mapped[str]
    answer: Mapped[str | None]
    origin: Mapped[str]
    difficulty: Mapped[float | None]
    family: Mapped[str]
    """Key of the problem that this one says in other words; empty for one of its own."""
    round_id: Mapped[int | None] = mapped_column(ForeignKey("rounds.id"))
    """Round that imagined it; empty for given ones."""


class SearchRow(Base):
    __tablename__ = "searches"
    __table_args__ = (
        UniqueConstraint("round_id", "problem_id"),
        Index("ix_searches_status", "round_id", "status"),
        _one_of("status", SearchStatus),
    )
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id"))
    problem_id: Mapped[int] = mapped_column(ForeignKey("problems.id"), index=True)
    position: Mapped[int]
    """Place in the round: searches of one cohort stand together."""
    seed: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str]
    fence: Mapped[int] = mapped_column(default=0)
    policy_version: Mapped[str | None]
    num_simulations: Mapped[int | None]
    num_tokens: Mapped[int | None]
    num_nodes: Mapped[int | None]
    num_unscored: Mapped[int | None]
    stop_reason: Mapped[str | None]
    answer: Mapped[str | None]
    confidence: Mapped[float | None]
    is_correct: Mapped[bool | None]
    """Against the reference answer, for reports only; empty when nobody knows the answer."""
    is_sound: Mapped[bool | None]
    root_rollout_answer: Mapped[str | None]
    """What the policy answers greedily, without search."""
    root_rollout_correct: Mapped[bool | None]
    is_trimmed: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether all of its tree but the paths that were trained on, and their siblings, is gone."""
    ended_ts: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[str | None]


class NodeRow(Base):
    """A tree node with the statistics of the option that leads to it."""

    __tablename__ = "nodes"
    __table_args__ = (Index("ix_nodes_parent", "search_id", "parent_ix"),)
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    ix: Mapped[int] = mapped_column(primary_key=True)
    parent_ix: Mapped[int | None]
    depth: Mapped[int] = mapped_column(SmallInteger)
    visits: Mapped[int]
    value_sum: Mapped[float]
    own_evaluations: Mapped[int] = mapped_column(SmallInteger)
    prior: Mapped[float | None]
    value: Mapped[float | None]
    stop: Mapped[str | None]
    unsound_reason: Mapped[str | None]
    """What the task's tool found wrong with the option; such a node is visited only if
    `search.unsound` allows it."""
    num_tokens: Mapped[int] = mapped_column(SmallInteger)


class NodeText(Base):
    """Text of one step, apart from the narrow row."""

    __tablename__ = "node_texts"
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    ix: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class CriticScore(Base):
    __tablename__ = "critic_scores"
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    ix: Mapped[int] = mapped_column(primary_key=True)
    critic: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    """Number among several scores of one critic for one node."""
    version: Mapped[str]
    score: Mapped[float | None]
    """Empty when the critic gave none; `reason` says why."""
    reason: Mapped[str]


class SimulationRow(Base):
    """One finished simulation. In order they rebuild N and W of every node of the tree."""

    __tablename__ = "simulations"
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    """0, 1, 2, ... in the order in which values were backed up."""
    leaf_ix: Mapped[int]
    """The node that was evaluated."""
    value: Mapped[float]
    num_tokens: Mapped[int]
    """Tokens that the search had spent by then."""


class JournalRow(Base):
    """An answer that a search under way was told; gone when the search has ended."""

    __tablename__ = "search_journals"
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    entry: Mapped[dict[str, Any]]


class TrajectoryRow(Base):
    """A finished text that a search found."""

    __tablename__ = "trajectories"
    __table_args__ = (UniqueConstraint("search_id", "sha"),)
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    sha: Mapped[str]
    """Digest of the token ids, prompt included."""
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"))
    problem_id: Mapped[int] = mapped_column(ForeignKey("problems.id"), index=True)
    is_chosen: Mapped[bool]
    """Whether it is the search's answer."""
    prompt_tokens: Mapped[bytes]
    """uint32, little-endian."""
    tokens: Mapped[bytes]
    text: Mapped[str]
    steps: Mapped[dict[str, Any]]
    """For each step its text, number of tokens, visit share and Q."""
    answer: Mapped[str | None]
    outcome: Mapped[float | None]
    is_sound: Mapped[bool | None]
    is_correct: Mapped[bool | None]


class DatasetRow(Base):
    """A frozen training set: never a query that is run again later."""

    __tablename__ = "datasets"
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id"), unique=True)
    rule: Mapped[dict[str, Any]]
    num_items: Mapped[int]
    sha: Mapped[str]


class DatasetItem(Base):
    __tablename__ = "dataset_items"
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    trajectory_id: Mapped[int] = mapped_column(ForeignKey("trajectories.id"), index=True)
    scores: Mapped[dict[str, Any]]
    """What it was chosen by: rank, outcome, confidence, agreeing wordings; for each its figure."""


class PreferencePair(Base):
    """Two steps of one state, frozen with its dataset: the one taken, and one found worse."""

    __tablename__ = "preference_pairs"
    __table_args__ = (Index("ix_preference_pairs_margin", "dataset_id", "margin"),)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"))
    parent_ix: Mapped[int]
    chosen_ix: Mapped[int]
    rejected_ix: Mapped[int]
    margin: Mapped[float]
    """Q of the step taken less that of the other; a refuted step counts 0."""
    reason: Mapped[str]
    """Why the other one was refuted; empty when its Q was lower."""


class CheckpointRow(Base):
    __tablename__ = "checkpoints"
    __table_args__ = (
        UniqueConstraint("role", "version"),
        _one_of("role", Role),
        _one_of("status", CheckpointStatus),
    )
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    role: Mapped[str]
    version: Mapped[str]
    path: Mapped[str]
    parent_version: Mapped[str | None]
    round_id: Mapped[int | None] = mapped_column(ForeignKey("rounds.id"))
    dataset_id: Mapped[int | None] = mapped_column(ForeignKey("datasets.id"))
    status: Mapped[str]
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    manifest_sha: Mapped[str] = mapped_column(default="", server_default="")
    """SHA-256 of its manifest.json; empty for a checkpoint that Ratchet did not write."""
    report: Mapped[dict[str, Any]]
    """Losses of the training job, or AUC, Brier and calibration error of a critic."""
    created_ts: Mapped[int] = mapped_column(BigInteger)


class TrainMetric(Base):
    """A figure of a training job along its steps."""

    __tablename__ = "train_metrics"
    checkpoint_id: Mapped[int] = mapped_column(ForeignKey("checkpoints.id"), primary_key=True)
    """The checkpoint that the job came to."""
    name: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float]


class EvaluationRow(Base):
    __tablename__ = "evaluations"
    __table_args__ = (UniqueConstraint("policy_version", "config_sha"),)
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    policy_version: Mapped[str]
    config_sha: Mapped[str]
    """Digest of everything else that the result depends on."""
    round_id: Mapped[int | None] = mapped_column(ForeignKey("rounds.id"))
    mode: Mapped[str]
    settings: Mapped[dict[str, Any]]
    models: Mapped[dict[str, Any]]
    benchmark_sha: Mapped[str]
    n: Mapped[int]
    num_correct: Mapped[int]
    num_unanswered: Mapped[int]
    num_tokens: Mapped[int] = mapped_column(BigInteger)
    low: Mapped[float]
    high: Mapped[float]
    seconds: Mapped[float]
    created_ts: Mapped[int] = mapped_column(BigInteger)


class EvaluationItem(Base):
    __tablename__ = "evaluation_items"
    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id"), primary_key=True)
    problem_key: Mapped[str] = mapped_column(primary_key=True)
    answer: Mapped[str | None]
    is_correct: Mapped[bool]


class ActorRow(Base):
    """Last known health of each actor of a run."""

    __tablename__ = "actors"
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    version: Mapped[str]
    device: Mapped[str]
    pid: Mapped[int]
    num_restarts: Mapped[int]
    seen_ts: Mapped[int] = mapped_column(BigInteger)


class SpeculationRow(Base):
    """What drafts for one policy came to, as its actor last reported."""

    __tablename__ = "speculation"
    policy_version: Mapped[str] = mapped_column(primary_key=True)
    drafter_version: Mapped[str] = mapped_column(primary_key=True)
    """Empty when there is no drafter and look-up alone drafts."""
    source: Mapped[str] = mapped_column(primary_key=True)
    """model or lookup."""
    actor: Mapped[str] = mapped_column(primary_key=True)
    acceptance: Mapped[float]
    """Running share of tried tokens that were the policy's choice."""
    accepted_length: Mapped[float]
    """Mean tokens accepted of a draft."""
    num_drafted: Mapped[int] = mapped_column(BigInteger)
    num_accepted: Mapped[int] = mapped_column(BigInteger)
    costs: Mapped[dict[str, Any]]
    """Measured milliseconds by number of texts: a step by its tokens, a drafted token by source."""
    selftest: Mapped[str]
    seen_ts: Mapped[int] = mapped_column(BigInteger)


class Event(Base):
    """What happened, for people who ask later."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    ts: Mapped[int] = mapped_column(BigInteger)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), index=True)
    round_id: Mapped[int | None] = mapped_column(ForeignKey("rounds.id"))
    kind: Mapped[str]
    payload: Mapped[dict[str, Any]]
