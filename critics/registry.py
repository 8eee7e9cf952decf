"""The three critics: what each is called, how it is built, and what it weighs."""

from dataclasses import dataclass
from typing import Literal

from critics.heads import TrainedCritic
from critics.outcome import OutcomeCritic
from critics.process import ProcessCritic
from critics.value import ValueCritic

Form = Literal["head", "language_model"]
"""`head`: one number at a state's last token. `language_model`: the judged tokens' log-odds."""


@dataclass(frozen=True, slots=True)
class CriticKind:
    name: str
    reads: type[TrainedCritic]
    """Turns the model's logits into scores."""
    form: Form
    """What its first model is made as; a checkpoint's own head says what a later one is."""
    default_weight: float
    """beta of the blend where nothing is set."""


CRITICS = {
    kind.name: kind
    for kind in (
        CriticKind("value", ValueCritic, "head", 1.0),
        CriticKind("process", ProcessCritic, "language_model", 1.0),
        CriticKind("outcome", OutcomeCritic, "language_model", 1.0),
    )
}
NAMES = tuple(CRITICS)
