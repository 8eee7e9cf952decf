"""`ratchet view`: pages over a store, and one search as a file."""

import os
import sys
import webbrowser
from pathlib import Path

from agent.arena.ballots import check_judge
from agent.cli.output import emit
from agent.config.settings import Config
from agent.rounds.code_version import code_version
from search.errors import ResourceError
from store.database import read_store


def run(config: Config, port: int, with_browser: bool, as_json: bool, judge: str = "") -> None:
    if judge:
        check_judge(judge)
    try:
        from agent.service import view_server
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"the viewer needs {error.name}, which is not installed",
            "pip install 'ratchet-llm[serve]'",
        ) from error
    read_store(config.store).close()  # one that is not there is told before anything listens

    def opened(url: str) -> None:
        if as_json:
            emit({"event": "launch", "url": url, "pid": os.getpid()})
            sys.stdout.flush()
        else:
            print(f"{config.shown_store} at {url} (Ctrl-C ends it)", file=sys.stderr)
        if with_browser and sys.stdout.isatty():
            webbrowser.open(url)

    raise SystemExit(view_server.run(config, port, opened, judge))


def export(config: Config, search: int, out: str) -> None:
    from agent.viewer.exported import search_page

    store = read_store(config.store)
    try:
        with store.session() as session:
            text = search_page(session, search, code_version())
    finally:
        store.close()
    path = Path(out).expanduser()
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResourceError(
            f"cannot write {path}: {error.strerror}", "choose another --out"
        ) from error
    print(path)
