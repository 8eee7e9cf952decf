"""State merge among siblings: equivalent options share one child and its statistics.

A rule says when two options under one node count as the same. Where it can, it gives each option
a key, and equal keys are the same; otherwise pairs are compared.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from search.settings import SearchSettings
from search.state import Option, probability
from search.tree import Edge, Node

Same = Callable[[Option, Option], bool]


@dataclass(frozen=True, slots=True)
class StepClaim:
    """What a step claims: `15 - 9 = 6` works out 15-9, and finds 6."""

    what: str
    result: str


ClaimOf = Callable[[str], StepClaim | None]
"""What the text of a step claims, by the task; None where it cannot be read."""


@dataclass(frozen=True, slots=True)
class Merge:
    """One way to tell that two sibling options are equivalent: by a key, or pair by pair."""

    key: Callable[[Option], Hashable] | None = None
    same: Same | None = None


def _stripped(option: Option) -> Hashable:
    return (option.text.strip(), option.stop)


_SPACE = re.compile(r"\s+")


def normalised(text: str) -> str:
    """Lower case, single blanks, no full stop or comma at the end.

    >>> normalised("  So  x = 3. ")
    'so x = 3'
    """
    return _SPACE.sub(" ", text).strip().rstrip(".,;").rstrip().casefold()


def edit_distance(left: str, right: str, limit: int) -> int:
    """Levenshtein distance; `limit` + 1 as soon as it is known to be more.

    >>> edit_distance("kitten", "sitting", 5), edit_distance("kitten", "sitting", 1)
    (3, 2)
    """
    if abs(len(left) - len(right)) > limit:
        return limit + 1
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        corner, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (a != b))
        if min(row) > limit:
            return limit + 1
    return min(row[-1], limit + 1)


BY_TOKENS = Merge(key=lambda option: option.tokens)
"""Nothing but the very same tokens."""
BY_TEXT = Merge(key=_stripped)
"""Equal but for white space at the ends, and ending the same way."""
BY_NORMALISED_TEXT = Merge(key=lambda o: (normalised(o.text), o.stop))


def by_edit_distance(limit: int) -> Merge:
    """At most `limit` edits apart (AlphaLLM used 20 and 50), and ending the same way."""

    def same(left: Option, right: Option) -> bool:
        return left.stop == right.stop and edit_distance(left.text, right.text, limit) <= limit

    return Merge(same=same)


def by_claim(claim_of: ClaimOf) -> Merge:
    """Equal claims, whatever the words around them; equal texts where none can be read."""

    def key(option: Option) -> Hashable:
        claim = claim_of(option.text)
        return _stripped(option) if claim is None else (claim, option.stop)

    return Merge(key=key)


def rule_of(settings: SearchSettings, claim_of: ClaimOf | None = None) -> Merge:
    if settings.merge == "edit":
        return by_edit_distance(settings.merge_distance)
    if settings.merge == "claims":
        return by_claim(claim_of) if claim_of else BY_TEXT
    return {"tokens": BY_TOKENS, "text": BY_TEXT, "normalised": BY_NORMALISED_TEXT}[settings.merge]


def join(
    node: Node,
    options: Sequence[Option],
    priors: Sequence[float],
    rule: Merge,
    unsound: Sequence[str] = (),
) -> list[Edge]:
    """Take options into a node; for each the edge that now stands for it.

    A merged option is remembered among its edge's alternatives and adds its prior; one whose
    tokens are known already changes nothing, so asking again for more options is safe. Options
    that a tool judges differently (`unsound` says why, or is empty) are never merged.
    """
    known = {o.tokens: e for e in node.edges for o in (e.option, *e.alternatives)}
    keyed: dict[Hashable, Edge] = {}
    if rule.key is not None:
        for edge in reversed(node.edges):
            keyed[rule.key(edge.option), bool(edge.unsound_reason)] = edge
    found: list[Edge] = []
    for i, option in enumerate(options):
        if option.tokens in known:
            found.append(known[option.tokens])
            continue
        reason = unsound[i] if unsound else ""
        node.drawn_mass += probability(option.logprob)
        edge = Edge(option, priors[i], unsound_reason=reason)
        if rule.key is not None:
            twin = keyed.setdefault((rule.key(option), bool(reason)), edge)
        else:
            judged_alike = (e for e in node.edges if bool(e.unsound_reason) == bool(reason))
            twin = next(
                (e for e in judged_alike if rule.same and rule.same(e.option, option)), edge
            )
        if twin is edge:
            node.add(edge)
        else:
            twin.alternatives.append(option)
            twin.prior += priors[i]
            left = 0.0 if twin.is_closed else priors[i] * (twin.child.mass if twin.child else 1.0)
            twin.mass += left
            node.explore(priors[i] - left)
            if not twin.prune_reason:
                node.prior_mass += priors[i]
        known[option.tokens] = twin
        found.append(twin)
    return found
