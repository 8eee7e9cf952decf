"""What is right counts as right: every small case, ours and the handed ones, by its kind."""

import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from agent.tasks.algebra import holds
from agent.tasks.jsonl import Jsonl
from critics.answer import final_answer
from critics.claims import claims, is_hedged
from critics.equality import normal_form
from critics.formulas import formula_claims, parted
from tests.critics.judging import OWN, cases, is_right, opened

SHARED = Path(__file__).parent.parent.parent.parent / "shared"
HANDED = SHARED / "cases/judging.jsonl"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Jsonl:
    folder = tmp_path_factory.mktemp("rows")
    return opened(folder, '{"problem": "q", "answer": "1"}\n')


def wrong(path: Path, task: Jsonl, folder: Path) -> list[dict[str, object]]:
    return [case for case in cases(path) if not is_right(case, task, folder)]


def test_every_case_of_ours_comes_out_right(task: Jsonl, tmp_path: Path) -> None:
    found = cases(OWN)
    assert len(found) >= 200 and len(Counter(c["kind"] for c in found)) == 11
    assert wrong(OWN, task, tmp_path) == []


def test_every_handed_case_comes_out_right(task: Jsonl, tmp_path: Path) -> None:
    if not HANDED.is_file():
        pytest.skip(f"the handed cases are not at {HANDED}")
    assert wrong(HANDED, task, tmp_path) == []


def verdict(line: str) -> bool | None:
    found = parted(line)
    told = claims(found.prose)
    for chain in found.chains:
        told += formula_claims(chain, lambda a, b: holds((a, b)), is_hedged(line))
    verdicts = [claim.holds for claim in told]
    return False if False in verdicts else True if True in verdicts else None


def lines_of(path: Path, key: str) -> list[str]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for row in rows for line in row[key].split("\n") if line.strip()]


REFUTED_GSM8K = {
    "3/4 of a skein of yarn * 364 yards = 364 / 4 = 273 yards.",  # it is 91: the 3 is missing
    "So, Suzzane has $32 - $20 = $300 left.",  # it is 12
}
REFUTED_MATH = {"$(-4)^2 + 4 \\cdot 1 \\cdot (-1) = 20$"}


@pytest.mark.round
@pytest.mark.parametrize("is_annotated", [True, False])
def test_no_right_line_of_gsm8k_is_refuted(is_annotated: bool) -> None:
    """The two that are refuted are wrong as they are printed."""
    file = SHARED / "data/gsm8k/test.jsonl"
    if not file.is_file():
        pytest.skip(f"GSM8K is not at {file}")
    lines = lines_of(file, "answer")
    if not is_annotated:
        lines = [re.sub(r"<<.*?>>", "", line) for line in lines]
    found = Counter(map(verdict, lines))
    refuted = [re.sub(r"<<.*?>>", "", line) for line in lines if verdict(line) is False]
    assert len(refuted) == 2
    assert all(any(line.endswith(known) for line in refuted) for known in REFUTED_GSM8K)
    assert found[True] > 4150


@pytest.mark.round
def test_no_right_line_of_math500_is_refuted() -> None:
    """The one that is refuted is a misprint: minus four times one times minus one is four."""
    file = SHARED / "data/math500/test.jsonl"
    if not file.is_file():
        pytest.skip(f"MATH-500 is not at {file}")
    lines = lines_of(file, "solution")
    refuted = [line for line in lines if verdict(line) is False]
    assert len(refuted) == 1 and all(known in refuted[0] for known in REFUTED_MATH)


@pytest.mark.round
def test_a_wrong_result_is_still_refuted() -> None:
    """A judge that doubts all refutes nothing: few right lines with another result may pass."""
    file = SHARED / "data/gsm8k/test.jsonl"
    if not file.is_file():
        pytest.skip(f"GSM8K is not at {file}")
    rng, told = random.Random(0), Counter[bool | None]()
    for line in lines_of(file, "answer"):
        plain = re.sub(r"<<.*?>>", "", line)
        results = list(re.finditer(r"=\s*\$?(\d[\d,]*)(?![\d.])", plain))
        if not results or verdict(plain) is not True:
            continue
        last = results[-1]
        other = int(last[1].replace(",", "")) + rng.choice((1, 2, 10))
        told[verdict(plain[: last.start(1)] + str(other) + plain[last.end(1) :])] += 1
    assert told[False] / told.total() > 0.93
    assert told[True] / told.total() < 0.002


LOOPS = [
    "the answer is ",
    "The answer is $",
    "**Answer:** ",
    r"\boxed{",
    "answer is $x{",
    "#### 5\n",
]
LOOPS += ["#### 5\n", "**", "_", ". ", "about ", "1,", "(", "$1=1$ ", "1=1 ", "= 1 ", "x="]


@pytest.mark.parametrize("loop", LOOPS)
def test_the_cost_of_a_text_grows_with_its_length_only(loop: str) -> None:
    """Models that loop write such texts. Work is counted in function calls, not in seconds."""

    def calls(size: int) -> int:
        text = loop * (size // len(loop))
        count = 0

        def note(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(note)
        try:
            final_answer(text)
            normal_form(text)
            claims(text)
        finally:
            sys.setprofile(None)
        return count

    small, large = calls(8_000), calls(32_000)
    assert large < 8 * small + 20_000
