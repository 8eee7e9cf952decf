"""`ratchet inspect`: rounds, searches, trees, trajectories and plain SQL."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text
from rich.tree import Tree

from agent.cli.output import emit, table
from agent.config.settings import Config
from agent.reports.critic_drift import critic_drift
from store.database import Store, open_store
from store.inspection import (
    Answer,
    ask_question,
    ask_sql,
    list_rounds,
    list_searches,
    list_trajectories,
    read_siblings,
    read_tree,
)
from store.questions import BY_NAME, QUESTIONS


def _store(config: Config) -> tuple[Store, str]:
    return open_store(config.store, must_exist=True), config.run


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        emit(rows)
    else:
        table(rows)


def rounds(config: Config, as_json: bool) -> None:
    _print(list_rounds(_store(config)[0]), as_json)


def critics(config: Config, as_json: bool) -> None:
    store, run = _store(config)
    _print(critic_drift(store, run), as_json)


def searches(
    config: Config,
    round_number: int | None,
    unsolved: bool,
    gained: bool,
    limit: int,
    as_json: bool,
) -> None:
    store, run = _store(config)
    _print(list_searches(store, run, round_number, unsolved, gained, limit), as_json)


def trajectories(
    config: Config,
    round_number: int | None,
    kept: bool,
    limit: int,
    as_json: bool,
) -> None:
    store, run = _store(config)
    found = list_trajectories(store, run, round_number, kept, limit)
    if as_json:
        emit(found)
    else:
        table([{k: v for k, v in row.items() if k != "steps"} for row in found])


def tree(
    config: Config,
    search_id: int,
    after: int | None,
    show_all: bool,
    as_json: bool,
) -> None:
    nodes = read_tree(_store(config)[0], search_id, after)
    if as_json:
        emit(nodes)
        return
    branches: dict[int, Tree] = {}
    hidden: dict[int, int] = {}
    for node in nodes:
        if node["parent"] is None:
            branches[node["ix"]] = Tree(_label(node))
        elif node["parent"] in branches:
            is_idle = node["n"] == 0 and not any(n["parent"] == node["ix"] for n in nodes)
            if is_idle and not show_all:
                hidden[node["parent"]] = hidden.get(node["parent"], 0) + 1
            else:
                branches[node["ix"]] = branches[node["parent"]].add(_label(node))
    for ix, count in hidden.items():
        branches[ix].add(f"[dim]+{count} never taken (--all shows them)[/]")
    if branches:
        Console(highlight=False, soft_wrap=True).print(branches[0])
    else:
        print("the search has no tree yet", file=sys.stderr)


def compare(config: Config, before: int, after: int, as_json: bool) -> None:
    from agent.reports.compare_rounds import (
        compare_rounds,  # brings torch, which other questions do without
    )

    store, run = _store(config)
    rows = compare_rounds(store, run, before, after)
    if as_json:
        emit(rows)
        return
    table(
        [
            {
                "mode": r["mode"],
                "n": r["n"],
                f"round {before}": f"{100 * r['before']:.1f} %",
                f"round {after}": f"{100 * r['after']:.1f} %",
                "gained": r["gained"],
                "lost": r["lost"],
                "same": r["same"],
                "points [95 %]": f"{100 * r['difference']:+.1f} [{100 * r['low']:+.1f}, "
                f"{100 * r['high']:+.1f}]",
                "p": f"{r['p']:.2g}",
            }
            for r in rows
        ]
    )


def siblings(config: Config, search_id: int, parent: int, as_json: bool) -> None:
    rows = read_siblings(_store(config)[0], search_id, parent)
    if as_json:
        emit(rows)
        return
    console = Console(highlight=False, soft_wrap=True)
    for row in rows:
        console.print(_label(row | {"text": ""}).strip() + f"  [dim]node {row['ix']}[/]")
        line = Text("  ")
        for kind, words in row["difference"]:
            style = {"added": "green", "missing": "red strike"}.get(kind, "")
            sign = {"added": "{+%s+}", "missing": "[-%s-]"}.get(kind, "%s")
            line.append(sign % words.replace("\n", "↵"), style)
        console.print(line)


def plot(config: Config, out: str) -> None:
    from agent.reports.plots import plot_run

    store, run = _store(config)
    plot_run(store, run, Path(out).expanduser())
    print(out)


def _label(node: dict[str, Any]) -> str:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    critics = " ".join(
        f"{name} {', '.join(number(v) for v in values)}" for name, values in node["critics"].items()
    )
    mark = {"end": " ■", "length": " …"}.get(node["stop"] or "", "")
    unsound = f" [red]unsound: {escape(node['unsound'])}[/]" if node["unsound"] else ""
    step = escape((node["text"] or "").strip())
    lead = "[green]▸[/] " if node.get("principal") else ""
    return (
        f"{lead}[bold]{step}[/]{mark}  [dim]N {node['n']}  Q {number(node['q'])}  "
        f"P {number(node['p'])}  {critics}[/]{unsound}"
    )


def sql(config: Config, statement: str, limit: int, timeout_s: float, as_json: bool) -> None:
    answer = ask_sql(_store(config)[0], statement, limit, timeout_s)
    _print_answer(answer, limit, as_json)


def ask(
    config: Config,
    name: str,
    given: dict[str, Any],
    shows_sql: bool,
    limit: int,
    timeout_s: float,
    as_json: bool,
) -> None:
    if not name:
        _print(
            [
                {"question": q.name, "asks": q.asks, "of": ", ".join(q.parameters)}
                for q in QUESTIONS
            ],
            as_json,
        )
        return
    if shows_sql and name in BY_NAME:
        print(BY_NAME[name].sql)
        return
    store, run = _store(config)
    answer = ask_question(store, name, given | {"run": run}, limit, timeout_s)
    _print_answer(answer, limit, as_json)


def _print_answer(answer: Answer, limit: int, as_json: bool) -> None:
    _print(
        [dict(zip(answer.columns, map(_cell, row), strict=True)) for row in answer.rows], as_json
    )
    if answer.is_cut:
        print(f"truncated after {limit} rows; raise --limit", file=sys.stderr)


def _cell(value: Any) -> Any:
    return f"<{len(value)} bytes>" if isinstance(value, bytes | memoryview) else value
