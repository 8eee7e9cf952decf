"""One line of a ledger: found, copied and worked out, and every step of it checked."""

import random

import pytest

from agent.imagination.imagine import Imagination, Wanted
from agent.tasks.ledger import LONG, Ledger, asked, drawn_ledger, entries_of
from agent.tasks.task import is_held_out
from search.errors import TaskError

TEXT = "abf=61-20+7\nkqz=37+48-12\nxxa=5\n\nkqz="


def test_a_question_is_answered_by_its_line_and_the_steps_below_it() -> None:
    assert asked(TEXT) == "37+48-12"
    ledger = Ledger()
    steps = ("37+48-12\n", "85-12\n", "73")
    for end in range(1, 4):
        assert ledger.check_step(TEXT, steps[:end]).is_sound
    assert ledger.answer_of(steps) == "73"


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (("61-20+7\n",), "not what the ledger says"),
        (("37+48-13\n",), "not what the ledger says"),
        (("37+48-12\n", "84-12\n"), "the value changed"),
        (("37+48-12\n", "73\n"), "not one operation fewer"),
        (("37+48-12\n", "85-12\n", "73\n"), "goes on after the value"),
    ],
)
def test_a_wrong_step_is_refuted_with_the_reason(steps: tuple[str, ...], reason: str) -> None:
    finding = Ledger().check_step(TEXT, steps)
    assert finding.is_sound is False
    assert finding.reason == reason


def test_a_line_that_is_a_number_is_its_own_answer() -> None:
    text = TEXT.replace("kqz=\n", "").rpartition("\n")[0] + "\nxxa="
    assert Ledger().check_step(text, ("5",)).is_sound
    assert Ledger().check_step(text, ("5\n",)).is_sound is False


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("7+3", "asks for no line of a ledger"),
        ("abc=1+2\n\nabd=", "has no line 'abd'"),
        ("abc=1+2\nabc=4\n\nabc=", "names 'abc' a second time"),
        ("abc=1+2\nab=4\n\nabc=", "line 2 of the ledger is 'ab=4'"),
        ("abc=", "has 0 lines"),
        ("", "is empty"),
    ],
)
def test_what_is_no_ledger_is_refused_with_its_fault(text: str, told: str) -> None:
    with pytest.raises(TaskError, match=told):
        Ledger().read(text)


def test_a_ledger_is_read_whatever_its_white_space() -> None:
    assert Ledger().read("  abf=61-20+7\n\nkqz=37+48-12 \r\nxxa=5\n\n\nkqz\n") == TEXT


def test_problems_are_long_and_demonstrations_short_and_both_are_right() -> None:
    ledger = Ledger()
    problems = [*ledger.seeds(6, 0), *ledger.held_out(6, 0)]
    assert {p.difficulty for p in problems} == set(LONG)
    for problem in problems:
        assert ledger.read(problem.text) == problem.text
    for demonstration in ledger.demonstrations(30, 0):
        steps = demonstration.steps
        for end in range(1, len(steps) + 1):
            assert ledger.check_step(demonstration.problem.text, steps[:end]).is_sound
        assert ledger.answer_of(steps) == demonstration.problem.answer
        assert len(demonstration.problem.text) < 1000


def test_no_problem_to_learn_from_is_held_out_and_held_out_ones_are() -> None:
    ledger = Ledger()
    seeds = ledger.seeds(10, 0)
    made = Imagination(ledger, []).imagine(seeds, [], Wanted(20, 1)).problems
    assert len(made) == 20
    assert {ledger.read(p.text) for p in made} == {p.text for p in made}
    assert not any(is_held_out(p.text) for p in [*seeds, *made, *ledger.labelled(20, 0)])
    assert all(is_held_out(p.text) for p in ledger.held_out(20, 0))


def test_a_longer_ledger_keeps_its_lines_and_its_answer() -> None:
    ledger = Ledger()
    (problem,) = ledger.seeds(1, 3)
    longer = next(o for o in ledger.operators if o.name == "longer")
    made = longer.apply(problem, random.Random(0))
    assert made is not None and made.answer == problem.answer
    before, after = entries_of(problem.text), entries_of(made.text)
    assert before.items() <= after.items() and len(after) > 1.9 * len(before)
    text = drawn_ledger(random.Random(1), 700) + "aaa=1\n\n"
    longest = ledger.problem(text.replace("\n\n", "\n", 1), "aaa", "")
    assert longer.apply(longest, random.Random(0)) is None  # no ledger holds twice as many
