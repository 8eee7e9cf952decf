"""What reads texts of strangers takes time in proportion to their length.

A text of 200,000 characters through a part whose time grows with the square would take longer than
the limit that pytest sets to a test; each part takes well under a second.
"""

from collections.abc import Callable

import pytest

from agent.imagination.decontamination import words
from agent.tasks.algebra import plain as plain_formula
from agent.visible import visible
from critics.answer import final_answer
from critics.claims import claims
from critics.equality import normal_form
from critics.plain_text import plain
from search.boundary import BLANK_LINE, FORMULA_LINE, SENTENCE
from search.merge import normalised
from store.masking import masked

LENGTH = 200_000
READERS: dict[str, Callable[[str], object]] = {
    "final_answer": final_answer,
    "claims": claims,
    "normal_form": normal_form,
    "plain": plain,
    "plain_formula": plain_formula,
    "visible": visible,
    "masked": masked,
    "words": words,
    "normalised": normalised,
    "blank line": BLANK_LINE.ends or str,
    "formula line": FORMULA_LINE.ends or str,
    "sentence": SENTENCE.ends or str,
}
UNITS = (
    *(" ", "\n", "\t", "(", "[", "{", ")", "\\boxed{", "\\boxed{1}", "The answer is ", "#### "),
    *("1", "1,", "1/2 ", "1+", "=", "1=", "a", "a ", "$", "-", ".", "%", "<<", "\\frac{"),
    *("\\sqrt{", "^{", "and ", "x=", "|", "\\", "\\text{", '"', "a://b:", "@", "token=", "°"),
)


@pytest.mark.parametrize("name", READERS)
def test_time_grows_with_the_length_of_a_text_and_no_faster(name: str) -> None:
    for unit in UNITS:
        for before, behind in (("", ""), ("The answer is", "x"), ("1=", "!"), ("\\boxed{", "9")):
            READERS[name](before + unit * (LENGTH // len(unit)) + behind)
