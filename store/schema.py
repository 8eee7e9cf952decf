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

from store.states import CheckpointStatus, Choice, Role, SearchStatus, Stage

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
    """Number of the run in this store."""
    name: Mapped[str] = mapped_column(unique=True)
    """What `--run` calls it."""
    task: Mapped[str]
    """Whose problems it searches: expressions, stories, game24, ledger,
    pictures or jsonl."""
    config: Mapped[dict[str, Any]]
    """Settings of the command that created the run; a later round may have had others."""
    config_sha: Mapped[str]
    """Digest of those settings that results depend on, 16 hexadecimal digits."""
    code_version: Mapped[str]
    """Version of Ratchet that created the run and, in a checkout, `+` and its commit."""
    seed: Mapped[int] = mapped_column(BigInteger)
    """The setting `seed` of the command that created the run."""
    created_ts: Mapped[int] = mapped_column(BigInteger)
    """When the row was written, in microseconds."""
    fence: Mapped[int] = mapped_column(default=0)
    """How often the run was taken by a process; what carries a lower number is not written."""
    owner: Mapped[str] = mapped_column(default="")
    """Host, process id and process start of who works on the run, joined by blanks; empty text when
    nobody does."""
    lease_until_ts: Mapped[int] = mapped_column(BigInteger, default=0)
    """When the owner's lease runs out, in microseconds of the database's clock, which processes of
    other hosts go by; 0 when nobody works on the run."""
    lease_until_boot: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """The same in microseconds since the owner's host was started, which processes of that host go
    by; 0 when nobody works on the run."""


class Round(Base):
    """One turn of the ratchet."""

    __tablename__ = "rounds"
    __table_args__ = (UniqueConstraint("run_id", "number"), _one_of("stage", Stage))
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    """Number of the round in this store, over all runs."""
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    """The run that it belongs to."""
    number: Mapped[int]
    """Its place in the run, from 1; what `--round` names."""
    stage: Mapped[str]
    """What it is doing, or how it ended."""
    models: Mapped[dict[str, Any]]
    """Role to checkpoint version in use while the round searches."""
    candidates: Mapped[dict[str, Any] | None]
    """Role to checkpoint version that the round trained and would hand on: the new policy, its
    drafter, and the critics that do not rank worse than before. Empty before training, and JSON's
    null while damaged ones are trained again."""
    search_config: Mapped[dict[str, Any]]
    """Settings of its searches, but for `max_tokens`: where the setting `tokens_per_problem` is
    above 0, a search of the round may spend that much instead."""
    config_sha: Mapped[str]
    """Digest of all settings that the round's results depend on, 16 hexadecimal digits; it can go
    on only with the same ones."""
    verdict: Mapped[dict[str, Any] | None]
    """What the gate saw and decided; empty before, and for a round that was given up."""
    timings: Mapped[dict[str, Any]]
    """Seconds by stage; a stage that a kill cut off counts from where it was taken up again."""
    num_problems: Mapped[int] = mapped_column(default=0)
    """Searches planned, one for each problem and each of its other wordings; 0 before."""
    started_ts: Mapped[int] = mapped_column(BigInteger)
    """When it was opened, in microseconds."""
    ended_ts: Mapped[int | None] = mapped_column(BigInteger)
    """When it was promoted, kept or given up, in microseconds; empty before."""
    error: Mapped[str | None]
    """Why it was given up, and at which stage; empty for every other round."""


class ProblemRow(Base):
    """A question that some run started from or searched; held-out problems are not among them."""

    __tablename__ = "problems"
    __table_args__ = (UniqueConstraint("task", "key"),)
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    """Number of the problem in this store; all runs of the task share the row."""
    task: Mapped[str]
    """The task that can read it, as in `runs.task`."""
    key: Mapped[str]
    """Digest, 20 hexadecimal digits: equal for problems that count as the same."""
    text: Mapped[str]
    """The question without the prompt around it."""
    answer: Mapped[str | None]
    """Reference answer, which no search sees; for game24 the puzzle itself, since any expression
    that keeps the rules is right. Empty when nobody knows it."""
    origin: Mapped[str]
    """Where it came from."""
    difficulty: Mapped[float | None]
    """The task's own measure: operators of an expression, events of a story; empty for tasks
    without one."""
    family: Mapped[str]
    """Key of the problem that this one says in other words; empty text for one of its own."""
    pictures: Mapped[str] = mapped_column(default="", server_default="")
    """Digests of the pictures that it comes with, joined by blanks: their files are named after
    them, in the folder `hosting.pictures`. Empty text without any."""
    round_id: Mapped[int | None] = mapped_column(ForeignKey("rounds.id"))
    """Round that brought it into the store, of whichever run; empty for what a run starts from."""


