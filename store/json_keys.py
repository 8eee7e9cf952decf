"""What stands in the JSON columns, key by key.

A record that the store makes itself, or that is the search's, is explained where it is made. These
are the others, which `agent/` writes. A key that is a word of Python has a `_` behind it here.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypedDict, TypeVar

from search.settings import SearchSettings
from store.recording import StoredSteps
from store.selection import Grounds, SelectionRule
from store.states import EventKind, Role

T = TypeVar("T")
OPEN = "open"
Open = Annotated[T, OPEN]
"""The type of a field that stands for any number of keys; its name says what these are."""


class RunConfig(TypedDict):
    base: str
    """Checkpoint version of the policy that the run began with; the one key that is no setting."""
    setting: Open[Any]
    """Every setting by its name, those of a section in an object of their own: as `ratchet config
    show` lists them."""


class Versions(TypedDict):
    role: Open[str]
    """Version of the checkpoint in this role, as in `checkpoints.version`. `voter-1` and so on are
    policies that vote on answers (`voting.trained`); their checkpoints have the role `policy`."""


class Verdict(TypedDict):
    is_promoted: bool
    """Whether the candidate became the policy."""
    rule: str
    """The test that decided, in words; `no candidate` where none was trained."""
    n: int
    """Held-out problems that both policies answered; 0 without a candidate."""
    gained: int
    """Held-out problems that only the candidate solves."""
    lost: int
    """Held-out problems that only the old policy solves."""
    difference: float
    """Accuracy of the candidate less that of the old policy, from -1 to 1."""
    low: float
    """Lower end of the 95 % interval of that difference."""
    high: float
    """Upper end of that interval."""
    p: float
    """One-sided exact McNemar p: the chance of at least this many gains if neither were better; 1
    without a candidate."""
    reason: str
    """The decision in a sentence, or why there was nothing to decide."""
    bits_per_character: list[float | None]
    """Bits that the old and the new policy need for a character of held-out worked texts; reported
    and not judged, null where the task has no such texts."""
    detectable: float | None
    """Smallest true difference in accuracy that passes four times in five with this many problems
    and losses, as a share; null without a comparison, missing in verdicts of before 0.7."""


class Shares(TypedDict):
    role: Open[float]
    """From 0 to 1, by actor."""


class Timings(TypedDict):
    stage: Open[float]
    """Seconds of wall time spent in this stage, as in `rounds.stage`."""


class JournalEntry(TypedDict):
    """An answer that proposes options has `options` and `unsound`; one that evaluates has `value`,
    `scores` and `rollouts`."""

    ix: int
    """Number of the node that the answer is for."""
    options: list[list[Any]]
    """The options, each as a list: token ids, text, log-probability, why it stopped."""
    unsound: list[str]
    """For each option what the tool found wrong, or an empty text; an empty list when no tool
    looked."""
    value: float | None
    """The blend of all scores, in [0, 1]; null when no critic scored the node."""
    scores: list[list[Any]]
    """Scores of the value and the process critic, each a list: critic, version, score, reason."""
    rollouts: "list[JournalRollout]"
    """Completions of the node's state; for a finished text the text itself."""
    tokens: int
    """Tokens generated for the answer, discarded ones included."""
    calls: int
    """Requests to models for the answer."""


class JournalRollout(TypedDict):
    options: list[list[Any]]
    """All options of the completed state from the root on, each as a list as above."""
    given: int
    """How many of them the state had before."""
    sound: int
    """How many new ones, from the first on, the tool found sound in a row."""
    is_sound: bool | None
    """Whether the tool found the whole text sound; null where it had nothing to say."""
    outcome: list[Any]
    """The outcome critic's score as a list: critic, version, score, reason."""
    answer: str | None
    """Final answer of the text; null when it has none."""


