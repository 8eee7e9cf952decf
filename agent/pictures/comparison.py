"""A verifier for readings: draw what was read again and compare it with the picture.

Nobody knows how the picture was drawn, so every way of drawing is laid over it, and the one that
correlates best is taken. Then the text is changed in one place after the other: where a changed one
correlates better, the reading is wrong there.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.pictures.drawing import SIZES, Hand, ink_of

SLANTS = (-0.15, 0.0, 0.15, 0.25)
HANDS = (
    *(Hand(b, False, size, slant) for b, size, slant in product((False, True), SIZES, SLANTS)),
    *(Hand(False, True, SIZES[0], slant) for slant in SLANTS),
)
LEAST = 0.2
"""Correlation under which nothing is said to be the text at all."""
FEW = 4
"""Ways of drawing that are tried once the best ones are known."""
REACH = 2
"""Pixels that another text may lie further left or right."""


@dataclass(frozen=True, slots=True)
class Match:
    """Where and how a text lies best in a picture."""

    correlation: float
    hand: Hand
    left: int
    top: int
    width: int


@dataclass(frozen=True, slots=True)
class Verdict:
    is_same: bool | None
    """Whether the picture shows the text; None where the picture is too faint to tell."""
    correlation: float
    better: str = ""
    """A text that fits better; empty where there is none."""


class Compared:
    """One picture, to which texts are compared by the correlation of all its pixels."""

    def __init__(self, image: Image.Image) -> None:
        grey = np.asarray(image.convert("L"), dtype=np.float64)
        self._darkness = grey.mean() - grey
        self._length = float(np.sqrt((self._darkness**2).sum())) + 1e-9
        self._spectrum = np.conj(np.fft.rfft2(self._darkness))
        self._hands: Sequence[Hand] = HANDS

    def best(self, text: str) -> Match | None:
        """The best match over hands and places; None where the text fits nowhere.

        A wrong reading is mostly right, so that the first one tells the hands to try from then on.
        """
        tried = (self._over(ink_of(text, hand), hand) for hand in self._hands)
        found = sorted((m for m in tried if m is not None), key=lambda m: -m.correlation)
        if found and found[0].correlation >= LEAST:
            self._hands = [m.hand for m in found[:FEW]]
        return found[0] if found else None

    def verdict(self, text: str, others: Iterable[str]) -> Verdict:
        """Whether the picture shows this text rather than one of `others`, which are drawn as it
        fits best, and near to where it does."""
        match = self.best(text)
        if match is None:
            return Verdict(False, 0.0)
        if match.correlation < LEAST:
            return Verdict(None, match.correlation)
        for other in others:
            if self._near(ink_of(other, match.hand), match) > match.correlation:
                return Verdict(False, match.correlation, other)
        return Verdict(True, match.correlation)

    def _over(self, ink: NDArray[np.float32], hand: Hand) -> Match | None:
        """The best place of one drawing."""
        height, width = ink.shape
        rows, columns = shape = self._darkness.shape
        if height > rows or width > columns:
            return None
        overlap = np.fft.irfft2(np.conj(self._spectrum * np.fft.rfft2(ink, s=shape)), s=shape)
        overlap = overlap[: rows - height + 1, : columns - width + 1]
        top, left = divmod(int(overlap.argmax()), overlap.shape[1])
        return Match(float(overlap[top, left]) / self._scale(ink), hand, left, top, width)

    def _scale(self, ink: NDArray[np.float32]) -> float:
        """What an overlap is divided by to be a correlation over the whole sheet."""
        total, squares = float(ink.sum()), float((ink.astype(np.float64) ** 2).sum())
        return self._length * float(np.sqrt(squares - total**2 / self._darkness.size)) + 1e-9

    def _near(self, ink: NDArray[np.float32], match: Match) -> float:
        """The best correlation of a drawing whose left or right end lies near that of a match."""
        height, width = ink.shape
        rows, columns = self._darkness.shape
        if height > rows or width > columns:
            return -1.0
        best = -np.inf
        ends = (match.left, match.left + match.width - width)
        for top in range(max(0, match.top - 1), min(rows - height, match.top + 1) + 1):
            for left in {e + d for e in ends for d in range(-REACH, REACH + 1)}:
                if 0 <= left <= columns - width:
                    box = self._darkness[top : top + height, left : left + width]
                    best = max(best, float(np.vdot(box, ink)))
        return float(best / self._scale(ink))


def one_change(text: str, groups: Sequence[str]) -> Iterator[str]:
    """The text with another character of the same group in one place; less two characters at an
    end; and with two more there, one of each of the first two groups."""
    for i, own in enumerate(text):
        group = next((g for g in groups if own in g), "")
        yield from (text[:i] + other + text[i + 1 :] for other in group if other != own)
    if len(text) > 3:
        yield text[2:]
        yield text[:-2]
    for one in groups[0][::3]:  # whatever is written there, some ink of it is met
        for other in groups[1]:
            yield one + other + text
            yield text + other + one
