"""The algebra tool: its grammar, its verdicts, and that no question can hurt."""

import time

import pytest

from agent.tasks.algebra import Algebra, AlgebraError, holds, parsed
from agent.tasks.jsonl import Files, Jsonl
from agent.tasks.killable import Killable
from search.errors import ToolError


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
        ("-3^2 = -9", True),
        ("x(x+1) = x^2+x", None),
        ("f^{-1}(0) = 3", None),
        (r"3\frac{1}{2} = \frac{7}{2}", True),
        ("sqrt(2) = 1.41", None),
        ("4a = 4(a-3)", None),
        ("no equation = x.y", None),
        ("__import__('os') = 1", None),
        ("9^9^9^9 = 1", None),
        ("(" * 60 + "1" + ")" * 60 + " = 1", None),
    ],
)
def test_an_equation_holds_fails_or_is_no_claim(text: str, verdict: bool | None) -> None:
    left, _, right = text.partition("=")
    assert holds((left, right)) is verdict


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
    process = Killable(slow, 0.0, timeout_s=0.3)
    assert process.ask(0.0) == "done"
    assert process.ask(60.0) is None and not process._is_warm
    assert process.ask(0.0) == "done"
    process.close()
    process = Killable(greedy, 10, memory_bytes=2**30)
    assert process.ask(1000) == 1000
    assert process.ask(4 * 2**30) is None
    assert process.ask(1000) == 1000
    process.close()


def test_the_algebra_of_a_step_is_checked_between_dollars(tmp_path: object) -> None:
    from pathlib import Path

    file = Path(str(tmp_path)) / "rows.jsonl"
    file.write_text('{"problem": "Find x.", "answer": "3"}\n')
    task = Jsonl(Files(str(file)))
    assert task.check_step("", [r"We know that $\frac{6}{2} = 3$."]).is_sound is True
    assert task.check_step("", [r"So $\sqrt{9} = 4$."]).is_sound is False
    assert task.check_step("", ["Then $2x = 6$."]).is_sound is None
    task.algebra.close()
    assert Algebra().holds("x + x", "2x") is True


def never(question: object) -> None:
    raise SystemExit(3)


def test_a_process_that_cannot_start_is_an_error_and_not_an_answer() -> None:
    """False would say that two answers differ."""
    process = Killable(never, "x")
    with pytest.raises(ToolError, match="never cannot start: it ended with 3") as error:
        process.ask("x")
    assert error.value.fix and error.value.exit_code == 8


def test_the_child_that_follows_a_killed_one_warms_up_at_once() -> None:
    """So the second hard question costs its own time limit, not a start."""
    process = Killable(slow, 0.0, timeout_s=0.2)
    assert process.ask(60.0) is None
    assert process._process is not None and process._process.is_alive()
    assert process.ask(60.0) is None and process.ask(0.0) == "done"
    process.close()
