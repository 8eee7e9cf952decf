"""The demonstrations that a policy was taught with, kept beside it and mixed into later training.

A policy forgets what it no longer sees. Only what it had before is replayed: demonstrations that
are new to it would teach it something that no round found.
"""

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from agent.checkpoints.publish import DEMONSTRATIONS
from agent.prompts import Prompts
from agent.tasks.task import Demonstration
from agent.training.examples import Example
from search.errors import CheckpointError, RatchetError
from search.randomness import derive_seed

MOST_KEPT = 10_000


def write_demonstrations(folder: Path, demonstrations: Sequence[Demonstration], seed: int) -> None:
    """`DEMONSTRATIONS` in the policy's folder: at most `MOST_KEPT` of them, drawn at random."""
    rng = random.Random(derive_seed(seed, "kept demonstrations"))
    kept = rng.sample(demonstrations, min(MOST_KEPT, len(demonstrations)))
    lines = (
        json.dumps({"problem": d.problem.text, "steps": d.steps}, ensure_ascii=False) for d in kept
    )
    (folder / DEMONSTRATIONS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_demonstrations(folder: Path, prompts: Prompts, max_positions: int) -> tuple[Example, ...]:
    """As training rows; none where the policy's folder has no such file.

    Raises CheckpointError that names the line for a row which cannot be learned.
    """
    path = folder / DEMONSTRATIONS
    if not path.is_file():
        return ()
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            text, steps = _row(json.loads(line))
            example = demonstration_example(prompts, text, steps)
            if len(example.tokens) > max_positions:
                raise ValueError(f"{len(example.tokens)} tokens; the policy holds {max_positions}")
        except (ValueError, RatchetError) as error:
            raise CheckpointError(
                f"{path}, line {number}: {error}",
                'write {"problem": "...", "steps": ["..."]} on each line, or remove the file',
            ) from error
        found.append(example)
    return tuple(found)


def _row(row: Any) -> tuple[str, Sequence[str]]:
    problem = row.get("problem") if isinstance(row, dict) else None
    steps = row.get("steps") if isinstance(row, dict) else None
    if not (isinstance(problem, str) and isinstance(steps, list) and steps):
        raise ValueError("no problem with a list of steps")
    if not all(isinstance(step, str) for step in steps):
        raise ValueError("a step that is not a string")
    return problem, steps


def demonstration_example(prompts: Prompts, problem: str, steps: Iterable[str]) -> Example:
    """A worked problem as a training row; the last step ends with the end of the text."""
    prompt = prompts.tokens(problem)
    worked = prompts.tokenizer.encode("".join(steps), is_start=False)
    return Example((*prompt, *worked, prompts.end_id), len(prompt))


def drawn(examples: Sequence[Example], num: int, seed: int) -> list[Example]:
    """`num` of them, or all where there are fewer, in an order of `seed`."""
    return random.Random(seed).sample(examples, min(num, len(examples)))
