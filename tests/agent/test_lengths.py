"""Lengths follow the worked answers, whatever their outliers, and stay where somebody set them."""

from agent.lengths import USUAL_OPTION, USUAL_TEXT, lengths


def count(text: str) -> int:
    return len(text.split())


WORKED = ["a b c d e f\n" * 4 + "#### 5\n"] * 99 + ["word " * 3000]


def test_lengths_are_half_as_long_again_as_nearly_all_worked_answers() -> None:
    found = lengths(WORKED, count, 4096)
    assert found.text_tokens == 40 and found.option_tokens == 16
    assert "100 worked answers" in found.reason
    assert lengths([], count, 4096).text_tokens == USUAL_TEXT
    assert lengths([], count, 4096).option_tokens == USUAL_OPTION


def test_a_short_context_bounds_them_and_set_ones_stay() -> None:
    long = ["word " * 400] * 5
    assert lengths(long, count, 256).text_tokens == 128
    assert "context" in lengths(long, count, 256).reason
    found = lengths(WORKED, count, 4096, option_tokens=7)
    assert (found.option_tokens, found.text_tokens) == (7, 40)
    assert lengths(WORKED, count, 4096, 7, 9).reason == "set"