class SearchRow(Base):
    """The tree search for one problem: one a problem in a round of a run, and one a request in
    those of a service. Its results are empty until it has ended, and stay empty where the round was
    given up first."""

    __tablename__ = "searches"
    __table_args__ = (
        UniqueConstraint("round_id", "position"),
        Index("ix_searches_status", "round_id", "status"),
        Index("ix_searches_request_id", "request_id", unique=True),
        _one_of("status", SearchStatus),
    )
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    """Number of the search in this store; those of a round are consecutive."""
    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id"))
    """The round that planned it."""
    problem_id: Mapped[int] = mapped_column(ForeignKey("problems.id"), index=True)
    """The problem that it tries to answer."""
    position: Mapped[int]
    """Place in the round, from 0: searches of one cohort stand together."""
    request_id: Mapped[str | None]
    """Name by which a service knows it; empty for a search of a round."""
    asked_by: Mapped[str | None]
    """Name of the key that asked a service for it; empty for a search of a round."""
    seed: Mapped[int] = mapped_column(BigInteger)
    """Its own seed, from 0 to 2^63 - 1, drawn from the run's seed, the round and the problem."""
    status: Mapped[str]
    """Where it stands."""
    fence: Mapped[int] = mapped_column(default=0)
    """`runs.fence` of the holder that claimed it last; 0 before the first."""
    policy_version: Mapped[str | None]
    """Checkpoint version of the policy that it asked."""
    num_simulations: Mapped[int | None]
    """Finished simulations; those whose node stayed unscored are not among them."""
    num_tokens: Mapped[int | None]
    """Tokens that the policy read for it, those of discarded options included, prompts left
    out."""
    num_nodes: Mapped[int | None]
    """Rows that it wrote to `nodes`: the root, and every option whether visited or not."""
    num_unscored: Mapped[int | None]
    """Evaluations that came back without a value, so that their simulation was taken back."""
    stop_reason: Mapped[str | None]
    """Why it ended."""
    answer: Mapped[str | None]
    """The final answer it chose, in its normal form; empty when no text was finished or the chosen
    one has none."""
    confidence: Mapped[float | None]
    """Share of the finished texts' weight (outcome score times probability) that stands behind the
    answer, from 0 to 1; 0 without a finished text."""
    is_correct: Mapped[bool | None]
    """Against the reference answer, for reports only; no answer is a wrong one, and it is empty
    when nobody knows the reference."""
    is_sound: Mapped[bool | None]
    """Whether the task's tool found every step of the chosen text sound; false if it refuted one,
    empty where it had nothing to say."""
    root_rollout_answer: Mapped[str | None]
    """What the policy answers without search: by the text of the most probable option each time,
    or, where states are the leaves, by the first rollout from the root. Empty when the search did
    not come to that text, such as where the tool refutes a step of it, or it has no answer."""
    root_rollout_correct: Mapped[bool | None]
    """That answer against the reference, by the rule of `is_correct`."""
    is_trimmed: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether all of its tree but the paths that were trained on, and their siblings, is gone."""
    ended_ts: Mapped[int | None] = mapped_column(BigInteger)
    """When it was written, in microseconds; empty, too, where the round was given up."""
    error: Mapped[str | None]
    """What went wrong, or that the round was given up; empty for a search that is done."""


class NodeRow(Base):
    """A tree node with the statistics of the option that leads to it."""

    __tablename__ = "nodes"
    __table_args__ = (Index("ix_nodes_parent", "search_id", "parent_ix"),)
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    """The search whose tree it is in."""
    ix: Mapped[int] = mapped_column(primary_key=True)
    """Number within the tree: 0 is the root, then nodes in order of creation, then the options that
    never became a node."""
    parent_ix: Mapped[int | None]
    """Number of the node above, in the same tree; empty for the root."""
    depth: Mapped[int] = mapped_column(SmallInteger)
    """Options from the root, which has depth 0."""
    visits: Mapped[int]
    """N: finished simulations that went through it or ended here."""
    value_sum: Mapped[float]
    """W: sum of the values that those simulations backed up; Q is W / N."""
    own_evaluations: Mapped[int] = mapped_column(SmallInteger)
    """1 if a simulation ended here and gave it a value, else 0."""
    prior: Mapped[float | None]
    """P: probability of the option under the policy at temperature 1, with those of options merged
    into it; less where `search.unsound` discounts it, and empty for the root."""
    value: Mapped[float | None]
    """The blend of the critics' scores for the node and its rollouts, in [0, 1]: 0 for a text cut
    off by length, 0.5 where no critic is trusted. Empty where it was not evaluated."""
    stop: Mapped[str | None]
    """Why the option ended where it does; empty for the root."""
    unsound_reason: Mapped[str | None]
    """What the task's tool found wrong with the option, in the tool's words; such a node is visited
    only if `search.unsound` allows it. Empty when it found nothing wrong."""
    num_tokens: Mapped[int] = mapped_column(SmallInteger)
    """Tokens of the option as generated; 0 for the root."""


class NodeText(Base):
    """Text of one step, apart from the narrow row."""

    __tablename__ = "node_texts"
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    """The search, as in `nodes`."""
    ix: Mapped[int] = mapped_column(primary_key=True)
    """Number of the node, as in `nodes`."""
    text: Mapped[str]
    """Text of the option, its line break included; the whole prompt for the root."""


class CriticScore(Base):
    """What one critic said of one node, or why it said nothing."""

    __tablename__ = "critic_scores"
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    """The search, as in `nodes`."""
    ix: Mapped[int] = mapped_column(primary_key=True)
    """Number of the node, as in `nodes`; what the outcome critic scored are its rollouts."""
    critic: Mapped[str] = mapped_column(primary_key=True)
    """Role of the critic."""
    seq: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    """Number among several scores of one critic for one node, from 0: one for each rollout of the
    outcome critic, always 0 for the others."""
    version: Mapped[str]
    """Checkpoint version of the critic; empty text when it was not asked."""
    score: Mapped[float | None]
    """Calibrated chance in [0, 1]; empty when the critic gave none, which is not a score of 0."""
    reason: Mapped[str]
    """Why there is no score, or why it was set to 0; empty text for a score as the critic gave
    it."""


class SimulationRow(Base):
    """One finished simulation. In order they rebuild N and W of every node of the tree."""

    __tablename__ = "simulations"
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    """The search that made it."""
    seq: Mapped[int] = mapped_column(primary_key=True)
    """0, 1, 2, ... in the order in which values were backed up."""
    leaf_ix: Mapped[int]
    """Number, as in `nodes`, of the node that was evaluated."""
    value: Mapped[float]
    """Value of that node, in [0, 1], added to W of every node on the way to it."""
    num_tokens: Mapped[int]
    """Tokens that the search had spent by then."""


class JournalRow(Base):
    """An answer that a search under way was told; gone when the search has ended."""

    __tablename__ = "search_journals"
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    """The search under way."""
    seq: Mapped[int] = mapped_column(primary_key=True)
    """0, 1, 2, ... in the order of telling; told again in this order they give the same tree."""
    entry: Mapped[dict[str, Any]]
    """The answer: options for a node, or an evaluation of one."""


class TrajectoryRow(Base):
    """A finished text that a search found."""

    __tablename__ = "trajectories"
    __table_args__ = (UniqueConstraint("search_id", "sha"),)
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    """Number of the text in this store."""
    sha: Mapped[str]
    """Digest of the token ids, prompt included, 32 hexadecimal digits."""
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"))
    """The search that came across it."""
    problem_id: Mapped[int] = mapped_column(ForeignKey("problems.id"), index=True)
    """The search's problem, repeated here."""
    is_chosen: Mapped[bool]
    """Whether it is the search's answer."""
    prompt_tokens: Mapped[bytes]
    """Token ids of the prompt: uint32, little-endian. A picture is so many ids as it has patches:
    four from 2^31 on, which hold 31 bits of its digest each, then placeholders."""
    tokens: Mapped[bytes]
    """Token ids of the completion exactly as generated: uint32, little-endian."""
    text: Mapped[str]
    """The completion as text: its steps joined, without the prompt."""
    steps: Mapped[dict[str, Any]]
    """The completion step by step, with what the tree says of each."""
    answer: Mapped[str | None]
    """Its final answer in the normal form of the task; empty when it has none."""
    outcome: Mapped[float | None]
    """Score of the outcome critic in [0, 1], 0 where the tool refuted a step; empty when the critic
    gave none."""
    is_sound: Mapped[bool | None]
    """Whether the task's tool found every step sound; false if it refuted one, empty where it had
    nothing to say."""
    is_correct: Mapped[bool | None]
    """Against the reference answer, for reports only; no answer is a wrong one, and it is empty
    when nobody knows the reference."""


