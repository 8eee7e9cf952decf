"""Which finished texts a round trusts: each rule by its figures."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from store.selection import Find, Judge, SelectionRule, distance

FIND = Find(1, "a", 1, "p", True, "7", 0.9, True, 0.8, ("x\n", "7"), 4)
RULE = SelectionRule(min_outcome=0.5)


def kept(rule: SelectionRule, *finds: Find) -> list[int]:
    return [s.find.id for s in rule.select(finds).kept]


def test_the_searchs_own_answer_is_kept_with_what_it_was_chosen_by() -> None:
    (selected,) = RULE.select([FIND, replace(FIND, id=2, is_chosen=False)]).kept
    assert selected.find.id == 1
    assert selected.scores == {
        "rank": 1,
        "outcome": 0.9,
        "is_sound": True,
        "confidence": 0.8,
        "support": 1.0,
        "wordings": 1,
    }


def test_each_rule_drops_what_it_names() -> None:
    for rule, find in (
        (RULE, replace(FIND, outcome=0.4)),
        (RULE, replace(FIND, outcome=None, is_sound=None)),
        (RULE, replace(FIND, is_sound=False)),
        (RULE, replace(FIND, answer=None)),
        (replace(RULE, min_confidence=0.9), FIND),
        (replace(RULE, max_tokens=3), FIND),
        (replace(RULE, min_support=1.1), FIND),
    ):
        assert kept(rule, find) == []
    assert kept(RULE, replace(FIND, outcome=None)) == [1]
    assert kept(replace(RULE, must_be_sound=False), replace(FIND, is_sound=False)) == [1]
    assert kept(replace(RULE, must_answer=False), replace(FIND, answer=None)) == [1]


def test_support_is_that_of_the_answer_that_is_kept() -> None:
    chosen = replace(FIND, outcome=0.1, is_sound=None)
    other = replace(FIND, id=2, answer="9", outcome=0.95, is_sound=None, is_chosen=False)
    rule = SelectionRule(min_outcome=0.0, min_support=0.8)
    assert kept(rule, chosen, other) == []
    assert kept(rule, replace(chosen, outcome=0.85), other) == [1]


def test_the_best_of_a_search_differ_by_the_steps_asked_for() -> None:
    others = [
        replace(FIND, id=2, is_chosen=False, outcome=0.95, steps=("x\n", "7")),
        replace(FIND, id=3, is_chosen=False, outcome=0.6, steps=("y\n", "7")),
        replace(FIND, id=4, is_chosen=False, outcome=0.7, steps=("z\n", "w\n", "7")),
        replace(FIND, id=5, is_chosen=False, answer="8"),
    ]
    assert kept(replace(RULE, best=3), FIND, *others) == [1, 4, 3]
    assert kept(replace(RULE, best=3, min_distance=2), FIND, *others) == [1, 4]


def test_wordings_of_a_problem_must_agree_and_the_best_supported_answer_counts() -> None:
    def text(id: int, search: int, answer: str, outcome: float, is_chosen: bool) -> Find:
        return Find(id, str(id), search, "p", is_chosen, answer, outcome, None, 1.0, (answer,), 1)

    finds = [
        text(1, 1, "7", 0.9, True),
        text(2, 2, "7", 0.8, True),
        text(3, 3, "5", 0.6, True),
        text(4, 3, "7", 0.55, False),
        text(5, 3, "7", 0.3, False),
    ]
    rule = SelectionRule(min_outcome=0.5, min_support=2.0)
    assert kept(rule, *finds) == [1, 2, 4]
    assert kept(replace(rule, min_support=2.3), *finds) == []
    assert rule.select(finds).kept[0].scores["support"] == 0.9 + 0.8 + 0.55


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_the_distance_is_a_symmetric_count_of_steps(left: list[str], right: list[str]) -> None:
    assert distance(left, right) == distance(right, left) <= max(len(left), len(right))
    assert distance(left, left) == 0


def test_each_search_that_gave_nothing_says_why_once() -> None:
    finds = [
        replace(FIND, id=1, search_id=1, family="a"),
        replace(FIND, id=2, search_id=2, family="b", answer=None),
        replace(FIND, id=3, search_id=3, family="c", is_sound=False),
        replace(FIND, id=4, search_id=4, family="d", outcome=0.1),
        replace(FIND, id=5, search_id=5, family="e", is_correct=False),
    ]
    selection = RULE.select(finds)
    assert [s.find.id for s in selection.kept] == [1, 5]
    assert selection.refused == {"no answer": 1, "unsound step": 1, "outcome score": 1}
    right = replace(RULE, must_be_correct=True).select(finds)
    assert right.kept == []
    assert right.refused == {
        "answer unknown": 2,
        "no answer": 1,
        "unsound step": 1,
        "wrong answer": 1,
    }


def test_support_is_of_values_and_a_reward_of_ones_own_is_asked_last() -> None:
    halves = [
        replace(FIND, id=1, search_id=1, answer="1/2", is_sound=None, outcome=0.5),
        replace(FIND, id=2, search_id=2, answer="0.5", is_sound=None, outcome=0.5),
        replace(FIND, id=3, search_id=3, answer="3", is_sound=None, outcome=0.9),
    ]
    judge = Judge(lambda a, b: {a, b} == {"1/2", "0.5"})
    assert [s.find.id for s in RULE.select(halves).kept] == [3]
    assert [s.find.id for s in RULE.select(halves, judge).kept] == [1, 2]
    asked: list[int] = []

    def reward(find: Find) -> float:
        asked.append(find.id)
        return 1.0 if find.id == 1 else 0.0

    found = RULE.select(halves, Judge(judge.same, reward))
    assert [s.find.id for s in found.kept] == [1] and asked == [1, 2]
    assert found.refused == {"reward": 1, "another answer": 1}
