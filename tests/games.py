"""Games whose best play is known, as worlds to search: the opponent answers inside the state.

An option is our move and the reply of an opponent that plays perfectly, so a search for the best
value is a search for a win.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from search.interfaces import EvaluateRequest, Evaluation, ExpandRequest, Proposal, Rollout
from search.score import Score
from search.state import Option, State

NimHeaps = tuple[int, ...]
Board = str
"""Nine characters of X, O and dot; X is to move."""

LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


def nim_sum(heaps: NimHeaps) -> int:
    """Not 0 exactly where the player to move can win (Bouton 1901)."""
    total = 0
    for heap in heaps:
        total ^= heap
    return total


def nim_moves(heaps: NimHeaps) -> list[NimHeaps]:
    return [
        (*heaps[:i], left, *heaps[i + 1 :]) for i, heap in enumerate(heaps) for left in range(heap)
    ]


def nim_reply(heaps: NimHeaps) -> NimHeaps:
    """A perfect opponent's move: to nim-sum 0 where there is one, else the smallest step."""
    return min(nim_moves(heaps), key=lambda after: (nim_sum(after) != 0, -sum(after)))


def winner(board: Board) -> str:
    for line in LINES:
        first = board[line[0]]
        if first != "." and all(board[i] == first for i in line):
            return first
    return ""


def placed(board: Board, mark: str) -> list[Board]:
    return [board[:i] + mark + board[i + 1 :] for i, c in enumerate(board) if c == "."]


@cache
def outcome(board: Board, to_move: str) -> int:
    """1 where X wins with best play, 0 for a draw, -1 where O wins."""
    won = winner(board)
    if won or "." not in board:
        return {"X": 1, "O": -1, "": 0}[won]
    values = [outcome(b, "O" if to_move == "X" else "X") for b in placed(board, to_move)]
    return max(values) if to_move == "X" else min(values)


def board_reply(board: Board) -> Board:
    """O's best move."""
    return min(placed(board, "O"), key=lambda b: outcome(b, "X"))


Moves = list[tuple[str, float | None]]
"""(position after our move and the reply, value if the game is over)."""


@dataclass(frozen=True, slots=True)
class Game:
    """Proposes every move as equally likely; scores the end of the game, knows nothing before."""

    moves: Callable[[str], Moves]

    def propose(self, requests: Sequence[ExpandRequest]) -> list[Proposal]:
        return [self._proposal(r.state) for r in requests]

    def _proposal(self, state: State) -> Proposal:
        text = state.options[-1].text if state.options else state.prompt
        options = [
            Option((i,), after, 0.0, "boundary" if value is None else "end")
            for i, (after, value) in enumerate(self.moves(text))
        ]
        return Proposal(tuple(options))

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> list[Evaluation]:
        return [self._evaluation(r.state) for r in requests]

    def _evaluation(self, state: State) -> Evaluation:
        if not state.is_terminal:
            return Evaluation(0.5)
        before = state.options[-2].text if state.depth > 1 else state.prompt
        value = dict(self.moves(before))[state.options[-1].text]
        score = Score("outcome", "rules", value)
        return Evaluation(value, (), (Rollout(state, state.depth, 0, None, score, str(value)),))


def nim_options(text: str) -> Moves:
    """Who takes the last stick wins. A position is written `3 4 5`."""
    found: Moves = []
    for heaps in nim_moves(tuple(map(int, text.split()))):
        if not sum(heaps):
            found.append((" ".join(map(str, heaps)), 1.0))
            continue
        reply = nim_reply(heaps)
        # Trailing blanks keep apart moves of ours that the reply makes equal.
        found.append((" ".join(map(str, reply)) + " " * len(found), None if sum(reply) else 0.0))
    return found


def board_options(text: str) -> Moves:
    found: Moves = []
    for board in placed(text[:9], "X"):
        if winner(board) or "." not in board:
            found.append((board, 1.0 if winner(board) else 0.5))
            continue
        reply = board_reply(board)
        is_over = bool(winner(reply)) or "." not in reply
        value = (0.0 if winner(reply) else 0.5) if is_over else None
        found.append((reply + " " * len(found), value))
    return found


NIM = Game(nim_options)
TIC_TAC_TOE = Game(board_options)
