"""Judges that need nobody's time: a task's verifier, and a model that is asked both ways round."""

from collections.abc import Iterator, Sequence

from agent.arena.ballots import Ballot, BallotBox, pairs_of
from agent.imagination.judge import Judge
from store.arena import AnsweredProblem, CastVote
from store.states import Choice

QUESTION = (
    "Here are a problem and two answers to it.\n\nProblem: {problem}\n\nFirst answer: {left}\n\n"
    "Second answer: {right}\n\nIs the first answer better than the second one? Say yes or no."
)


def verified(task: str, problems: Sequence[AnsweredProblem]) -> Iterator[CastVote]:
    """A vote on every pair of different texts, by which of them is right: both right is a tie."""
    for problem in problems:
        for left, right in pairs_of(problem):
            if left.is_correct == right.is_correct:
                choice = Choice.TIE if left.is_correct else Choice.BAD
            else:
                choice = Choice.LEFT if left.is_correct else Choice.RIGHT
            yield CastVote(problem.key, left, right, choice, f"verifier:{task}")


def asked(judge: Judge, ballots: Sequence[Ballot]) -> list[Choice | None]:
    """What a model says of each pair. It is asked twice, the second time with the answers changed
    about; who prefers the first both times, or neither time, has said nothing but that: a tie. None
    where it did not answer. Raises ResourceError where it cannot be asked."""
    questions = []
    for b in ballots:
        questions.append(QUESTION.format(problem=b.problem, left=b.left, right=b.right))
        questions.append(QUESTION.format(problem=b.problem, left=b.right, right=b.left))
    told = judge.verdicts(questions)
    found: list[Choice | None] = []
    for one, turned in zip(told[::2], told[1::2], strict=True):
        if one not in ("yes", "no") or turned not in ("yes", "no"):
            found.append(None)
        elif one == turned:
            found.append(Choice.TIE)
        else:
            found.append(Choice.LEFT if one == "yes" else Choice.RIGHT)
    return found


def cast_by_model(
    box: BallotBox, judge: Judge, num_votes: int, batch: int = 16
) -> Iterator[tuple[int, int]]:
    """Show a model so many pairs, or all that are left to compare; after each batch how many were
    shown and how many votes cast. A pair that it says nothing about has no vote."""
    num_cast, num_shown = 0, 0
    while num_shown < num_votes:
        ballots: list[Ballot] = []
        while len(ballots) < min(batch, num_votes - num_shown):
            ballot = box.ballot()
            if ballot is None:
                break
            ballots.append(ballot)
        if not ballots:
            return
        num_shown += len(ballots)
        for ballot, choice in zip(ballots, asked(judge, ballots), strict=True):
            if choice is None:
                box.drop(ballot.number)
                continue
            box.cast(ballot.number, choice)
            num_cast += 1
        yield num_shown, num_cast
