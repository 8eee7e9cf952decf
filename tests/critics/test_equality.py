"""When two answers are equal, by the stated rules."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critics.answer import final_answer
from critics.claims import claims
from critics.equality import AnswerRule, items, normal_form, same_answer
from critics.quantity import quantity
from tests.critics.judging import OWN, cases


@given(st.integers(-(10**9), 10**9))
def test_thousands_are_one_number_however_they_are_written(number: int) -> None:
    assert same_answer(f"{number:,}", str(number))
    found = quantity(f"{number:,}")
    assert found is not None and found.value == number


@given(st.fractions(max_denominator=999), st.sampled_from(["{}/{}", r"\frac{{{}}}{{{}}}"]))
def test_a_fraction_is_read_back_as_its_value(value: Fraction, form: str) -> None:
    sign = "-" if value < 0 else ""
    found = quantity(sign + form.format(abs(value.numerator), value.denominator))
    assert found is not None and found.value == value


@given(st.text(max_size=40), st.text(max_size=40))
def test_equality_is_symmetric_and_reflexive_for_any_text(left: str, right: str) -> None:
    for rule in ("auto", "math", "text", "choice"):
        assert same_answer(left, left, rule)
        assert same_answer(left, right, rule) == same_answer(right, left, rule)


@given(st.text(max_size=40))
def test_the_normal_form_is_equal_to_what_it_stands_for_and_stays(text: str) -> None:
    form = normal_form(text)
    assert same_answer(form, text) and normal_form(form) == form


@pytest.mark.parametrize(
    ("left", "right", "rule", "is_equal"),
    [
        ("(A)", "A) 5 apples", "choice", True),
        ("B.", "b", "choice", True),
        ("(A) 5", "(B) 5", "choice", False),
        ("1.0", "1", "text", False),
        ("New  York", "new york", "text", True),
        ("listen", "silent", "math", False),
    ],
)
def test_each_rule_compares_in_its_own_way(
    left: str, right: str, rule: AnswerRule, is_equal: bool
) -> None:
    assert same_answer(left, right, rule) is is_equal


def test_words_are_never_asked_of_the_verifier_but_by_the_rule_that_says_so() -> None:
    asked: list[tuple[str, str]] = []

    def ask(left: str, right: str) -> bool:
        asked.append((left, right))
        return True

    assert not same_answer("listen", "silent", "auto", ask)
    assert not same_answer("cat", "3", "auto", ask) and not same_answer(
        "7:30", "15:60", "auto", ask
    )
    assert asked == []
    assert same_answer("listen", "silent", "math", ask) and asked == [("listen", "silent")]
    assert same_answer("x+1", "1+x", "auto", ask)
    assert same_answer("(1,x+1)", "(1,1+x)", "auto", ask)  # item by item


def test_lists_are_split_outside_of_brackets_and_thousands() -> None:
    assert items("1,234") == ("", ["1,234"])
    assert items("1,2") == ("", ["1", "2"])
    assert items("1,234, 5") == ("", ["1,234", "5"])
    assert items(r"\{(1,2), (3,4)\}") == ("{}", ["(1,2)", "(3,4)"])
    assert items("x=1 or x=2") == ("", ["x=1", "x=2"])
    assert items("[1,2)") == ("[)", ["1", "2"])


LISTS = st.lists(st.integers(0, 9999), min_size=1, max_size=5)


@given(LISTS, st.sampled_from([", ", ",", "; ", " and "]), st.sampled_from(["", "()", "[]"]))
def test_a_list_is_read_back_from_its_normal_form(
    numbers: list[int], separator: str, around: str
) -> None:
    """100, 200 must not become 100,200, which is one number (and as 100,200 it is one)."""
    text = around[:1] + separator.join(map(str, numbers)) + around[1:]
    form = normal_form(text)
    assert same_answer(form, text) and normal_form(form) == form
    assert len(items(form)[1]) == len(items(text)[1])


def test_the_normal_form_of_every_case_stays_and_equals_it() -> None:
    for case in cases(OWN):
        for text in (case.get("reference"), final_answer(case.get("text", ""))):
            if text:
                form = normal_form(text)
                assert same_answer(form, text), text
                assert normal_form(form) == form, text


@given(st.text(alphabet="0123456789+-*/^=().,% $x\\{}", max_size=60), st.integers(1, 900))
def test_no_step_and_no_answer_raises(text: str, times: int) -> None:
    for whole in (text, "7" * times + "=" + text, text + "^" + "9" * (times % 9)):
        claims(whole)
        normal_form(whole)
        final_answer("#### " + whole)


def test_units_that_differ_in_letter_case_are_two() -> None:
    assert not same_answer("5 mW", "5 MW") and not same_answer("5 Mm", "5 mm")
    assert same_answer("5 CM", "5 cm") and same_answer("5 Hours", "5 hours")
    assert not same_answer("x^2", "X^2")
