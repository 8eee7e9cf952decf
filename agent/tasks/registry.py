"""The tasks by name."""

from pathlib import Path

from agent.tasks.expressions import Expressions
from agent.tasks.game24 import Game24
from agent.tasks.jsonl import Jsonl
from agent.tasks.stories import Stories
from agent.tasks.task import Task
from search.errors import UsageError


def open_task(name: str, problems: str) -> Task:
    """The task of that name. Raises UsageError or TaskError before any model is touched."""
    if name == "jsonl":
        if not problems:
            raise UsageError("task jsonl needs a file of problems", "add --problems FILE.jsonl")
        return Jsonl(Path(problems).expanduser())
    if problems:
        raise UsageError(
            f"task {name!r} makes its own problems; --problems {problems!r} has no use there",
            "add --task jsonl, or leave --problems out",
        )
    tasks: dict[str, type[Expressions | Stories | Game24]] = {
        "expressions": Expressions,
        "stories": Stories,
        "game24": Game24,
    }
    return tasks[name]()
