"""Drawn lines, and the verifier that draws a reading again."""

import random

import numpy as np
import pytest
from PIL import Image

from agent.pictures.comparison import HANDS, Compared, one_change
from agent.pictures.drawing import (
    HEIGHT,
    WIDTH,
    Drawing,
    Hand,
    drawn_by_lot,
    ends_of,
    picture_of,
    place_of,
)

GROUPS = ("0123456789", "+-*")
TEXT = "7+2*3-4"
PLAIN = Drawing(Hand(False, False, 20, 0.0), 0.4, 0.5, 20, 230, 12.0)


def test_the_same_lot_draws_the_same_picture() -> None:
    pictures = [
        picture_of(TEXT, drawn_by_lot(random.Random(seed)), seed).tobytes() for seed in (1, 1, 2)
    ]
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize("seed", range(20))
def test_ink_lies_where_it_is_said_to_and_is_darker_than_paper(seed: int) -> None:
    drawing = drawn_by_lot(random.Random(seed))
    image = picture_of(TEXT, drawing, seed)
    assert (image.mode, image.size) == ("L", (WIDTH, HEIGHT))
    left, top, width, height = place_of(TEXT, drawing)
    grey = np.asarray(image, dtype=float)
    box = grey[top : top + height, left : left + width]
    rest = grey.copy()
    rest[top : top + height, left : left + width] = np.nan
    assert box.mean() < np.nanmean(rest) - 5
    assert drawing.paper - drawing.ink >= 90
    ends = ends_of(TEXT, drawing)
    assert ends == sorted(ends) and len(ends) == len(TEXT)
    assert ends[-1] == pytest.approx(left + width)


def test_a_text_that_is_too_wide_is_squeezed() -> None:
    image = picture_of("8*" * 30 + "8", PLAIN, 0)
    assert image.size == (WIDTH, HEIGHT)


def test_a_reading_is_told_from_all_that_differ_in_one_place() -> None:
    compared = Compared(picture_of(TEXT, PLAIN, 0))
    verdict = compared.verdict(TEXT, one_change(TEXT, GROUPS))
    assert verdict.is_same and verdict.correlation > 0.5
    others = [text for text in one_change(TEXT, GROUPS) if len(text) <= len(TEXT)]
    assert len(others) == 4 * 9 + 3 * 2 + 2
    for other in others[::5]:
        found = compared.verdict(other, one_change(other, GROUPS))
        assert found.is_same is False and found.better


def test_a_picture_of_noise_is_too_faint_to_tell() -> None:
    raw = np.random.default_rng(0).normal(128, 20, (HEIGHT, WIDTH))
    image = Image.fromarray(np.clip(raw, 0, 255).astype(np.uint8), "L")
    assert Compared(image).verdict(TEXT, one_change(TEXT, GROUPS)).is_same is None


def test_a_text_that_fits_no_picture_is_not_its_text() -> None:
    compared = Compared(picture_of(TEXT, PLAIN, 0))
    assert compared.verdict("8*" * 40, ()).is_same is False


def test_every_way_of_drawing_is_tried() -> None:
    for seed in range(50):
        hand = drawn_by_lot(random.Random(seed)).hand
        if hand.is_coarse:
            assert any(h.is_coarse and h.slant == hand.slant for h in HANDS)
        else:
            assert hand in HANDS