class PolicyReport(TypedDict):
    """A report has the keys that its method measures."""

    method: str
    """How it was trained, as `training.method` names it: sft, dpo, tr-dpo, dr-po or tree-pg."""
    num_steps: int
    """Training steps taken."""
    num_examples: int
    """What it learned from: texts (sft), sibling pairs (dpo, tr-dpo), stored states (dr-po) or
    steps of trees (tree-pg)."""
    first_loss: float
    """Mean loss over the first tenth of the steps; nats a token under sft."""
    last_loss: float
    """The same over the last tenth; under dr-po the loss of the last step."""
    dev_loss_before: float | None
    """sft: loss on texts set aside, before training, nats a token; null when none were."""
    dev_loss: float | None
    """sft: the same with the weights that were kept."""
    kept_step: int
    """sft: step whose weights were kept."""
    accuracy: float
    """dpo, tr-dpo: share of the last tenth's pairs whose better step gained probability on the
    other."""
    first_reward: float
    """dr-po: mean outcome score of the policy's texts over the first tenth of the draws (of the
    steps before version 0.18, when each had its own draw)."""
    last_reward: float
    """dr-po: the same over the last tenth."""
    moved: float
    """tree-pg: share of the last tenth's tokens whose probability had moved beyond the bounds."""
    divergence: float
    """dr-po: estimated KL divergence from the policy at the start, nats a token, over the last
    tenth."""
    trainer: str
    """`trl`, where TRL trained it."""
    lora_rank: int
    """Rank of the adapters; 0 or not there where all weights were trained."""
    quantization: str
    """trl: how the weights under the adapter were held, as `training.quantization` names it."""
    weight_bytes: int
    """trl: bytes that the model took in memory while it trained."""


class DrafterReport(TypedDict):
    """An embedded drafter has `acceptance` alone."""

    acceptance: float
    """Expected share, from 0 to 1, of its tokens that the policy would keep at temperature 1:
    overlap of the two distributions on texts set aside (where there are ten or more)."""
    num_steps: int
    """Distillation steps taken."""
    num_examples: int
    """Texts that it learned from."""
    first_loss: float
    """Mean over the first tenth of the steps of the distillation's loss: nine tenths of the total
    variation and a tenth of the cross-entropy in nats, a token. Before version 0.18 the negative
    log-likelihood of the texts."""
    last_loss: float
    """Mean over the last tenth."""
    acceptance_before: float
    """Before it learned anything in this round; missing before version 0.18."""
    went_on_from: str
    """Version of the drafter that it began as; empty for the policy's first half. Missing before
    version 0.18, when all began so."""
    dev_loss_before: None
    """Null, and missing since version 0.18."""
    dev_loss: None
    """Null, and missing since version 0.18."""
    kept_step: int
    """The last step; missing since version 0.18."""


class Calibration(TypedDict):
    scale: float
    """Factor on the critic's raw logit."""
    shift: float
    """Added to it; the sigmoid of the sum is the score."""
    is_bent: bool
    """Whether the inverse hyperbolic sine of the logit stands for it; missing before version
    0.14."""
    doubts: list[float]
    """Weight of each number that the task holds against a whole text, from 0 to 1 each; empty where
    it holds none. Missing before version 0.15."""


class ReliabilityBin(TypedDict):
    score: float
    """Mean score in the bin."""
    good: float
    """Share of good labels in the bin."""
    n: int
    """Labels in the bin."""


class CriticReport(TypedDict):
    """Measured on labelled texts that no step learned from: by halves, each calibrated by the
    other."""

    loss: float
    """Mean training loss of the last ten steps."""
    held_out_loss_before: float
    """Loss on held-out texts before training; missing when there were none."""
    held_out_loss: float
    """The same with the weights that were kept."""
    kept_step: int
    """Step whose weights were kept; 0 when none was better than the start."""
    auc: float | None
    """Area under the ROC curve of the critic's own number, one half for chance, 1 at best; null
    when one class is missing."""
    auc_with_doubts: float | None
    """The same of the score, doubts of the task included; missing where it holds none."""
    brier: float | None
    """Mean squared difference of score and label, from 0 to 1; null without labels."""
    calibration_error: float | None
    """Mean gap between score and frequency over ten bins; null without labels."""
    share_good: float | None
    """Share of good labels among those measured; null without labels."""
    n: int
    """Labels measured."""
    calibration: Calibration
    """How raw logits become scores."""
    calibration_alone: Calibration
    """How they would without doubts of the task; missing where it holds none."""
    reliability: list[ReliabilityBin]
    """One object for each of ten equal bins of score that is not empty."""
    num_examples: int
    """Rows that it learned from; missing for an embedded critic."""
    parent_auc: float | None
    """AUC of the critic before, on the same rows; null when one class is missing."""


