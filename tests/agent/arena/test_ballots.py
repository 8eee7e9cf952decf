"""Blind ballots over a store, votes that need nobody, and what they come to."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.arena import ballots
from agent.arena.automatic import asked, cast_by_model, verified
from agent.arena.ballots import Ballot, BallotBox, check_judge
from agent.arena.standings import standings
from agent.imagination.judge import Verdict
from search.errors import NotFoundError, UsageError
from store.arena import arena_problems, arena_tasks, chosen_task, record_votes, votes_cast
from store.check import check_store
from store.database import Store, open_store
from store.states import Choice
from tests.agent.arena.votes import add_answers


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three policies on four problems: on problem 3 two of them wrote the same."""
    opened = open_store(f"sqlite:///{tmp_path}/s.db")
    add_answers(opened, "p1", [("one", False), ("one", False), ("one", True), ("same", True)])
    add_answers(opened, "p2", [("two", True), ("two", False), ("two", True), ("same ", True)])
    add_answers(opened, "p3", [("three", True), ("three", True), ("three", False), ("3", True)])
    return opened


def box(store: Store, judge: str = "ada", seed: int = 0) -> BallotBox:
    with store.session() as session:
        problems = arena_problems(session, "stories")
    ticks = iter(range(10**6))
    return BallotBox(store, "stories", problems, judge, seed, lambda: float(next(ticks)))


def test_a_judge_sees_each_pair_of_different_texts_once(store: Store) -> None:
    opened, seen = box(store), set()
    while ballot := opened.ballot():
        assert ballot.num_open == 11 - len(seen)
        vote = opened.cast(ballot.number, Choice.LEFT)
        names = frozenset((vote.left.contestant, vote.right.contestant))
        assert (vote.left.text, vote.right.text) == (ballot.left, ballot.right)
        assert ballot.left.strip() != ballot.right.strip()
        seen.add((vote.problem, names))
    assert len(seen) == 11  # 4 problems x 3 pairs, less the equal one
    assert box(store).ballot() is None  # another session of the same judge
    assert box(store, "bob").num_open == 11
    assert not any(check_store(store).values())


def test_a_vote_says_what_it_was_drawn_with(store: Store) -> None:
    opened = box(store)
    ballot = opened.ballot()
    assert ballot is not None
    opened.cast(ballot.number, Choice.RIGHT, 3)
    with store.session() as session:
        (vote,) = votes_cast(session, "stories")
    assert (vote.choice, vote.strength, vote.judge) == (Choice.RIGHT, 3, "ada")
    assert vote.seconds == 1.0 and vote.seed > 0 and 0 < vote.chance < 1
    assert vote.left_sha != vote.right_sha


def test_the_same_seed_draws_the_same_ballots(store: Store) -> None:
    def first(seed: int) -> list[tuple[str, str, str]]:
        opened = box(store, seed=seed)
        found = [opened.ballot() for _ in range(6)]
        return [(b.problem, b.left, b.right) for b in found if b is not None]

    assert first(1) == first(1) != first(2)


def test_a_ballot_is_cast_once_and_an_unknown_one_is_refused(store: Store) -> None:
    opened = box(store)
    ballot = opened.ballot()
    assert ballot is not None
    with pytest.raises(UsageError, match="no strength 4"):
        opened.cast(ballot.number, Choice.LEFT, 4)
    opened.cast(ballot.number, Choice.TIE)
    with pytest.raises(NotFoundError, match="is not open"):
        opened.cast(ballot.number, Choice.TIE)


def test_ballots_that_nobody_answers_come_again_when_there_are_too_many(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ballots, "MOST_OPEN", 3)
    opened = box(store)
    first, *others = [opened.ballot() for _ in range(4)]
    assert first is not None and all(others)
    assert opened.num_open == 11 - 3
    with pytest.raises(NotFoundError):
        opened.cast(first.number, Choice.LEFT)
    for _ in range(8):
        last = opened.ballot()
        assert last is not None
    assert opened.num_open == 11 - 3
    opened.drop(last.number)
    with pytest.raises(NotFoundError):
        opened.drop(last.number)
    assert opened.num_open == 11 - 3


def test_verifiers_vote_by_right_and_wrong_and_only_once(store: Store) -> None:
    with store.session() as session:
        problems = arena_problems(session, "stories")
    votes = list(verified("stories", problems))
    told = [v.choice for v in votes if v.problem == "k0"]
    assert told == [Choice.RIGHT, Choice.RIGHT, Choice.TIE]
    assert next(v.choice for v in votes if v.problem == "k1") is Choice.BAD
    for new in (11, 0):
        with store.session() as session:
            assert record_votes(session, votes) == new
    with store.session() as session:
        found = standings(votes_cast(session, "stories"))
    best = found.rows[0]
    assert best.contestant == "p2/greedy" and (best.wins, best.losses, best.ties) == (2, 1, 4)
    assert found.position.n == 0  # a verifier sees no sides
    assert "1 judge: intervals are of these judges" in " ".join(found.notes)


