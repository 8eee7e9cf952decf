"""What an answer leaves out of its question, and what it takes from nowhere."""

import pytest

from critics.grounding import MOST, grounding


@pytest.mark.parametrize(
    ("question", "steps", "wanted"),
    [
        ("Tom had 8 pens and gave 3 away.", ["8 - 3 = 5\n", "#### 5"], (0, 0, 0)),
        ("Tom had 8 pens, gave 3 away and lost 2.", ["8 - 3 = 5\n", "#### 5"], (1, 0, 0)),
        ("Of 6,048 lambs 193 are white.", ["193 - 192 = 1\n", "#### 1"], (1, 1, 0)),
        ("Of 6,048 lambs 193 are white.", ["6048 - 193 = 5855\n"], (0, 0, 0)),
        ("She has 8.75 buckets and then 6.", ["8.75 + 6 = 14\n", "#### 14"], (0, 0, 1)),
        ("A dozen eggs, 4 of them bad.", ["12 - 4 = 8\n", "#### 8"], (0, 0, 0)),
        ("Two boys have 7 each.", ["7 * 2 = 14\n", "14 + 1 = 15\n"], (0, 0, 0)),
        ("Ann has 5, Bob 6.", ["5 + 6 = 11\n", "11 * 3 = 33\n"], (0, 1, 0)),
        ("Ann has 2 bags of 3 and 1.", ["2 * 3 = 6 + 1 = 7\n", "#### 7"], (0, 0, 1)),
        ("Ann has 2 bags of 3.", ["2 * 3 = 6 + 9 = 15\n", "#### 15"], (0, 1, 1)),
        ("Ann has 5.", ["She has 5.\n", "#### 5"], (0, 0, 0)),
        ("", [], (0, 0, 0)),
        ("3 4 5", ["#### 7"], (3, 0, 0)),
    ],
)
def test_numbers_are_used_known_and_equal(
    question: str, steps: list[str], wanted: tuple[int, int, int]
) -> None:
    found = grounding(question, steps)
    assert (found.num_unused, found.num_unknown, found.num_inexact) == wanted


def test_an_earlier_result_is_known_from_there_on_and_not_before() -> None:
    question = "Ann has 5, Bob 6."
    assert grounding(question, ["5 + 6 = 11\n", "11 - 5 = 6\n"]).num_unknown == 0
    assert grounding(question, ["11 - 5 = 6\n", "5 + 6 = 11\n"]).num_unknown == 1


def test_doubts_are_shares_however_many_there_are() -> None:
    many = grounding("1 2 3 4 5 6 7 8 9", ["77 + 88 = 99\n"])
    assert many.num_unused == 9 and many.num_unknown == 2
    assert many.doubts == (1.0, pytest.approx(2 / MOST), pytest.approx(1 / MOST))
    assert grounding("8 pens, 3 away", ["8 - 3 = 5\n"]).doubts == (0.0, 0.0, 0.0)


def test_hostile_text_is_read_like_any_other() -> None:
    long = "1," * 50_000 + " ".join(str(n) for n in range(5_000))
    assert grounding(long, ["=" * 2_000, "9" * 5_000, "1 + " * 2_000]).num_unused > 1_000
