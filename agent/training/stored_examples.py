"""Training rows out of what the store holds."""

from collections.abc import Iterable, Sequence

from agent.prompts import Prompts
from agent.training.examples import Example, PairExample
from store.datasets import StoredText
from store.pairs import StoredPair


def as_examples(texts: Sequence[StoredText]) -> list[Example]:
    return [Example(t.prompt_tokens + t.tokens, len(t.prompt_tokens)) for t in texts]


def pair_examples(pairs: Iterable[StoredPair], prompts: Prompts) -> list[PairExample]:
    """Stored sibling pairs, as far as the worse step's tokens can be told.

    The store keeps a step's text and how many tokens it had; where encoding the text gives another
    number, its tokens are not known, and the pair is left out.
    """
    found = []
    for pair in pairs:
        rejected = tuple(prompts.tokenizer.encode(pair.rejected_text, is_start=False))
        if pair.rejected_stop == "end":
            rejected = (*rejected, prompts.end_id)
        if len(rejected) == pair.rejected_tokens:
            given = pair.prompt_tokens + pair.before
            found.append(PairExample(given, pair.chosen, rejected))
    return found
