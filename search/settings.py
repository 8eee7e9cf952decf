"""How a search is run. Contradictions are refused when the settings are made."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from search.boundary import boundary_named
from search.errors import SearchSettingsError

TreePolicy = Literal["puct", "ucb"]
LeafRule = Literal["texts", "states"]
OrderRule = Literal["auto", "mass", "depth"]
RootRule = Literal["same", "gumbel"]
FinalRule = Literal["best", "vote", "visits"]
ProposalRule = Literal["distinct", "drawn", "sampled"]
MergeRule = Literal["claims", "tokens", "text", "normalised", "edit"]
UnsoundRule = Literal["prune", "discount", "keep"]
Width = int | tuple[int, ...]
"""One bound for all depths, or one for each depth from the root on, the last for all below."""


MOST = {
    "simulations": 1_000_000,
    "max_tokens": 1_000_000_000,
    "max_calls": 1_000_000_000,
    "max_seconds": 604_800.0,
    "max_depth": 10_000,
    "num_considered": 10_000,
    "exploration": 1e6,
    "first_play_reduction": 1e6,
    "noise_fraction": 1.0,
    "noise_concentration": 1e6,
    "min_width": 10_000,
    "max_width": 10_000,
    "importance": 1e6,
    "wordings": 1_000,
    "temperature": 100.0,
    "merge_distance": 10_000,
    "num_rollouts": 1_000,
    "rollout_temperature": 100.0,
    "unsound_discount": 1.0,
    "dead_end_patience": 1_000_000,
    "stop_value": 1e6,
    "stop_unchecked_value": 1e6,
    "patience": 1_000_000,
    "stop_confidence": 1.0,
    "in_flight": 10_000,
    "max_failures": 1_000_000,
}
"""Largest values: what is larger is a mistake, or would never end."""


def at_depth(width: Width, depth: int) -> int:
    return width if isinstance(width, int) else width[min(depth, len(width) - 1)]


@dataclass(frozen=True, slots=True)
class SearchSettings:
    simulations: int = 16
    """Evaluated nodes, at most."""
    max_tokens: int = 1200
    """Tokens that the policy reads, prompts left out, at most; 0 sets no bound."""
    max_calls: int = 0
    """Requests to models, at most; 0 sets no bound."""
    max_seconds: float = 0.0
    """Seconds, at most; 0 sets no bound. Where the clock ends a search, results depend on it."""
    max_depth: int = 24
    """Options from the root, at most."""
    selection: TreePolicy = "puct"
    """How a simulation chooses among options: by PUCT with the priors, or by UCB without them."""
    root_selection: RootRule = "same"
    """`same`: like everywhere; `gumbel`: sequential halving over the root's options."""
    num_considered: int = 16
    """Root options that sequential halving starts with."""
    exploration: float = 1.0
    """C of UCB, c_puct of PUCT."""
    first_play_reduction: float = 0.1
    """PUCT's estimate for an unvisited option is its node's mean less this."""
    noise_fraction: float = 0.0
    """Share of Dirichlet noise in the root's priors (PUCT only); 0 adds none."""
    noise_concentration: float = 0.3
    """alpha of that Dirichlet distribution."""
    leaves: LeafRule = "texts"
    """What a simulation evaluates: `texts`: the finished text that it goes on to, an option at a
    time; `states`: the first new state that it comes to, by critics and rollouts."""
    order: OrderRule = "auto"
    """`texts`: where the next option is drawn: `mass`: where most probability is unexplored;
    `depth`: below what the tool found sound, for as long as anything is left there; `auto`: depth
    where what the tool finds sound leads to a right answer, else mass."""
    wordings: int = 0
    """`texts`: wordings of the problem that a search may look at, its own included; 0: 16 where
    no tool checks steps and the task has others, else one."""
    min_width: Width = 4
    """`states`: options drawn when a node is first expanded (c_min)."""
    max_width: Width = 32
    """`states`: options under a node, at most (c_max)."""
    importance: float = 8.0
    """`states`: alpha, options per unit of importance max |v(child) - v(node)|."""
    proposal: ProposalRule = "distinct"
    """`distinct`: the most probable different options; `drawn`: sampled without replacement;
    `sampled`: independent samples."""
    boundary: str = ""
    """Where an option ends: newline, blank_line, formula_line, sentence, token, tokens:N; empty:
    as the task says."""
    temperature: float = 1.0
    """Of `sampled` and `drawn` options."""
    merge: MergeRule = "claims"
    """Which sibling options count as one: those of equal `claims`, as the task reads them, of the
    same `tokens`, of equal `text` but for white space at its ends, of equal `normalised` text, or
    of texts a few edits apart. Under `claims` a step also takes the probability of those that the
    tool refuted and that worked out the same."""
    merge_distance: int = 2
    """Edits between texts that `edit` still counts as one."""
    num_rollouts: int = 1
    """`states`: completions of each evaluated state; 0 leaves values to the critics. `texts`: 1
    where a wording's first text takes the most probable token each time; never with a tool."""
    rollout_temperature: float = 0.0
    """Of these completions; 0 takes the most probable token each time."""
    unsound: UnsoundRule = "prune"
    """Options that the task's tool finds unsound: closed, their prior cut, or kept as they are."""
    unsound_discount: float = 0.1
    """Factor on the prior of an unsound option under `discount`."""
    dead_end_patience: int = 2
    """`states`, PUCT: expansions without an open option below a node before it may draw others
    instead."""
    stop_value: float = 0.0
    """End with a finished text that the task's tool proves right, of at least this outcome score;
    above 1 never."""
    stop_unchecked_value: float = 2.0
    """The same for a finished text that no tool proves or refutes; above 1 never."""
    stop_decided: bool = True
    """`texts`: end when all that is unexplored could not change the answer."""
    patience: int = 0
    """End when so many simulations in a row left the answer as it was; 0 never."""
    stop_confidence: float = 0.9
    """Least confidence in an answer for `patience` to count."""
    final: FinalRule = "vote"
    """`best`: heaviest candidate; `vote`: heaviest answer; `visits`: most visited path."""
    in_flight: int = 1
    """Simulations under way inside one tree."""
    max_failures: int = 2
    """Times that a node may come back unscored before it is closed."""

    def __post_init__(self) -> None:
        for name in ("min_width", "max_width"):
            width = getattr(self, name)
            if not isinstance(width, int):
                object.__setattr__(self, name, tuple(width))
        if self.boundary:
            boundary_named(self.boundary)
        for is_good, what, fix in (*self._bounds(), *self._choices(), *self._together()):
            if not is_good:
                raise SearchSettingsError(f"search setting {what}", fix)

    def _bounds(self) -> list[tuple[bool, str, str]]:
        least = {
            "simulations": 1,
            "max_tokens": 0,
            "max_calls": 0,
            "max_seconds": 0,
            "max_depth": 1,
            "num_considered": 2,
            "exploration": 0,
            "first_play_reduction": 0,
            "noise_fraction": 0,
            "importance": 0,
            "wordings": 0,
            "merge_distance": 0,
            "num_rollouts": 0,
            "rollout_temperature": 0,
            "unsound_discount": 0,
            "stop_value": 0,
            "stop_unchecked_value": 0,
            "patience": 0,
            "stop_confidence": 0,
            "in_flight": 1,
            "max_failures": 1,
            "dead_end_patience": 1,
        }
        rows = [
            (
                _is_at_least(getattr(self, name), low),
                f"{name} is {_brief(getattr(self, name))}",
                f"set it to {low} or more",
            )
            for name, low in least.items()
        ]
        rows += [
            (
                not isinstance(value := getattr(self, name), int | float) or value <= most,
                f"{name} is {_brief(value)}",
                f"set it to {most:,} or less",
            )
            for name, most in MOST.items()
        ]
        rows += [
            (
                isinstance(value, int) or max(value, default=0) <= MOST[name],
                f"{name} is {_brief(value)}",
                f"set each to {MOST[name]:,} or less",
            )
            for name in ("min_width", "max_width")
            for value in [getattr(self, name)]
        ]
        rows += [
            (
                _is_at_least(getattr(self, name), 0) and getattr(self, name) > 0,
                f"{name} is {getattr(self, name)}",
                "set it above 0",
            )
            for name in ("temperature", "noise_concentration")
        ]
        return rows

    def _choices(self) -> list[tuple[bool, str, str]]:
        known = {
            "selection": TreePolicy,
            "leaves": LeafRule,
            "order": OrderRule,
            "root_selection": RootRule,
            "proposal": ProposalRule,
            "merge": MergeRule,
            "unsound": UnsoundRule,
            "final": FinalRule,
        }
        return [
            (
                getattr(self, name) in get_args(kind),
                f"{name} is {getattr(self, name)!r}",
                f"use one of {', '.join(get_args(kind))}",
            )
            for name, kind in known.items()
        ]

    def _together(self) -> list[tuple[bool, str, str]]:
        smallest, largest = self.min_width, self.max_width
        sizes = [len(w) for w in (smallest, largest) if not isinstance(w, int)]
        if 0 in sizes:
            return [(False, "min_width or max_width is an empty list", "name at least one width")]
        pairs = [(at_depth(smallest, d), at_depth(largest, d)) for d in range(max([1, *sizes]))]
        return [
            (all(low >= 1 for low, _ in pairs), f"min_width is {smallest}", "set it to 1 or more"),
            (
                all(low <= high for low, high in pairs),
                f"min_width {smallest} exceeds max_width {largest}",
                "lower min_width or raise max_width",
            ),
            (
                self.leaves == "texts" or self.wordings <= 1,
                f"wordings {self.wordings} needs finished texts as leaves",
                "set leaves to texts, or wordings to 1",
            ),
            (
                not self.noise_fraction
                or (self.selection == "puct" and self.root_selection == "same"),
                f"noise_fraction {self.noise_fraction} needs selection puct at the root",
                "set noise_fraction to 0, or selection to puct and root_selection to same",
            ),
        ]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _is_at_least(value: float, low: float) -> bool:
    """False for NaN and infinity too."""
    return (isinstance(value, int) or math.isfinite(value)) and value >= low


def _brief(value: object) -> str:
    return f"{value!r:.60}"
