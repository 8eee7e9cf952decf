"""Pictures among the words.

In tokens a picture takes as many places as it has patches. The first four hold its digest, 31 bits
each behind any vocabulary; the others hold the policy's placeholder. So a text's tokens say which
pictures it has: what is kept of tokens is kept of pictures, two pictures never share anything, and
stored tokens need nothing beside them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from search.errors import TaskError

if TYPE_CHECKING:  # who only names pictures need not wait for torch
    from torch import Tensor

FIRST_WORD = 2**31
"""Ids from here on are words of digests; no vocabulary is so large."""
WORDS = 4
DIGITS = 31
"""Of a digest in hexadecimal: four words of 31 bits."""
Source = Callable[[str], "Tensor"]
"""The pixels [C, H, W] of a digest, as the network wants them. Raises TaskError."""


def picture_tokens(digest: str, num_tokens: int, image_token: int) -> tuple[int, ...]:
    """What stands for a picture of so many places, more than four. Raises TaskError for what is no
    digest."""
    if len(digest) != DIGITS or not set(digest) <= set("0123456789abcdef"):
        raise TaskError(f"{digest[:40]!r} is no digest of a picture", "give its file")
    number = int(digest, 16)
    words = ((number >> 31 * (WORDS - 1 - i)) & (FIRST_WORD - 1) for i in range(WORDS))
    return (*(FIRST_WORD + w for w in words), *[image_token] * (num_tokens - WORDS))


def pictures_in(
    tokens: Sequence[int], num_tokens: int = 0, image_token: int = 0
) -> Iterator[tuple[int, str]]:
    """Where each picture of a text begins, and its digest. Raises TaskError where a part of one is
    missing: of its placeholders, too, where it is told how many places a picture has."""
    at = [i for i, token in enumerate(tokens) if token >= FIRST_WORD]
    for start, *others in zip(*(at[i::WORDS] for i in range(WORDS)), strict=False):
        if others[-1] != start + WORDS - 1:
            raise _torn()
        rest = tokens[start + WORDS : start + num_tokens]
        if num_tokens and (len(rest) < num_tokens - WORDS or set(rest) - {image_token}):
            raise _torn()
        number = 0
        for i in range(start, start + WORDS):
            number = number << 31 | tokens[i] - FIRST_WORD
        yield start, f"{number:0{DIGITS}x}"
    if len(at) % WORDS:
        raise _torn()


def _torn() -> TaskError:
    return TaskError("a picture among the tokens is torn", "give all of its places")


def without_pictures(tokens: Sequence[int]) -> tuple[int, ...]:
    """What of a text one can read who sees no pictures."""
    if not tokens or max(tokens) < FIRST_WORD:
        return tuple(tokens)
    found, i = list[int](), 0
    while i < len(tokens):
        if tokens[i] < FIRST_WORD:
            found.append(tokens[i])
            i += 1
            continue
        i += WORDS
        placeholder = tokens[i] if i < len(tokens) else None
        while i < len(tokens) and tokens[i] == placeholder:
            i += 1
    return tuple(found)


def whole_before(tokens: Sequence[int], length: int, num_tokens: int) -> int:
    """The most of the first `length` tokens that ends in no picture."""
    for start, _ in pictures_in(tokens):
        if start < length < start + num_tokens:
            return start
    return length


def no_pictures(digest: str) -> "Tensor":
    """The source of a network that was told of none."""
    raise TaskError(
        f"picture {digest[:12]} is not at hand: this network was given no folder of pictures",
        "set hosting.pictures to the folder that holds it",
    )
