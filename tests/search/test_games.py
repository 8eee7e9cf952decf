"""Games as a cross-check: from a won position the search never loses, at a modest budget."""

import random
from itertools import product

import pytest

from search import frontier
from search.mcts import Search
from search.settings import RootRule, SearchSettings, TreePolicy
from search.state import State
from tests.games import NIM, TIC_TAC_TOE, Game, nim_reply, nim_sum, outcome, placed, winner

SETTINGS = SearchSettings(
    leaves="states",
    simulations=1500,
    max_tokens=0,
    min_width=16,
    max_width=32,
    merge="tokens",
    final="best",
    stop_unchecked_value=1.0,
    exploration=1.5,
)
RULES: list[tuple[TreePolicy, RootRule]] = [
    ("puct", "same"),
    ("ucb", "same"),
    ("puct", "gumbel"),
]


def best_move(game: Game, position: str, rule: TreePolicy, root: RootRule) -> str:
    """Text after the first move of a won line or, without one, after the most visited move."""
    settings = SearchSettings(**SETTINGS.as_dict() | {"selection": rule, "root_selection": root})
    search = Search(State(position, (0,), position), settings, seed=1)
    frontier.run([search], game, game)
    chosen = search.result().chosen
    if chosen is not None and chosen.score == 1.0:
        return chosen.rollout.state.options[0].text
    return max(search.root.edges, key=lambda e: (e.visits, e.q or 0.0)).option.text


@pytest.mark.parametrize(("rule", "root"), RULES)
def test_nim_is_never_lost_from_a_won_position(rule: TreePolicy, root: RootRule) -> None:
    for heaps in [(1, 2), (3, 1), (1, 2, 2), (2, 3, 3), (1, 1, 2), (3, 2), (3, 4, 5)]:
        assert nim_sum(heaps)
        position, value = " ".join(map(str, heaps)), None
        while value is None:
            after = best_move(NIM, position, rule, root)
            value = dict(NIM.moves(position))[after]
            left = tuple(map(int, after.split()))
            # After a winning move the opponent, whatever it does, leaves us a won position.
            assert value == 1.0 or nim_sum(left), (position, after)
            position = after
        assert value == 1.0, heaps


@pytest.mark.parametrize(("rule", "root"), RULES)
def test_tic_tac_toe_is_never_lost_from_a_won_position(rule: TreePolicy, root: RootRule) -> None:
    rng = random.Random(0)
    boards = set[str]()
    while len(boards) < 8:
        board = "........."
        for mark in "XOXO":
            board = rng.choice(placed(board, mark))
        if not winner(board) and outcome(board, "X") == 1:
            boards.add(board)
    for start in sorted(boards):
        board = start
        while not winner(board) and "." in board:
            board = best_move(TIC_TAC_TOE, board, rule, root)[:9]
        assert winner(board) == "X", (start, board)


def test_the_opponent_of_the_cross_check_plays_perfectly() -> None:
    for heaps in product(range(4), repeat=3):
        if sum(heaps) and nim_sum(heaps):
            assert nim_sum(nim_reply(heaps)) == 0
    assert outcome(".........", "X") == 0