class CheckerReport(TypedDict):
    """Measured on texts of labelled problems that it learned nothing of."""

    first_loss: float
    """Mean training loss of the first tenth of the steps, nats a token."""
    last_loss: float
    """The same of the last tenth."""
    num_steps: int
    """Training steps."""
    num_examples: int
    """Questions that it learned to work out."""
    num_texts: int
    """Texts that it was measured on."""
    auc: float | None
    """How well its word tells right texts from wrong ones, one half for chance, 1 at best; null
    when one kind is missing."""
    refuted_right: float | None
    """Share of right texts that it refutes; null without any."""
    refuted_wrong: float | None
    """Share of wrong texts that it refutes; null without any."""
    unread_right: float | None
    """Share of right texts with a step that cannot be read as one which follows."""
    unread_wrong: float | None
    """The same of wrong texts."""
    answered_right: float | None
    """Share of the questions of these texts that it answers right; null without any."""


class Costs(TypedDict):
    rows: "Open[CostsAtRows]"
    """Costs with this many texts in the batch: 1, 4, 16 or 64."""


class CostsAtRows(TypedDict):
    step: "StepCosts"
    """One forward of the policy."""
    draft: "DraftCosts"
    """One guessed token."""
    step_1000_columns: "StepCosts"
    """What a thousand columns of context more add to a forward; empty until a long text came."""
    draft_1000_columns: "DraftCosts"
    """The same of a guessed token."""


class StepCosts(TypedDict):
    tokens: Open[float]
    """Milliseconds with this many tokens of each text at once."""


class DraftCosts(TypedDict):
    source: Open[float]
    """Milliseconds of this source, as in `speculation.source`."""


class EvaluationSettings(TypedDict):
    mode: str
    """As in `evaluations.mode`."""
    text_tokens: int
    """Longest completion, in tokens."""
    seed: int
    """search: seed that the searches' own seeds come from."""
    search: SearchSettings
    """search: settings of the searches."""
    use_tool: bool
    """search: whether the task's tool checked steps."""
    weights: "CriticWeights"
    """search: weights of the critics in the blend."""
    distrusted: list[str]
    """search: critics that were not asked because they rank too badly."""
    option_tokens: int
    """search: longest option, in tokens."""
    prompt: str
    """Digest of what is put around a problem; missing for the plain style as it comes."""
    answers: str
    """Rule by which answers are equal; missing for `auto`."""
    dtype: str
    """What weights were held in; missing for float32."""


class CriticWeights(TypedDict):
    role: Open[float]
    """Weight of the critic in this role; 0 leaves it out."""


class Imagined(TypedDict):
    num: int
    """Problems kept, other wordings included; those too long for the policy are dropped later."""
    probes: int
    """Labelled problems searched with them, their other wordings among them."""
    tries: int
    """Tries at a problem, kept or refused."""
    made: "Made"
    """Problems kept, by where they came from."""
    refused: "Refused"
    """Tries that came to nothing, by reason."""
    contaminated: int
    """Tries refused because they give a held-out problem away."""
    yield_: float
    """Problems kept over tries, from 0 to 1; 0 without tries."""


class Made(TypedDict):
    operator: Open[int]
    """Problems of this operator, scheme, or `given`, as in `problems.origin`."""


class Refused(TypedDict):
    reason: Open[int]
    """Tries refused for this reason: `known`, `held out`, `key` or `n-gram` (shared with a held-out
    problem), `does not fit`, `too hard yet`, or a scheme and why its text is no problem."""


class RoundSettings(TypedDict):
    setting: Open[Any]
    """Every setting by its name, those of a section in an object of their own."""


class RefusedSearches(TypedDict):
    reason: Open[int]
    """Searches that gave nothing for this reason: `no finished text`, `no answer`, `unsound step`,
    `wrong answer`, `answer unknown`, `outcome score`, `nobody judged it`, `confidence`, `support`,
    `not trusted`, `too long`, `reward` or `another answer`."""


class Rung(TypedDict):
    searches: int
    """Searches of problems of this difficulty."""
    kept: int
    """Those that gave a text; missing where none did."""
    known: int
    """Those of them whose reference answer is known."""
    right: int
    """Those of them whose text is right, for reports only."""


class Rungs(TypedDict):
    difficulty: Open[Rung]
    """By `problems.difficulty`; `-` where it has none."""


class Probed(TypedDict):
    problem: Open[bool]
    """Whether the answer that the searches of this labelled problem (its key) support best is
    right."""


