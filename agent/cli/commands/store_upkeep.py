"""`ratchet store`: init, check, migrate, vacuum, export, dictionary."""

import sys
from dataclasses import asdict
from pathlib import Path

from agent.checkpoints.base_models import base_checkpoints
from agent.cli.output import emit, table
from agent.config.settings import Config
from agent.config.stored import with_problems_of
from agent.pictures.folder import PictureFolder
from agent.prompts import Prompts, prompts_at
from agent.tasks.registry import open_task
from search.errors import UsageError
from store.check import INVARIANTS, check_store
from store.checkpoints import find_checkpoint
from store.database import Session, migrate, open_store, read_store
from store.dictionary import dictionary as data_dictionary
from store.export import datasets_of, exported, write_rows
from store.names import chosen_run, run_named
from store.pairs import freeze_missing_pairs
from store.schema import Run
from store.trimming import trim


def init(config: Config) -> None:
    open_store(config.store).close()
    print(f"{config.shown_store} is ready", file=sys.stderr)


def check(config: Config, as_json: bool) -> None:
    found = check_store(read_store(config.store))
    rules = {i.name: i.rule for i in INVARIANTS}
    rows = [{"invariant": n, "violations": v, "rule": rules[n]} for n, v in found.items()]
    if as_json:
        emit(rows)
    else:
        table(rows)
    if any(found.values()):
        raise SystemExit(7)


def migrate_store(config: Config) -> None:
    migrate(config.store)
    store = open_store(config.store, must_exist=True)
    num = freeze_missing_pairs(store)
    store.close()
    if num:
        print(f"{num:,} preference pairs of earlier datasets were written down", file=sys.stderr)
    print(f"{config.shown_store} is up to date", file=sys.stderr)


def vacuum(config: Config, keep: int, is_real: bool, as_json: bool) -> None:
    store = open_store(config.store, must_exist=True) if is_real else read_store(config.store)
    with store.session() as session:
        run = chosen_run(session, config.run, config.names_run)
    freed = trim(store, run, keep, is_real)
    if as_json:
        emit(asdict(freed) | {"done": is_real})
        return
    table([{k.replace("num_", ""): v for k, v in asdict(freed).items()}])
    if not freed.searches:
        print(
            f"nothing to free: run {run!r} has no round older than its last {keep}",
            file=sys.stderr,
        )
    elif not is_real:
        print("nothing was changed; --yes frees this", file=sys.stderr)


def export(
    config: Config,
    task_name: str | None,
    kind: str,
    out: str,
    round_number: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    store = read_store(config.store)
    path = Path(out).expanduser()
    with store.session() as session:
        run = run_named(session, chosen_run(session, config.run, config.names_run))
        if task_name not in (None, run.task):
            raise UsageError(
                f"run {run.name!r} is of task {run.task!r}, not {task_name!r}", "leave --task out"
            )
        config = with_problems_of(config, run.config | {"task": run.task})
        datasets = datasets_of(session, run.name, round_number)
        prompts = _prompts(config, session, run)
        folder = PictureFolder(config.hosting.pictures_folder)
        rows = exported(
            session,
            kind,
            datasets,
            prompts.text,
            prompts.task.same_answer,
            lambda digest: str(folder.file_of(digest)),
        )
        num = write_rows(rows, path, overwrite)
    if as_json:
        emit({"kind": kind, "rows": num, "path": str(path)})
    else:
        print(f"{num} rows -> {path}", file=sys.stderr)


def _prompts(config: Config, session: Session, run: Run) -> Prompts:
    """As the run's policy was given them."""
    known = find_checkpoint(session, "policy", str(run.config.get("base", "")))
    is_there = known is not None and Path(known.path).is_dir()
    path = Path(known.path) if known and is_there else base_checkpoints(config)["policy"].path
    return prompts_at(path, open_task(config), config.prompt)


def dictionary() -> None:
    print(data_dictionary(), end="")
