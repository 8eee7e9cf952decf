"""How a search is run. Contradictions are refused when the settings are made."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from search.errors import SearchSettingsError

SelectionRule = Literal["puct", "ucb"]
FinalRule = Literal["best", "vote", "visits"]
Proposal = Literal["distinct", "sampled"]


@dataclass(frozen=True, slots=True)
class SearchSettings:
    simulations: int = 16
    """Evaluated nodes, at most."""
    max_tokens: int = 1200
    """Generated tokens of all models together, at most; 0 sets no bound."""
    max_depth: int = 24
    """Options from the root, at most."""
    selection: SelectionRule = "puct"
    exploration: float = 1.0
    """C of UCB, c_puct of PUCT."""
    first_play_reduction: float = 0.1
    """PUCT's estimate for an unvisited option is its node's mean less this."""
    min_width: int = 4
    """Options drawn when a node is first expanded (c_min)."""
    max_width: int = 32
    """Options under a node, at most (c_max)."""
    root_max_width: int = 32
    importance: float = 8.0
    """alpha: options per unit of importance max |v(child) - v(node)|."""
    proposal: Proposal = "distinct"
    """`distinct`: the most probable different options; `sampled`: independent samples."""
    temperature: float = 1.0
    """Of sampled options."""
    num_rollouts: int = 1
    rollout_temperature: float = 0.0
    prune_unsound: bool = True
    """Close options that the task's tool finds unsound."""
    stop_value: float = 0.0
    """End with a finished, tool-sound candidate of at least this outcome score; above 1 never."""
    final: FinalRule = "vote"
    """`best`: heaviest candidate; `vote`: heaviest answer; `visits`: most visited path."""
    in_flight: int = 1
    """Simulations under way inside one tree."""
    max_failures: int = 2
    """Times that a node may come back unscored before it is closed."""

    def __post_init__(self) -> None:
        bounds: list[tuple[bool, str, str]] = [
            (self.simulations >= 1, f"simulations is {self.simulations}", "set it to 1 or more"),
            (self.max_tokens >= 0, f"max_tokens is {self.max_tokens}", "set it to 0 or more"),
            (self.max_depth >= 1, f"max_depth is {self.max_depth}", "set it to 1 or more"),
            (self.exploration >= 0, f"exploration is {self.exploration}", "set it to 0 or more"),
            (self.min_width >= 1, f"min_width is {self.min_width}", "set it to 1 or more"),
            (self.min_width <= min(self.max_width, self.root_max_width),
             f"min_width {self.min_width} exceeds max_width {self.max_width} "
             f"or root_max_width {self.root_max_width}", "lower min_width"),
            (self.importance >= 0, f"importance is {self.importance}", "set it to 0 or more"),
            (self.temperature > 0, f"temperature is {self.temperature}", "set it above 0"),
            (self.num_rollouts >= 0, f"num_rollouts is {self.num_rollouts}", "set it to 0 or more"),
            (self.rollout_temperature >= 0,
             f"rollout_temperature is {self.rollout_temperature}", "set it to 0 or more"),
            (self.in_flight >= 1, f"in_flight is {self.in_flight}", "set it to 1 or more"),
            (self.max_failures >= 1, f"max_failures is {self.max_failures}", "set it to 1 or more"),
            (self.selection in ("puct", "ucb"), f"selection is {self.selection!r}",
             "use puct or ucb"),
            (self.proposal in ("distinct", "sampled"),
             f"proposal is {self.proposal!r}", "use distinct or sampled"),
            (self.final in ("best", "vote", "visits"),
             f"final is {self.final!r}", "use best, vote or visits"),
        ]  # fmt: skip
        for is_good, what, fix in bounds:
            if not is_good:
                raise SearchSettingsError(f"search setting {what}", fix)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