class DatasetRow(Base):
    """A frozen training set: never a query that is run again later."""

    __tablename__ = "datasets"
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    """Number of the dataset in this store."""
    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id"), unique=True)
    """The round whose searches it was chosen from."""
    rule: Mapped[dict[str, Any]]
    """The selection rule that chose its texts."""
    num_items: Mapped[int]
    """Rows that it has in `dataset_items`; 0 when no text passed the rule."""
    sha: Mapped[str]
    """SHA-256 over the digests of its trajectories in order, 64 hexadecimal digits."""


class DatasetItem(Base):
    """One text of a frozen training set."""

    __tablename__ = "dataset_items"
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    """The dataset that it is in."""
    position: Mapped[int] = mapped_column(primary_key=True)
    """Place in the dataset, from 0: search by search in the round's order."""
    trajectory_id: Mapped[int] = mapped_column(ForeignKey("trajectories.id"), index=True)
    """The text itself."""
    scores: Mapped[dict[str, Any]]
    """The figures that it was chosen by."""


class PreferencePair(Base):
    """Two steps of one state, frozen with its dataset: the one taken, and one found worse."""

    __tablename__ = "preference_pairs"
    __table_args__ = (Index("ix_preference_pairs_margin", "dataset_id", "margin"),)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    """The dataset whose trajectories the steps were taken from."""
    position: Mapped[int] = mapped_column(primary_key=True)
    """Place among the dataset's pairs, from 0: trajectory by trajectory, then step by step."""
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"))
    """The search whose tree holds both steps."""
    parent_ix: Mapped[int]
    """Number, as in `nodes`, of the state that both go on from."""
    chosen_ix: Mapped[int]
    """Number, as in `nodes`, of the step that the trajectory took."""
    rejected_ix: Mapped[int]
    """Number, as in `nodes`, of the step found worse."""
    margin: Mapped[float]
    """Q of the step taken less that of the other, from 0 to 1; a refuted step, and one without
    visits, counts 0."""
    reason: Mapped[str]
    """Why the tool refuted the other one; empty text when its Q was lower."""


