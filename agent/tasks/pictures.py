"""Expressions as pictures: the first line says what the picture shows, then the steps follow.

    (a picture of 7+2*3-4, slanted, noisy)
    7+2*3-4
    7+6-4
    13-4
    9

The policy is given the picture and no word. Everything else is that of `expressions`: the same
problems under the same keys, the same split, the same steps below the reading. A problem's picture
is drawn from its text alone, so that it is the same wherever it is drawn. The calculator checks the
steps below the reading, and draws the reading again to compare it with the picture.
"""

import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from PIL import Image

from agent.pictures.comparison import Compared, one_change
from agent.pictures.drawing import drawn_by_lot, picture_of
from agent.pictures.folder import PictureFolder
from agent.tasks.expressions import Expressions, num_operators
from agent.tasks.operators import Operator
from agent.tasks.task import Demonstration, Proves
from critics.working import Question
from search.errors import TaskError
from search.score import Finding
from search.state import Problem

GROUPS = ("0123456789", "+-*")
"""Characters that may stand in each other's place."""
MOST_DEMONSTRATED = 2_000
"""Demonstrations at most: each is a picture on the disk."""


@lru_cache(maxsize=4096)
def drawn(text: str) -> Image.Image:
    """The picture of an expression, always the same one."""
    rng = random.Random(f"picture\0{text}")
    return picture_of(text, drawn_by_lot(rng), rng.getrandbits(32))


@lru_cache(maxsize=512)
def _picture(text: str) -> Compared:
    return Compared(drawn(text))


@lru_cache(maxsize=2**14)
def _compared(text: str, reading: str) -> Finding:
    """What drawing a reading again says of it. Of the text its picture alone is looked at."""
    verdict = _picture(text).verdict(reading, one_change(reading, GROUPS))
    if verdict.is_same is None:
        return Finding(None, "the picture is too faint to compare")
    if verdict.is_same:
        return Finding(True, "drawn again it is the picture")
    return Finding(False, f"the picture is more like {verdict.better or 'nothing drawn here'}")


class Pictures(Expressions):
    name = "pictures"
    tool = "calculator and drawing again"
    proves: Proves = "texts"

    def __init__(self, folder: Path) -> None:
        """`folder` is where pictures are kept for the hosts that read them."""
        self._folder = PictureFolder(folder)
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()

    def question(self, text: str) -> str:
        """An empty line: the picture says all."""
        return "\n"

    def pictures(self, text: str) -> tuple[str, ...]:
        with self._lock:
            if text not in self._known:
                self._known[text] = self._folder.put(drawn(text))
            return (self._known[text],)

    def problem(self, text: str, origin: str) -> Problem:
        return replace(super().problem(text, origin), pictures=self.pictures(text))

    def check_step(self, text: str, steps: Sequence[str]) -> Finding:
        reading = steps[0].strip()
        if len(steps) > 1:
            return super().check_step(reading, steps[1:])
        try:
            self.read(reading)
        except TaskError:
            return Finding(False, "not an expression")
        if not steps[0].endswith("\n"):
            return Finding(False, "ends with the reading")
        return _compared(text, reading)

    def questions(self, text: str, steps: Sequence[str]) -> tuple[Question, ...] | None:
        return super().questions(steps[0].strip(), steps[1:]) if len(steps) > 1 else ()

    @property
    def operators(self) -> tuple[Operator, ...]:
        """None keeps the answer: nobody who reads the picture knows the words to put in order."""
        return tuple(o for o in super().operators if not o.keeps_answer)

    def worked(self, num: int, seed: int) -> list[Demonstration]:
        return [_read_first(d) for d in super().worked(num, seed)]

    def demonstrations(self, num: int, seed: int) -> list[Demonstration]:
        return [_read_first(d) for d in super().demonstrations(min(num, MOST_DEMONSTRATED), seed)]


def _read_first(demonstration: Demonstration) -> Demonstration:
    problem = demonstration.problem
    assert num_operators(problem.text)
    return Demonstration(problem, (problem.text + "\n", *demonstration.steps))
