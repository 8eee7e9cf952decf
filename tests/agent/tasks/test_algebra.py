"""The algebra tool: its grammar, its verdicts, and that no question can hurt."""

import time

import pytest

from agent.tasks.algebra import Algebra, AlgebraError, holds, parsed
from agent.tasks.jsonl import Jsonl
from agent.tasks.killable import Killable


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("sqrt(16) = 4", True),
        ("sqrt(16) = 5", False),
        ("(x+1)^2 = x^2 + 2x + 1", True),
        ("2x + 3 = 7", None),
        (r"\frac{1}{2} + \frac{1}{3} = \frac{5}{6}", True),
        (r"\frac{1}{2} + \frac{1}{3} = \frac{2}{5}", False),
        (r"2 \cdot 3^{2} = 18", True),
        ("sin(pi/6) = 1/2", True),
        ("1 = 1 = 1", None),
        ("no equation", None),
        ("__import__('os') = 1", None),
        ("9^9^9^9 = 1", None),
        ("(" * 60 + "1" + ")" * 60 + " = 1", None),
    ],
)
def test_an_equation_holds_fails_or_is_no_claim(text: str, verdict: bool | None) -> None:
    assert holds(text) is verdict


@pytest.mark.parametrize("text", ["x.y", "open(1)", "1 +", "sqrt 4", "()", "a" * 400, "3^999"])
def test_what_is_not_of_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(AlgebraError):
        parsed(text)


def slow(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


def greedy(num_bytes: int) -> int:
    return len(bytearray(num_bytes))


def test_a_question_that_takes_too_long_or_too_much_is_unknown_and_the_next_is_answered() -> None:
    process = Killable(slow, timeout_s=0.3)
    assert process.ask(0.0) == "done"
    assert process.ask(60.0) is None and process._process is None
    assert process.ask(0.0) == "done"
    process.close()
    process = Killable(greedy, memory_bytes=2**30)
    assert process.ask(1000) == 1000
    assert process.ask(4 * 2**30) is None
    assert process.ask(1000) == 1000
    process.close()


def test_the_algebra_of_a_step_is_checked_between_dollars(tmp_path: object) -> None:
    from pathlib import Path

    file = Path(str(tmp_path)) / "rows.jsonl"
    file.write_text('{"problem": "Find x.", "answer": "3"}\n')
    task = Jsonl(file)
    assert task.check_step("", [r"We know that $\frac{6}{2} = 3$."]).is_sound is True
    assert task.check_step("", [r"So $\sqrt{9} = 4$."]).is_sound is False
    assert task.check_step("", ["Then $2x = 6$."]).is_sound is None
    task.algebra.close()
    assert isinstance(Algebra().equation_holds("1 = 1"), bool)