class CheckpointRow(Base):
    """Weights that a run used or trained, in one role. All runs of the store share the rows."""

    __tablename__ = "checkpoints"
    __table_args__ = (
        UniqueConstraint("role", "version"),
        _one_of("role", Role),
        _one_of("status", CheckpointStatus),
    )
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    """Number of the row; the same weights in two roles have two."""
    role: Mapped[str]
    """What the model is for."""
    version: Mapped[str]
    """First 16 hexadecimal digits of the SHA-256 over config.json and the weights."""
    path: Mapped[str]
    """Absolute path of its directory, on the host that registered it."""
    parent_version: Mapped[str | None]
    """Version of the weights that it was made from: its role's own before it or, for a drafter and
    for first critics, the policy's. Empty where the store has no row of them, as for a base
    policy."""
    round_id: Mapped[int | None] = mapped_column(ForeignKey("rounds.id"))
    """The round that trained it; empty for what a run began with, first critics included."""
    dataset_id: Mapped[int | None] = mapped_column(ForeignKey("datasets.id"))
    """The dataset of that round, whether this model learned from it or, as a critic, from labelled
    texts; empty for what a run began with."""
    status: Mapped[str]
    """Whether it may be used."""
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    """Size of the weight files alone."""
    manifest_sha: Mapped[str] = mapped_column(default="", server_default="")
    """SHA-256 of its manifest.json; empty text for a checkpoint that Ratchet did not write."""
    report: Mapped[dict[str, Any]]
    """Measurements of its training, by role; {} where there are none, as for a base policy."""
    created_ts: Mapped[int] = mapped_column(BigInteger)
    """When it was first registered in this store, in microseconds."""


