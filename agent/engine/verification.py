"""Acceptance rules of speculative sampling: which drafted tokens stand, and what follows them.

Each rule takes drafts with the law q that they were drawn from and the law p that texts should
have, and draws so that what comes out has the law p exactly:

- chain       accept x if u q(x) < p(x), else draw from the residual relu(p - q), normalised; after
              a whole chain one more token from p (Leviathan et al. 2023, algorithm 1; Chen et al.
              2023, algorithm 2).
- siblings    several drafts of one place, drawn from q without replacement, tried in order; after
              each rejection p becomes the residual and the draft leaves q (Miao et al. 2024,
              SpecInfer; Chen et al. 2024, Sequoia).
- hierarchy   a small model drafts for a middle one by the chain rule; what the middle one hands up
              are samples of its own law, so its law is the q of the next level (Sun et al. 2024,
              TriForce).

The engine itself verifies by coupling (`speculative`): its text does not depend on the draft at
all. These rules are for engines that draw with fresh noise at each try, and what the proof of
losslessness enumerates. `law_of_*` give the exact law of what a rule puts out, by summing over all
drafts and all branches.

Shapes: V vocabulary, K drafts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Law = Callable[[tuple[int, ...]], Tensor]
"""Probabilities [V] of the next token after some tokens."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What stands of a draft."""

    tokens: tuple[int, ...]
    """Accepted tokens, then one from the residual or, after a whole draft, from p."""
    num_accepted: int


def residual(p_V: Tensor, q_V: Tensor) -> Tensor:
    """relu(p - q), normalised; p where nothing is left (then p = q and no rejection happens)."""
    left_V = (p_V - q_V).clamp(min=0)
    total = left_V.sum()
    return left_V / total if float(total) > 0 else p_V


def draw(p_V: Tensor, u: float) -> int:
    """The token that a uniform number in (0, 1) falls to; never one of probability 0."""
    cumulative_V = p_V.double().cumsum(0)
    place = int(torch.searchsorted(cumulative_V, u * float(cumulative_V[-1]), right=True))
    return min(place, int(p_V.nonzero()[-1]))


def verify_chain(
    p_KV: Sequence[Tensor], q_KV: Sequence[Tensor], draft: Sequence[int], uniforms: Sequence[float]
) -> Verdict:
    """One chain of drafts; `p_KV` has one law more than there are drafts.

    `uniforms` are K + 1 independent numbers in (0, 1): one for each test, the last for the draw.
    """
    for k, token in enumerate(draft):
        if not uniforms[k] * float(q_KV[k][token]) < float(p_KV[k][token]):
            last = draw(residual(p_KV[k], q_KV[k]), uniforms[-1])
            return Verdict((*draft[:k], last), k)
    return Verdict((*draft, draw(p_KV[len(draft)], uniforms[-1])), len(draft))


def verify_siblings(
    p_V: Tensor, q_V: Tensor, drafts: Sequence[int], uniforms: Sequence[float]
) -> Verdict:
    """Different drafts of one place, drawn from q without replacement, in the order drawn.

    `uniforms`: one for each test and one for the draw.
    """
    for k, token in enumerate(drafts):
        if uniforms[k] * float(q_V[token]) < float(p_V[token]):
            return Verdict((token,), 1)
        p_V = residual(p_V, q_V)
        q_V = without(q_V, token)
    return Verdict((draw(p_V, uniforms[-1]),), 0)


def without(q_V: Tensor, token: int) -> Tensor:
    """q given that it is not this token."""
    left_V = q_V.clone()
    left_V[token] = 0
    total = left_V.sum()
    return left_V / total if float(total) > 0 else left_V


def law_of_chain(p: Law, q: Law, length: int, num_tokens: int) -> dict[tuple[int, ...], float]:
    """Exact law of the first `num_tokens` tokens that the chain rule writes, in as many steps."""
    return _unrolled(lambda done: _chain_branches(p, q, done, length), num_tokens)


def law_of_siblings(p_V: Tensor, q_V: Tensor, num_drafts: int) -> Tensor:
    """Exact law [V] of the one token that the sibling rule writes."""
    out_V = torch.zeros_like(p_V)

    def descend(p_now: Tensor, q_now: Tensor, left: int, weight: float) -> None:
        if left == 0 or float(q_now.sum()) == 0:
            out_V.add_(weight * p_now)
            return
        for token in range(len(p_V)):
            chance = weight * float(q_now[token])
            if chance == 0:
                continue
            accepted = min(1.0, float(p_now[token] / q_now[token]))
            out_V[token] += chance * accepted
            if accepted < 1:
                rejected = chance * (1 - accepted)
                descend(residual(p_now, q_now), without(q_now, token), left - 1, rejected)

    descend(p_V, q_V, num_drafts, 1.0)
    return out_V


def law_of_hierarchy(
    p: Law, middle: Law, small: Law, lengths: tuple[int, int], num_tokens: int
) -> dict[tuple[int, ...], float]:
    """Exact law of three levels: `lengths` are the tokens drafted for the middle and by it."""

    def drafts(done: tuple[int, ...]) -> dict[tuple[int, ...], float]:
        """What the middle level hands up: tokens that the chain rule wrote for its own law."""
        return _unrolled(
            lambda more: _chain_branches(middle, small, (*done, *more), lengths[0]), lengths[1]
        )

    def branches(done: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], float]]:
        for draft, chance in drafts(done).items():
            yield from _verified(p, middle, done, draft, chance)

    return _unrolled(branches, num_tokens)


Branches = Callable[[tuple[int, ...]], Iterator[tuple[tuple[int, ...], float]]]
"""What one step may write after some tokens, and how probably."""


def _chain_branches(
    p: Law, q: Law, done: tuple[int, ...], length: int
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every draft of `length` tokens and every way it may be judged."""

    def drafts(draft: tuple[int, ...], chance: float) -> Iterator[tuple[tuple[int, ...], float]]:
        if len(draft) == length:
            yield draft, chance
            return
        q_V = q((*done, *draft))
        for token in range(len(q_V)):
            if float(q_V[token]) > 0:
                yield from drafts((*draft, token), chance * float(q_V[token]))

    for draft, chance in drafts((), 1.0):
        yield from _verified(p, q, done, draft, chance)


def _verified(
    p: Law, q: Law, done: tuple[int, ...], draft: tuple[int, ...], chance: float
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every way that one draft may be judged, with the token that follows."""
    for k, token in enumerate(draft):
        p_V, q_V = p((*done, *draft[:k])), q((*done, *draft[:k]))
        accepted = min(1.0, float(p_V[token] / q_V[token]))
        if accepted < 1:
            for last, share in enumerate(residual(p_V, q_V).tolist()):
                if share:
                    yield (*draft[:k], last), chance * (1 - accepted) * share
        chance *= accepted
        if chance == 0:
            return
    for last, share in enumerate(p((*done, *draft)).tolist()):
        if share:
            yield (*draft, last), chance * share


def _unrolled(branches: Branches, num_tokens: int) -> dict[tuple[int, ...], float]:
    """Law of the first `num_tokens` tokens when steps follow one another."""
    law: dict[tuple[int, ...], float] = {}
    open_: dict[tuple[int, ...], float] = {(): 1.0}
    while open_:
        grown: dict[tuple[int, ...], float] = {}
        for done, chance in open_.items():
            for tokens, share in branches(done):
                text = (*done, *tokens)
                into = law if len(text) >= num_tokens else grown
                key = text[:num_tokens]
                into[key] = into.get(key, 0.0) + chance * share
        open_ = grown
    return law
