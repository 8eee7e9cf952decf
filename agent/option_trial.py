"""A short trial of the ways to propose options: what each holds for the tokens it reads.

What counts is the probability of different claims: two options that claim the same are one idea,
and an idea of probability 1e-5 is none worth reading for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agent.engine.requests import Generated, OptionRequest
from agent.engine.torch_engine import TorchEngine
from search.merge import ClaimOf, by_claim
from search.settings import ProposalRule
from search.state import Option, probability

Decode = Callable[[Sequence[int], Sequence[int]], str]
"""The text that tokens add to those before them."""
MODES: tuple[ProposalRule, ...] = ("distinct", "drawn")
PROBLEMS, OPTIONS = 8, 8


@dataclass(frozen=True, slots=True)
class Tried:
    """One way to propose the first options of a few problems."""

    proposal: ProposalRule
    num: float
    """Options of a problem, on average: a policy may have no more."""
    option_tokens: float
    """Of an option, on average."""
    read: float
    """Tokens read for an option, on average."""
    repeated: float
    """Share of options that claim what a sibling claims."""
    mass: float
    """Probability of all different options of a problem, on average."""

    @property
    def mass_a_token(self) -> float:
        return self.mass / (self.read * self.num) if self.read else 0.0

    def __str__(self) -> str:
        return (
            f"{self.proposal}: {self.num:.0f} options of {self.option_tokens:.0f} tokens hold "
            f"{self.mass:.0%} of the probability, {self.repeated:.0%} repeated, "
            f"{self.read:.1f} tokens read for each"
        )


def tried_options(
    engine: TorchEngine, asked: Sequence[OptionRequest], claim_of: ClaimOf, decode: Decode
) -> list[Tried]:
    """Each way on the same prefixes, the one with most probability a token first."""
    found = [_tried(engine, mode, asked[:PROBLEMS], claim_of, decode) for mode in MODES]
    return sorted(found, key=lambda tried: -tried.mass_a_token)


def _tried(
    engine: TorchEngine,
    mode: ProposalRule,
    asked: Sequence[OptionRequest],
    claim_of: ClaimOf,
    decode: Decode,
) -> Tried:
    key = by_claim(claim_of).key
    assert key is not None
    answers = engine.options([replace(r, mode=mode, count=OPTIONS) for r in asked])
    num = tokens = repeated = 0
    mass = 0.0
    for request, answer in zip(asked, answers, strict=True):
        options = [_option(request, o, decode) for o in answer.options]
        num += len(options)
        tokens += sum(len(o.tokens) for o in options)
        repeated += len(options) - len({key(o) for o in options})
        mass += sum(probability(o.logprob) for o in options)
    read = sum(answer.num_tokens for answer in answers)
    most = max(1, num)
    problems = max(1, len(asked))
    return Tried(mode, num / problems, tokens / most, read / most, repeated / most, mass / problems)


def _option(request: OptionRequest, found: Generated, decode: Decode) -> Option:
    text = decode(request.prefix, found.tokens)
    return Option(found.tokens, text, sum(found.logprobs), found.stop)
