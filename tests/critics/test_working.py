"""What a step claims as a question, and how that is worked out in writing."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critics.working import NEVER, Question, most_characters, question_of, result_of, worked

NUMBERS = st.decimals(-9999, 9999, allow_nan=False, places=2)
SIGNS = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__}


@pytest.mark.parametrize(
    ("claim", "question"),
    [
        (("47", "-", "19", "28"), Question("19+28", "47")),  # by its inverse
        (("84", "/", "7", "12"), Question("12*7", "84")),
        (("5", "-", "31", "-26"), Question("5+26", "31")),
        (("-12", "+", "45", "33"), Question("12+33", "45")),
        (("7.5", "/", "3", "2.5"), Question("25*3", "75")),
        (("1,200", "+", "0.5", "1200.5"), Question("12000+5", "12005")),
        (("-9", "*", "2", "-18"), Question("9*2", "18")),
        (("0", "-", "0", "0"), Question("0+0", "0")),
        (("-3", "-", "5", "8"), Question("3+5", NEVER)),  # of the wrong sign
        (("-9", "*", "2", "18"), Question("9*2", NEVER)),
    ],
)
def test_a_claim_is_asked_without_signs_and_by_its_inverse(
    claim: tuple[str, str, str, str], question: Question
) -> None:
    assert question_of(*claim) == question


@pytest.mark.parametrize(
    "claim",
    [
        ("1", "/", "3", "0.33"),  # rounded
        ("4", "/", "0", "4"),
        ("12345678", "+", "1", "12345679"),
        ("1234", "*", "1234", "1522756"),
        ("x", "+", "1", "2"),
        ("2", "^", "3", "8"),
        ("2", "*", "3", "6.01"),
        ("3.33", "*", "3", "10"),
        ("3.33", "+", "3.34", "6.7"),
    ],
)
def test_what_cannot_be_worked_out_is_not_asked(claim: tuple[str, str, str, str]) -> None:
    assert question_of(*claim) is None


@given(NUMBERS, st.sampled_from("+-*"), NUMBERS, st.integers(-2, 2))
def test_a_question_tells_true_claims_from_false_ones(
    left: object, operator: str, right: object, off: int
) -> None:
    a, b = Fraction(str(left)), Fraction(str(right))
    true = SIGNS[operator](a, b)
    claimed = true + Fraction(off, 100)
    shown = f"{float(claimed):.4f}"
    question = question_of(str(left), operator, str(right), shown)
    if question is None:
        return
    found = result_of(worked(question.text))
    assert (found == question.claimed) == (Fraction(shown) == true)
    assert len(worked(question.text)) < most_characters(question.text)


def test_working_goes_digit_by_digit() -> None:
    assert worked("28+19").split() == ["8+9", "17", "2+1", "3", "3+1", "4", "47"]
    assert worked("12*8").split() == ["2*8", "16", "1*8", "8", "8+1", "9", "96"]
    assert worked("12*25").split()[-1] == "300"
    with pytest.raises(ValueError, match="no sum or product"):
        worked("28-19")
