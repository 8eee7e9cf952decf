"""`ratchet arena`: standings, votes in the terminal and of verifiers, export."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.arena.automatic import verified
from agent.arena.ballots import Ballot, BallotBox, check_judge
from agent.arena.bradley_terry import Ties
from agent.arena.report import facts, standing_rows, told
from agent.arena.standings import Standings, standings
from agent.cli.output import emit, table
from agent.config.settings import Config
from agent.visible import shown
from store.arena import (
    AnsweredProblem,
    arena_problems,
    chosen_task,
    exported_votes,
    record_votes,
    votes_cast,
)
from store.database import Store, open_store, read_store
from store.export import write_rows
from store.states import Choice

CHOICES = {"l": Choice.LEFT, "r": Choice.RIGHT, "t": Choice.TIE, "b": Choice.BAD}
BATCH = 500
"""Votes of a verifier in one transaction."""


def show_standings(
    config: Config,
    task: str | None,
    contestants: Sequence[str],
    judges: Sequence[str],
    ties: Ties,
    is_weighted: bool,
    as_json: bool,
) -> None:
    store = read_store(config.store)
    with store.session() as session:
        name = chosen_task(session, task)
        votes = votes_cast(session, name, judges, contestants)
    found = standings(votes, ties, is_weighted)
    if as_json:
        emit({"task": name} | told(found))
    else:
        _print(name, found)


def vote(
    config: Config, task: str | None, contestants: Sequence[str], judge: str, num_votes: int
) -> None:
    check_judge(judge)
    with opened_box(config, task, contestants, judge) as box:
        num_cast = 0
        while num_cast < num_votes:
            ballot = box.ballot()
            if ballot is None:
                print("nothing is left to compare for you", file=sys.stderr)
                break
            print(_ballot_text(ballot, num_cast + 1, num_votes))
            answer = _answered()
            if answer is None:
                break
            if answer == "s":
                box.drop(ballot.number)
                continue
            strength = int(answer[1:] or 1)
            box.cast(ballot.number, CHOICES[answer[0]], strength)
            num_cast += 1
    print(f"{num_cast} votes of {judge}; see `ratchet arena standings`", file=sys.stderr)


def verify(config: Config, task: str | None, contestants: Sequence[str], as_json: bool) -> None:
    store, name, problems = _answers(config, task, contestants)
    num_new, num_pairs = 0, 0
    try:
        for start in range(0, len(problems), BATCH):
            votes = list(verified(name, problems[start : start + BATCH]))
            num_pairs += len(votes)
            with store.session() as session:
                num_new += record_votes(session, votes)
    finally:
        store.close()
    if as_json:
        emit({"task": name, "problems": len(problems), "pairs": num_pairs, "new_votes": num_new})
        return
    print(
        f"{num_new:,} new votes on {num_pairs:,} pairs of different answers to "
        f"{len(problems):,} problems; see `ratchet arena standings`",
        file=sys.stderr,
    )


def export(config: Config, task: str | None, out: str, overwrite: bool, as_json: bool) -> None:
    store = read_store(config.store)
    path = Path(out).expanduser()
    with store.session() as session:
        votes = votes_cast(session, chosen_task(session, task))
    num = write_rows(exported_votes(votes), path, overwrite)
    if as_json:
        emit({"rows": num, "path": str(path)})
    else:
        print(f"{num} rows -> {path}", file=sys.stderr)


@contextmanager
def opened_box(
    config: Config, task: str | None, contestants: Sequence[str], judge: str
) -> Iterator[BallotBox]:
    store, name, problems = _answers(config, task, contestants)
    try:
        yield BallotBox(store, name, problems, judge, config.seed)
    finally:
        store.close()


def _answers(
    config: Config, task: str | None, contestants: Sequence[str]
) -> tuple[Store, str, list[AnsweredProblem]]:
    store = open_store(config.store, must_exist=True)
    try:
        with store.session() as session:
            name = chosen_task(session, task)
            return store, name, arena_problems(session, name, contestants)
    except BaseException:
        store.close()
        raise


def _ballot_text(ballot: Ballot, number: int, of: int) -> str:
    return (
        f"--- {number} of {of}, {ballot.num_open:,} open ---\n{shown(ballot.problem)}\n\n"
        f"[l] first\n{shown(ballot.left)}\n\n[r] second\n{shown(ballot.right)}\n"
    )


def _answered() -> str | None:
    """A choice, `s`, or None at the end of the input and for `q`."""
    while True:
        print("l, r, t (tie), b (both bad), s (skip), q (end)? ", end="", flush=True)
        line = sys.stdin.readline()
        word = line.strip().lower()
        if not line or word == "q":
            print()
            return None
        if word in ("s", *CHOICES) or (word[:1] in ("l", "r") and word[1:] in ("1", "2", "3")):
            return word
        print(f"{shown(word)!r} is none of these", file=sys.stderr)


def _print(task: str, found: Standings) -> None:
    table(standing_rows(found), f"arena of {task}")
    for line in facts(found):
        print(line)
