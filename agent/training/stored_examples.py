"""Training rows out of what the store holds."""

from collections.abc import Iterable, Sequence

from agent.prompts import Prompts
from agent.training.examples import Example, PairExample, SiblingSteps
from store.datasets import StoredText
from store.pairs import StoredPair
from store.siblings import StoredSiblings


def as_examples(texts: Sequence[StoredText]) -> list[Example]:
    return [Example(t.prompt_tokens + t.tokens, len(t.prompt_tokens)) for t in texts]


def pair_examples(pairs: Iterable[StoredPair], prompts: Prompts) -> list[PairExample]:
    """Stored sibling pairs, as far as the worse step's tokens can be told.

    The store keeps a step's text and how many tokens it had; where encoding the text gives another
    number, its tokens are not known, and the pair is left out.
    """
    found = []
    for pair in pairs:
        rejected = _tokens(pair.rejected_text, pair.rejected_stop, pair.rejected_tokens, prompts)
        if rejected:
            given = pair.prompt_tokens + pair.before
            found.append(PairExample(given, pair.chosen, rejected))
    return found


def sibling_steps(
    groups: Iterable[StoredSiblings], prompts: Prompts, max_positions: int
) -> list[SiblingSteps]:
    """Stored siblings whose tokens can be told, where what came of those that are left differs."""
    found = []
    for group in groups:
        given = group.prompt_tokens + group.before
        steps = [
            (tokens, step.q)
            for step in group.steps
            if (tokens := _tokens(step.text, step.stop, step.num_tokens, prompts))
            and len(given) + len(tokens) <= max_positions
        ]
        if len({q for _, q in steps}) > 1:
            found.append(SiblingSteps(given, *zip(*steps, strict=True)))
    return found


def _tokens(text: str, stop: str, num: int, prompts: Prompts) -> tuple[int, ...]:
    """Of a stored step; empty where they are not those that were generated."""
    tokens = tuple(prompts.tokenizer.encode(text, is_start=False))
    if stop == "end":
        tokens = (*tokens, prompts.end_id)
    return tokens if len(tokens) == num else ()
