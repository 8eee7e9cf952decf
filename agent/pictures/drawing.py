"""One line of text as a picture: fonts, sizes, greys, places and noise by lot."""

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HEIGHT, WIDTH = 64, 256
SIZES = (18, 20, 22, 24)
MARGIN = 4
BOX = (48, 40)
"""Height and width that one character may take, six pixels around it among them."""


@dataclass(frozen=True, slots=True)
class Hand:
    """How a line is drawn."""

    is_bold: bool
    is_coarse: bool
    """In the old bitmap font, twice its size, instead of an outline font."""
    size: int
    """Pixels of the outline font."""
    slant: float
    """Pixels to the right for each pixel up."""


@dataclass(frozen=True, slots=True)
class Drawing:
    hand: Hand
    x: float
    """Of the free space on both sides, the share on the left."""
    y: float
    ink: int
    paper: int
    noise: float
    """Standard deviation, of 255 greys."""


def drawn_by_lot(rng: random.Random) -> Drawing:
    """A drawing of some text. Ink is darker than paper by 90 greys at least."""
    hand = Hand(
        is_bold=rng.random() < 0.3,
        is_coarse=rng.random() < 0.25,
        size=rng.choice(SIZES),
        slant=rng.choice((-0.15, 0.0, 0.0, 0.15, 0.25)),
    )
    paper = rng.randint(150, 255)
    return Drawing(
        hand=hand,
        x=rng.random(),
        y=rng.uniform(0.3, 0.7),
        ink=rng.randint(0, paper - 90),
        paper=paper,
        noise=rng.uniform(5.0, 25.0),
    )


@lru_cache(maxsize=4096)
def mask_of(text: str, hand: Hand) -> tuple[bytes, int, int]:
    """The ink of a text, cut to its own box: greys as bytes, height and width."""
    image = _written(text, hand)
    if hand.slant:
        shear = (1, hand.slant, -max(0.0, hand.slant) * image.height, 0, 1, 0)
        wider = int(abs(hand.slant) * image.height) + 1
        size = (image.width + wider, image.height)
        if hand.slant < 0:
            shear = (1, hand.slant, 0, 0, 1, 0)
        image = image.transform(size, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR)
    image = image.crop(image.getbbox() or (0, 0, 1, 1))
    return image.tobytes(), image.height, image.width


def _written(text: str, hand: Hand) -> Image.Image:
    """Characters side by side: both fonts advance by whole pixels."""
    starts = np.cumsum([0, *(_advance(c, hand) for c in text)])
    sheet = np.zeros((BOX[0], int(starts[-1]) + BOX[1]), np.uint8)
    for start, character in zip(starts.tolist(), text, strict=False):
        place = sheet[:, start : start + BOX[1]]
        np.maximum(place, _glyph(character, hand), out=place)
    image = Image.fromarray(sheet, "L")
    if hand.is_coarse:
        double = (image.width * 2, image.height * 2)
        image = image.resize(double, Image.Resampling.BILINEAR)
    return image.crop(image.getbbox() or (0, 0, 1, 1))


@lru_cache(maxsize=4096)
def _advance(character: str, hand: Hand) -> int:
    return round(_font(hand).getlength(character))


@lru_cache(maxsize=4096)
def _glyph(character: str, hand: Hand) -> np.ndarray:
    """The ink of one character, uint8 of the size `BOX`."""
    image = Image.new("L", (BOX[1], BOX[0]))
    stroke = 1 if hand.is_bold and not hand.is_coarse else 0
    ImageDraw.Draw(image).text((6, 6), character, fill=255, font=_font(hand), stroke_width=stroke)
    return np.asarray(image)


@lru_cache(maxsize=64)
def _font(hand: Hand) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    if hand.is_coarse:
        return ImageFont.load_default_imagefont()
    return ImageFont.load_default(size=hand.size)


def ink_of(text: str, hand: Hand) -> np.ndarray:
    """Float32 [h, w] in [0, 1]."""
    raw, height, width = mask_of(text, hand)
    found = np.frombuffer(raw, dtype=np.uint8).reshape(height, width)
    return found.astype(np.float32) / 255.0


def place_of(text: str, drawing: Drawing) -> tuple[int, int, int, int]:
    """Left, top, width and height of a text's ink in its picture."""
    _, height, width = mask_of(text, drawing.hand)
    left = MARGIN + int(drawing.x * max(0, WIDTH - 2 * MARGIN - width))
    top = MARGIN + int(drawing.y * max(0, HEIGHT - 2 * MARGIN - height))
    return left, top, width, height


def ends_of(text: str, drawing: Drawing) -> list[float]:
    """Where each character ends in its picture, in pixels from the left, by its advance."""
    left, _, width, _ = place_of(text, drawing)
    advance = np.cumsum([_advance(c, drawing.hand) for c in text])
    return [float(left + width * a / advance[-1]) for a in advance]


def picture_of(text: str, drawing: Drawing, seed: int) -> Image.Image:
    """Grey, `HEIGHT` by `WIDTH`; a text that is too wide is squeezed to fit."""
    ink = ink_of(text, drawing.hand)
    left, top, width, height = place_of(text, drawing)
    most_wide, most_high = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
    if width > most_wide or height > most_high:
        image = Image.fromarray((ink * 255).astype(np.uint8), "L")
        size = (min(width, most_wide), min(height, most_high))
        ink = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32) / 255.0
    sheet = np.zeros((HEIGHT, WIDTH), np.float32)
    sheet[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    greys = drawing.paper + (drawing.ink - drawing.paper) * sheet.astype(np.float64)
    noise = np.random.default_rng(seed).standard_normal(greys.shape)
    greys = greys + drawing.noise * noise
    return Image.fromarray(np.clip(np.rint(greys), 0, 255).astype(np.uint8), "L")