class TrainMetric(Base):
    """A figure of a training job along its steps."""

    __tablename__ = "train_metrics"
    checkpoint_id: Mapped[int] = mapped_column(ForeignKey("checkpoints.id"), primary_key=True)
    """The checkpoint that the job came to."""
    name: Mapped[str] = mapped_column(primary_key=True)
    """Which figure; so far always `loss`."""
    step: Mapped[int] = mapped_column(primary_key=True)
    """Steps done by then: every tenth one and the last, or every one under TRL."""
    value: Mapped[float]
    """Mean training loss of the last ten steps up to this one, in the units of the method; the
    loss of this step alone under TRL."""


class EvaluationRow(Base):
    """Held-out accuracy of one policy in one mode, measured once and read ever after."""

    __tablename__ = "evaluations"
    __table_args__ = (UniqueConstraint("policy_version", "config_sha"),)
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    """Number of the evaluation in this store."""
    policy_version: Mapped[str]
    """Checkpoint version of the policy that answered."""
    config_sha: Mapped[str]
    """Digest of the models, the settings and the benchmark, 32 hexadecimal digits."""
    round_id: Mapped[int | None] = mapped_column(ForeignKey("rounds.id"))
    """The round that measured it first, as its old policy or its new one; empty for one measured
    outside a round."""
    mode: Mapped[str]
    """How the problems were answered."""
    settings: Mapped[dict[str, Any]]
    """What the result depends on besides weights and problems."""
    models: Mapped[dict[str, Any]]
    """Role to checkpoint version: of the policy alone when greedy, of all models with search."""
    benchmark_sha: Mapped[str]
    """Digest of the problems and their reference answers, 16 hexadecimal digits; equal where two
    evaluations may be compared."""
    n: Mapped[int]
    """Problems asked."""
    num_correct: Mapped[int]
    """Answers equal to the reference, by the task's own rule."""
    num_unanswered: Mapped[int]
    """Problems left without an answer; they count as wrong."""
    num_cut: Mapped[int | None]
    """Problems whose text was cut off by length, of those that are answered by one text; empty for
    search and for evaluations of before 0.7."""
    num_tokens: Mapped[int] = mapped_column(BigInteger)
    """Tokens that all models together generated."""
    low: Mapped[float]
    """Lower end of the 95 % Wilson interval of num_correct / n."""
    high: Mapped[float]
    """Upper end of that interval."""
    seconds: Mapped[float]
    """Wall time that it took."""
    bits_per_character: Mapped[float | None]
    """What the policy needs to write down the solutions of the task's held-out worked texts given
    their problems (conditional bits per character, no stream); measured with greedy answers, empty
    elsewhere and for a task without worked texts."""
    created_ts: Mapped[int] = mapped_column(BigInteger)
    """When it was written, in microseconds."""


class EvaluationItem(Base):
    """One answer of an evaluation."""

    __tablename__ = "evaluation_items"
    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id"), primary_key=True)
    """The evaluation that it belongs to."""
    problem_key: Mapped[str] = mapped_column(primary_key=True)
    """The held-out problem, as in `held_out_problems.key`; it has no row in `problems`."""
    answer: Mapped[str | None]
    """Final answer in the normal form of the task; empty when there was none."""
    is_correct: Mapped[bool]
    """Against the reference; false without an answer."""
    text: Mapped[str | None]
    """What was written: the greedy text, or the one that the search chose; empty where nothing was
    finished, and for evaluations of before 0.7."""


class HeldOutProblem(Base):
    """A problem that policies are measured on; it is never searched for a round or learned from."""

    __tablename__ = "held_out_problems"
    key: Mapped[str] = mapped_column(primary_key=True)
    """Digest of task and text, made like `problems.key`."""
    task: Mapped[str]
    """Whose problem it is, as in `runs.task`."""
    text: Mapped[str]
    """The problem in the task's normal form."""
    answer: Mapped[str | None]
    """Reference answer."""


