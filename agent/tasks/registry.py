"""The tasks by name, those of other packages and of a file of one's own among them."""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from agent.config.settings import TASK_GROUP, Config
from agent.tasks.expressions import Expressions
from agent.tasks.game24 import Game24
from agent.tasks.guarded import guarded
from agent.tasks.jsonl import Files, Jsonl
from agent.tasks.ledger import Ledger
from agent.tasks.pictures import Pictures
from agent.tasks.stories import GermanStories, SpanishStories, Stories
from agent.tasks.task import Task
from search.errors import TaskError, UsageError

BUILT_IN: Mapping[str, type[Any]] = {
    kind.name: kind
    for kind in (Expressions, Stories, GermanStories, SpanishStories, Game24, Ledger, Pictures)
}


def open_task(config: Config) -> Task:
    """The task of that name. Raises UsageError or TaskError before any model is touched."""
    name = config.task
    if name == "jsonl":
        return _jsonl(config)
    for key in ("held_out", "labelled"):
        if getattr(config, key):
            raise UsageError(
                f"task {name!r} has its own problems; {_flag(key)} {getattr(config, key)!r} has "
                "no use there",
                f"add --task jsonl, or leave {_flag(key)} out",
            )
    if config.prompt.examples:
        raise UsageError(
            f"setting 'prompt.examples' is {config.prompt.examples!r}, but task {name!r} has its "
            "own problems",
            "add --task jsonl, or leave it out",
        )
    if name in BUILT_IN:
        if config.problems:
            raise UsageError(
                f"task {name!r} makes its own problems; --problems {config.problems!r} has no use "
                "there",
                "add --task jsonl, or leave --problems out",
            )
        if issubclass(BUILT_IN[name], Pictures):
            return BUILT_IN[name](config.hosting.pictures_folder)
        return BUILT_IN[name]()
    return _made(name, _class_of(name), config.problems)


def _jsonl(config: Config) -> Jsonl:
    if not config.problems and not config.held_out:
        raise UsageError("task jsonl needs a file of problems", "add --problems FILE.jsonl")
    files = Files(
        config.problems,
        config.held_out,
        config.labelled,
        config.prompt.examples,
        config.prompt.num_examples,
        config.bad_rows,
    )
    return Jsonl(files, config.answers, config.hosting.pictures_folder)


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _class_of(name: str) -> Any:
    """What `FILE.py:CLASS` or an entry point names. The file is code, and is run."""
    file, colon, attribute = name.rpartition(":")
    if not colon:
        known = {point.name: point for point in entry_points(group=TASK_GROUP)}
        if name not in known:
            names = ", ".join([*BUILT_IN, "jsonl", *sorted(known)])
            raise UsageError(f"there is no task {name!r}", f"use one of {names}, or FILE.py:CLASS")
        return known[name].load()
    return attribute_of(file, attribute, "task")


def attribute_of(file: str, attribute: str, what: str) -> Any:
    """A class or function of a Python file. Raises UsageError naming file and name."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError(f"{what} file {file!r} is not there", "write FILE.py:NAME")
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"ratchet_own_{path.stem}_{name}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{what} file {file!r} is no Python file", "write FILE.py:NAME")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # of somebody's own code: any
        raise UsageError(
            f"{what} file {file!r} cannot be run: {type(error).__name__}: {error}",
            f"try `python {file}`",
        ) from error
    if not hasattr(module, attribute):
        raise UsageError(f"{what} file {file!r} has no {attribute!r}", "check the name behind ':'")
    return getattr(module, attribute)


def _made(name: str, kind: Any, problems: str) -> Task:
    """The task of a class, which takes the value of --problems where it has a parameter for it."""
    if not (inspect.isclass(kind) and issubclass(kind, Task)):
        raise UsageError(f"{name!r} is no task", "derive the class from agent.tasks.task.Task")
    takes = [p for p in inspect.signature(kind).parameters.values() if p.kind != p.VAR_KEYWORD]
    if problems and not takes:
        raise UsageError(
            f"task {name!r} takes no file; --problems {problems!r} has no use there",
            "give its __init__ a parameter, or leave --problems out",
        )
    if not problems and any(p.default is p.empty for p in takes):
        raise UsageError(f"task {name!r} needs a file of problems", "add --problems FILE")
    try:
        make: Any = kind
        task: Task = make(problems) if problems else make()
        if not task.name:
            raise TaskError(f"task {name!r} has no name", 'set name = "..." in its class')
    except (UsageError, TaskError):
        raise
    except Exception as error:  # of somebody's own code: any
        raise UsageError(
            f"task {name!r} cannot be made: {type(error).__name__}: {error}", f"correct {name}"
        ) from error
    return guarded(task, name)
