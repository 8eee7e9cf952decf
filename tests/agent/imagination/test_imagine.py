"""Imagination: what is made, what is refused, and that difficulty follows ability."""

from collections import Counter

import pytest

from agent.imagination.decontamination import Decontamination
from agent.imagination.imagine import Imagination, Wanted
from agent.tasks.expressions import Expressions, num_operators
from agent.tasks.stories import Stories
from agent.tasks.task import Task, is_held_out
from search.state import Problem

TASKS: list[Task] = [Expressions(), Stories()]


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_other_wordings_have_the_same_answer_and_name_their_family(task: Task) -> None:
    found = (
        Imagination(task, []).imagine(task.seeds(50, 0), [], Wanted(120, 1, wordings=3)).problems
    )
    families: dict[str, list[Problem]] = {}
    for problem in found:
        families.setdefault(problem.family or problem.id, []).append(problem)
    whole = [f for f in families.values() if len(f) == 4]
    assert len(whole) > 20
    for first, *others in whole:
        assert not first.family and {o.family for o in others} == {first.id}
        assert {p.answer for p in (first, *others)} == {first.answer}
        assert len({task.key(p.text) for p in (first, *others)}) == 4
    assert not any(is_held_out(task.key(p.text)) for p in found)


def test_a_planted_leak_is_caught_by_key_and_by_its_words() -> None:
    task = Stories()
    secret = task.held_out(50, 3)
    guard = Decontamination(secret, task.key)
    assert guard.leak(secret[0].text) == "key"
    assert guard.leak(secret[0].text.replace("Ann", "Zoe").replace("Ben", "Zoe") + " Think!") in (
        "n-gram",
        "key",
    )
    clean = [p for p in task.seeds(50, 3) if not guard.leak(p.text)]
    assert len(clean) > 40


def test_what_gives_a_held_out_problem_away_is_refused_and_counted() -> None:
    task = Expressions()
    # Every problem that one seed leads to is declared held out: none of them may come back.
    parents = task.seeds(5, 0)
    first = Imagination(task, []).imagine(parents, [], Wanted(60, 2))
    again = Imagination(task, first.problems).imagine(parents, [], Wanted(60, 2))
    assert not {p.id for p in first.problems} & {p.id for p in again.problems}
    report = again.report()
    assert report["contaminated"] == again.refused["key"] + again.refused["n-gram"] > 0
    assert report["tries"] == sum(again.made.values()) + sum(again.refused.values())


def test_problems_grow_out_of_what_is_neither_always_nor_never_solved() -> None:
    task = Expressions()
    parents = task.seeds(30, 0)
    rates = {p.id: (0.5, 0.0, 1.0)[i % 3] for i, p in enumerate(parents)}
    found = Imagination(task, []).imagine(parents, [], Wanted(400, 1), rates)
    by_rate = Counter(rates[p.origin.rpartition(":")[2]] for p in found.problems)
    assert by_rate[0.5] > 1.5 * by_rate[0.0] and by_rate[0.5] > 1.5 * by_rate[1.0]
    known = {p.id: p for p in parents}
    for problem in found.problems:
        name, _, parent = problem.origin.rpartition(":")
        assert not (rates[parent] == 0.0 and "harder" in name)
        assert not (rates[parent] == 1.0 and "easier" in name)
        if name == "harder":
            assert num_operators(problem.text) == num_operators(known[parent].text) + 1


def test_operators_compose_and_say_so() -> None:
    task = Expressions()
    found = Imagination(task, []).imagine(task.seeds(50, 0), [], Wanted(300, 1))
    composed = [p for p in found.problems if "+" in p.origin.partition(":")[0]]
    assert 0.05 < len(composed) / len(found.problems) < 0.4


def test_an_instruction_that_every_problem_repeats_gives_nothing_away() -> None:
    head = "Read the following problem with care and answer it with one number in a box at the end:"
    held_out = [Problem(str(i), f"{head} how many legs have {i} hens?", "1") for i in range(30)]
    guard = Decontamination(held_out, str.lower)
    assert guard.num_common > 0
    assert guard.leak(f"{head} how many wheels have 7 carts and 5 bicycles together?") == ""
    assert guard.leak(held_out[3].text) == "key"
    told = "In a field far away from here a grey horse once met nineteen hens and four cows"
    secret = Decontamination([*held_out, Problem("x", f"{told}: legs?", "1")], str.lower)
    assert secret.leak(f"{told}. How many heads?") == "n-gram"


def test_a_rung_that_is_too_hard_yet_is_not_tried() -> None:
    task = Expressions()
    found = Imagination(task, []).imagine(task.seeds(80, 0), [], Wanted(100, 1, hardest=6.0))
    assert len(found.problems) == 100 and found.refused["too hard yet"] > 20
    assert {p.difficulty for p in found.problems} == {5.0, 6.0}