class Trusted(TypedDict):
    aim: float
    """`selection.min_precision`."""
    certainty: float
    """`selection.certainty`."""
    labelled: int
    """Labelled problems that were answered."""
    right: int
    """Those answered right."""
    trusted: int
    """Those that the rule trusts, or, where none was found, the one that came nearest to the
    aim."""
    trusted_right: int
    """Those of them that are right."""
    bound: float
    """Least precision of the rule, with that certainty; 0 where it trusts nothing."""
    threshold: float | None
    """Probability from which an answer is trusted; empty where no rule was found."""
    auc: float | None
    """How well the probability ranks right answers before wrong ones; empty with one class."""
    calibration_error: float | None
    """Mean gap between that probability and the share that is right; empty with one class."""


class Viewed(TypedDict):
    num: int
    """Greedy texts that voted beside the searches."""
    tokens: int
    """Tokens that policies read for them."""
    policies: list[str]
    """Versions of these policies."""


class RoundStarted(TypedDict):
    number: int
    """As `rounds.number`."""
    settings: RoundSettings
    """Those of the command that opened the round; missing in rounds of before 0.7."""


class Selected(TypedDict):
    kept: int
    """Texts taken into the dataset."""
    searches: int
    """Searches of the round that ended."""
    refused: RefusedSearches
    """Searches that gave nothing, each counted once."""
    rungs: Rungs
    """By difficulty what was kept, and how much of it is right."""
    trust: Trusted
    """What labelled problems say of the rule; missing, as all that follows, where every answer was
    known or proven."""
    agreement: float
    """Mean share of the searches of a problem behind its answer, from 0 to 1."""
    answers: float
    """Mean number of different answers of a problem."""
    probes: Probed
    """What became of each labelled problem."""
    collapse: str
    """Why the round learned nothing: its searches agree more than those of the round before, and
    are right less; missing where that is not so."""
    views: Viewed
    """What voted beside the searches; missing where nothing did."""


class CheckpointRemoved(TypedDict):
    role: str
    """As `checkpoints.role`."""
    version: str
    """As `checkpoints.version`."""
    path: str
    """Where its directory was."""


class StageEnded(TypedDict):
    stage: str
    """As `rounds.stage`."""
    seconds: float
    """Of wall time, since it was taken up last."""
    at_work: Shares
    """Share of these seconds in which each actor answered calls."""


class RoundFailed(TypedDict):
    reason: str
    """As `rounds.error`."""


class CheckpointFound(TypedDict):
    role: str
    """As `checkpoints.role`."""
    version: str
    """As `checkpoints.version`."""
    cause: str
    """What is wrong with it; empty text for one that is whole again."""


class StoreAway(TypedDict):
    away_s: float
    """Seconds that the store did not answer."""
    entries: int
    """Journal entries handed over from the spool."""
    searches: int
    """Ended searches that had waited in memory."""
    drain_s: float
    """Seconds that it took to hand them over."""


COLUMNS: Mapping[str, type] = {
    "runs.config": RunConfig,
    "rounds.models": Versions,
    "rounds.candidates": Versions,
    "rounds.search_config": SearchSettings,
    "rounds.verdict": Verdict,
    "rounds.timings": Timings,
    "search_journals.entry": JournalEntry,
    "trajectories.steps": StoredSteps,
    "datasets.rule": SelectionRule,
    "dataset_items.scores": Grounds,
    "evaluations.settings": EvaluationSettings,
    "evaluations.models": Versions,
    "speculation.costs": Costs,
}
"""Column to the record in it."""

COLUMNS_BY: Mapping[str, tuple[str, Mapping[str, type]]] = {
    "checkpoints.report": (
        "role",
        {
            Role.POLICY: PolicyReport,
            Role.DRAFTER: DrafterReport,
            Role.VALUE: CriticReport,
            Role.PROCESS: CriticReport,
            Role.OUTCOME: CriticReport,
            Role.CHECKER: CheckerReport,
        },
    ),
    "events.payload": (
        "kind",
        {
            EventKind.MODELS: Versions,
            EventKind.ROUND_STARTED: RoundStarted,
            EventKind.IMAGINED: Imagined,
            EventKind.SELECTED: Selected,
            EventKind.STAGE_ENDED: StageEnded,
            EventKind.ROUND_PROMOTED: Verdict,
            EventKind.ROUND_KEPT: Verdict,
            EventKind.ROUND_FAILED: RoundFailed,
            EventKind.CHECKPOINT_QUARANTINED: CheckpointFound,
            EventKind.CHECKPOINT_RESTORED: CheckpointFound,
            EventKind.CHECKPOINT_REMOVED: CheckpointRemoved,
            EventKind.STORE_AWAY: StoreAway,
        },
    ),
}
"""Columns with one record for each value of another column: that one, and its values' records."""