class ArenaVote(Base):
    """One blind comparison of two answers to a held-out problem."""

    __tablename__ = "arena_votes"
    __table_args__ = (
        UniqueConstraint("judge", "problem_key", "pair"),
        _one_of("choice", Choice),
    )
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    """Number of the vote in this store."""
    ts: Mapped[int] = mapped_column(BigInteger)
    """When it was cast, in microseconds."""
    problem_key: Mapped[str] = mapped_column(index=True)
    """The problem, as in `held_out_problems.key`."""
    left_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id"))
    """The evaluation whose answer was shown first or on the left. Its policy and mode are the
    contestant."""
    right_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id"))
    """The evaluation whose answer was shown second or on the right."""
    pair: Mapped[str]
    """Names of both contestants, in alphabetical order and joined by a blank: a judge compares
    them once on a problem."""
    left_sha: Mapped[str]
    """Digest of the text that was shown first, 32 hexadecimal digits."""
    right_sha: Mapped[str]
    """Digest of the other text."""
    choice: Mapped[str]
    """What the judge said."""
    strength: Mapped[int] = mapped_column(SmallInteger)
    """How much better the chosen answer is, from 1 (slightly) to 3 (much); 1 where nobody was
    asked."""
    judge: Mapped[str]
    """Who said it: a person's name, or `verifier:TASK` or `model:WHICH`."""
    seconds: Mapped[float | None]
    """From showing the answers to the vote; empty for a verifier."""
    seed: Mapped[int] = mapped_column(BigInteger)
    """What pair, problem and sides were drawn with; 0 for a verifier, which judges all pairs."""
    chance: Mapped[float]
    """Chance with which the pair was drawn, among those open then; 1 for a verifier."""


class ActorRow(Base):
    """Last known health of each actor of a run."""

    __tablename__ = "actors"
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    """The run whose models it hosts."""
    role: Mapped[str] = mapped_column(primary_key=True)
    """Name of the actor: its role, numbered where several host the policy."""
    state: Mapped[str]
    """How it was at the last beat; a command that was killed leaves the last one standing."""
    version: Mapped[str]
    """Checkpoint version that it used last; empty text before it has loaded any, and for a policy
    that vLLM runs."""
    device: Mapped[str]
    """Where its models are: cpu, cuda or cuda:N; empty text before it has answered once."""
    pid: Mapped[int]
    """Its process id, which is the command's own with inline hosting; 0 before it has answered
    once."""
    num_restarts: Mapped[int]
    """How often it came back as another process since the command began."""
    seen_ts: Mapped[int] = mapped_column(BigInteger)
    """When the row was last written, in microseconds, about every ten seconds; also for an actor
    that did not answer."""


class SpeculationRow(Base):
    """What drafts for one policy came to, as its actor last reported."""

    __tablename__ = "speculation"
    policy_version: Mapped[str] = mapped_column(primary_key=True)
    """Checkpoint version of the policy that the tokens were guessed for."""
    drafter_version: Mapped[str] = mapped_column(primary_key=True)
    """Empty text when there is no drafter and look-up alone drafts."""
    source: Mapped[str] = mapped_column(primary_key=True)
    """Who guessed."""
    actor: Mapped[str] = mapped_column(primary_key=True)
    """Name of the policy's actor that counted."""
    acceptance: Mapped[float]
    """Running share, from 0 to 1, of tried tokens that were the policy's choice; the last fifty or
    so weigh most, and it is 0.7 before the first."""
    accepted_length: Mapped[float]
    """Mean tokens accepted of a draft; 0 before the first."""
    num_drafted: Mapped[int] = mapped_column(BigInteger)
    """Tokens guessed since the actor took up this pair of models."""
    num_accepted: Mapped[int] = mapped_column(BigInteger)
    """Those of them that the policy kept."""
    costs: Mapped[dict[str, Any]]
    """Measured milliseconds, by number of texts in the batch; {} unless `hosting.speculation` is
    auto."""
    selftest: Mapped[str]
    """What the engine's self-test came to, in words: chi-square, degrees of freedom, p, texts,
    temperature; `not needed yet` before it has run."""
    seen_ts: Mapped[int] = mapped_column(BigInteger)
    """When the row was last written, in microseconds."""


class Event(Base):
    """What happened, for people who ask later."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    """Number of the event in this store, in order of writing."""
    ts: Mapped[int] = mapped_column(BigInteger)
    """When it was written, in microseconds."""
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), index=True)
    """The run that it happened in."""
    round_id: Mapped[int | None] = mapped_column(ForeignKey("rounds.id"))
    """The round that it happened in; empty for what concerns the run: models, checkpoints, a store
    that was away."""
    kind: Mapped[str]
    """What happened."""
    payload: Mapped[dict[str, Any]]
    """Particulars, by kind."""
