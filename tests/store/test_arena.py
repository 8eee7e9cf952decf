"""Votes in both kinds of stores."""

from dataclasses import replace

from store.arena import CastVote, arena_problems, compared_by, record_votes, votes_cast
from store.check import check_store
from store.database import Store
from store.states import Choice
from tests.agent.arena.votes import add_answers


def test_a_vote_is_written_once_and_the_first_one_stays(store: Store) -> None:
    add_answers(store, "p1", [("one", True), ("one", False), ("one", True)])
    add_answers(store, "p2", [("two", True), ("two", True), ("two", False)])
    with store.session() as session:
        problems = arena_problems(session, "stories")
    votes = [CastVote(p.key, *p.answers, Choice.LEFT, "ada", 2, 1.5, 7, 0.5) for p in problems]
    turned = [replace(v, left=v.right, right=v.left) for v in votes]
    for given, new in ((votes[:1], 1), (votes, 2), (votes, 0), (turned, 0), ([], 0)):
        with store.session() as session:
            assert record_votes(session, given) == new
    with store.session() as session:
        found = votes_cast(session, "stories", ["ada"], ["p1/greedy", "p2/greedy"])
        assert len(compared_by(session, "stories", "ada")) == 3
        assert compared_by(session, "game24", "ada") == set()
    assert {(v.left, v.right, v.choice, v.strength) for v in found} == {
        ("p1/greedy", "p2/greedy", Choice.LEFT, 2)
    }
    assert {(v.seconds, v.seed, v.chance) for v in found} == {(1.5, 7, 0.5)}
    assert not any(check_store(store).values())