class Leaning:
    """Prefers longer texts, whichever side they are on; or the first always; or says nothing."""

    def __init__(self, way: str) -> None:
        self.way, self.num_asked = way, 0

    def verdicts(self, questions: Sequence[str]) -> list[Verdict]:
        self.num_asked += len(questions)
        if self.way == "first":
            return ["yes"] * len(questions)
        if self.way == "silent":
            return ["silent"] * len(questions)
        found: list[Verdict] = []
        for q in questions:
            first = q.split("First answer: ")[1].split("\n\nSecond")[0]
            second = q.split("Second answer: ")[1].split("\n\nIs the")[0]
            found.append("yes" if len(first) > len(second) else "no")
        return found


def test_a_model_is_asked_both_ways_and_a_lean_to_one_side_is_a_tie() -> None:
    pair = [Ballot(1, "q", "short", "much longer", 2), Ballot(2, "q", "much longer", "short", 1)]
    assert asked(Leaning("longer"), pair) == [Choice.RIGHT, Choice.LEFT]
    assert asked(Leaning("first"), pair) == [Choice.TIE, Choice.TIE]
    assert asked(Leaning("silent"), pair) == [None, None]


def test_a_model_votes_until_nothing_is_left_and_silence_writes_nothing(store: Store) -> None:
    judge = Leaning("longer")
    told = list(cast_by_model(box(store, "model:x"), judge, 100, batch=4))
    assert told[-1][1] == 11
    assert list(cast_by_model(box(store, "model:y"), Leaning("silent"), 6, batch=4)) == [
        (4, 0),
        (6, 0),
    ]
    with store.session() as session:
        assert len(votes_cast(session, "stories", ["model:x"])) == 11


def test_the_newest_evaluation_of_a_policy_and_mode_is_its_answer(store: Store) -> None:
    with store.session() as session:
        assert arena_tasks(session) == ["stories"] and chosen_task(session, None) == "stories"
        (problem, *_) = arena_problems(session, "stories", ["p1/greedy", "p3/greedy"])
        assert [a.text for a in problem.answers] == ["one", "three"]
        with pytest.raises(NotFoundError, match="no contestant 'p9/greedy'"):
            arena_problems(session, "stories", ["p9/greedy"])
        with pytest.raises(NotFoundError, match="no vote is by a judge 'eve'"):
            votes_cast(session, "stories", ["eve"])
        with pytest.raises(NotFoundError, match="no written answers of task 'game24'"):
            chosen_task(session, "game24")


def test_a_store_without_two_answers_says_what_to_do(tmp_path: Path) -> None:
    empty = open_store(f"sqlite:///{tmp_path}/e.db")
    with empty.session() as session, pytest.raises(NotFoundError, match="no written answers yet"):
        chosen_task(session, None)
    add_answers(empty, "p1", [("one", True)])
    with pytest.raises(UsageError, match="no problem of task 'stories' has two different"):
        box(empty)


def test_several_tasks_must_be_told_apart(store: Store) -> None:
    add_answers(store, "p1", [("x", True)], task="game24", key="g")
    with store.session() as session:
        assert arena_tasks(session) == ["game24", "stories"]
        with pytest.raises(UsageError, match="several tasks have answers"):
            chosen_task(session, None)
        assert chosen_task(session, "game24") == "game24"


@pytest.mark.parametrize("name", ["", "  ", "verifier:stories", "model:x"])
def test_a_judge_has_a_name_of_a_person(name: str) -> None:
    with pytest.raises(UsageError, match="no name of a judge"):
        check_judge(name)


def test_votes_on_another_task_are_none_on_this_one(store: Store) -> None:
    add_answers(store, "p1", [("x", True)], task="game24", key="g")
    opened = box(store)
    ballot = opened.ballot()
    assert ballot is not None
    opened.cast(ballot.number, Choice.LEFT)
    with store.session() as session:
        problems = arena_problems(session, "game24")
    with pytest.raises(UsageError, match="no problem of task 'game24' has two different"):
        BallotBox(store, "game24", problems, "ada", 0)


def test_a_form_of_an_earlier_box_names_no_ballot_of_a_later_one(store: Store) -> None:
    first, later = box(store), box(store)
    old = [b.number for _ in range(5) if (b := first.ballot()) is not None]
    for _ in range(5):
        later.ballot()
    for number in old:
        with pytest.raises(NotFoundError, match="is not open"):
            later.cast(number, Choice.LEFT)


def test_a_vote_that_was_cast_in_another_place_is_told_and_stays(store: Store) -> None:
    one, other = box(store), box(store)
    first, second = one.ballot(), other.ballot()
    assert first is not None and second is not None
    assert (first.problem, first.left) == (second.problem, second.left)  # the same seed
    one.cast(first.number, Choice.LEFT)
    with pytest.raises(UsageError, match="has voted on this pair before"):
        other.cast(second.number, Choice.RIGHT)
    with store.session() as session:
        assert [v.choice for v in votes_cast(session, "stories")] == [Choice.LEFT]


def test_sides_are_counted_of_people_alone(store: Store) -> None:
    opened = box(store)
    for _ in range(4):
        ballot = opened.ballot()
        assert ballot is not None
        opened.cast(ballot.number, Choice.LEFT)
    list(cast_by_model(box(store, "model:x"), Leaning("longer"), 100))
    with store.session() as session:
        found = standings(votes_cast(session, "stories"))
    assert (found.position.n, found.position.share_left) == (4, 1.0)
