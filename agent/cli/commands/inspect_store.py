"""`ratchet inspect`: rounds, searches, trees, trajectories and plain SQL."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from agent.cli.output import emit, table
from agent.config.settings import Config
from agent.pictures.folder import PictureFolder
from agent.reports.critic_drift import critic_drift
from agent.visible import shown, visible
from search.errors import NotFoundError
from store.database import Session, Store, read_store
from store.evaluations import last_measured, samples_of
from store.inspection import (
    Answer,
    ask_question,
    ask_sql,
    list_rounds,
    list_searches,
    list_trajectories,
    read_search,
    read_siblings,
    read_tree,
)
from store.names import chosen_run, run_named
from store.questions import BY_NAME, QUESTIONS
from store.rounds import rounds_of_run

LEGEND = (
    "[dim]number of the node, text; N visits, Q mean value, P prior; scores by critic\n"
    "▸ most visited line   ■ end of the text   … cut off by length[/]"
)


def _store(config: Config) -> tuple[Store, str]:
    store = read_store(config.store)
    with store.session() as session:
        return store, chosen_run(session, config.run, config.names_run)


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        emit(rows)
    else:
        table(rows)


def rounds(config: Config, run: str | None, as_json: bool) -> None:
    store, _ = _store(config)
    if run is not None:
        with store.session() as session:
            run_named(session, run)
    found = list_rounds(store)
    _print([row for row in found if run in (None, row["run"])], as_json)


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
    found = list_searches(store, run, round_number, unsolved, gained, limit)
    _print(found, as_json)
    _say_more(found, limit)


def _policy_of(session: Session, run: str, number: int | None) -> str:
    """The policy that an ended round left behind; without any round the one last measured."""
    from agent.reports.compare_rounds import models_by_round

    last = last_measured(session)
    if number is None and last is not None and not rounds_of_run(session, run):
        return last
    models = models_by_round(session, run)
    number = max(models) if number is None else number
    if number not in models:
        raise NotFoundError(
            f"run {run!r} has no ended round {number}",
            f"it has {', '.join(map(str, models))}; 0 is before the first one",
        )
    return models[number]["policy"]


def samples(
    config: Config,
    round_number: int | None,
    mode: str,
    right: bool | None,
    limit: int,
    as_json: bool,
) -> None:
    """Texts that a round's policy wrote for held-out problems."""
    store, run = _store(config)
    with store.session() as session:
        policy = _policy_of(session, run, round_number)
        found = samples_of(session, policy, mode, right, limit)
        is_measured = bool(found) or bool(samples_of(session, policy, mode, None, 1))
    if not is_measured:
        raise NotFoundError(
            f"nothing of mode {mode!r} was measured of policy {policy}",
            "see `ratchet inspect compare`, or measure it with `ratchet evaluate --store URL`",
        )
    if not found:
        print(f"none of its texts is {'right' if right else 'wrong'}", file=sys.stderr)
    if as_json:
        emit([asdict(sample) for sample in found])
        return
    console = Console(highlight=False)
    for sample in found:
        mark = "[green]right[/]" if sample.is_correct else "[red]wrong[/]"
        console.print(f"[bold]{shown(sample.problem.strip())}[/]")
        console.print(shown((sample.text or "(nothing was finished)").strip()))
        console.print(
            f"{mark}: {shown(sample.answer or 'no answer')}, reference "
            f"{shown(sample.reference or 'not stored')}\n"
        )


def _say_more(found: list[dict[str, Any]], limit: int) -> None:
    if len(found) == limit:
        print(f"the first {limit} are shown; --limit shows more", file=sys.stderr)


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
    _say_more(found, limit)


def tree(
    config: Config,
    search_id: int,
    after: int | None,
    show_all: bool,
    as_json: bool,
) -> None:
    store, _ = _store(config)
    nodes, search = read_tree(store, search_id, after), read_search(store, search_id)
    if as_json:
        emit({"search": search, "nodes": nodes})
        return
    branches: dict[int, Tree] = {}
    hidden: dict[int, int] = {}
    for node in nodes:
        if node["parent"] is None:
            branches[node["ix"]] = Tree(_label(node | {"text": "(the prompt)"}))
        elif node["parent"] in branches:
            is_idle = node["n"] == 0 and not any(n["parent"] == node["ix"] for n in nodes)
            if is_idle and not show_all:
                hidden[node["parent"]] = hidden.get(node["parent"], 0) + 1
            else:
                branches[node["ix"]] = branches[node["parent"]].add(_label(node))
    for ix, count in hidden.items():
        branches[ix].add(f"[dim]+{count} never taken (--all shows them)[/]")
    console = Console(highlight=False, soft_wrap=True)
    Console(highlight=False).print(_head(search))
    folder = PictureFolder(config.hosting.pictures_folder)
    for digest in search["pictures"]:
        console.print(f"picture {shown(str(folder.file_of(digest)))}")
    if branches:
        console.print(branches[0])
        console.print(LEGEND)
    else:
        print("the search has no tree yet", file=sys.stderr)


def _head(search: dict[str, Any]) -> str:
    verdict = {True: "right", False: "wrong", None: "not known to be right"}[search["correct"]]
    sure = "" if search["confidence"] is None else f", confidence {search['confidence']:.2f}"
    ending = search["stop"] or ("" if search["status"] == "failed" else "under way")
    return (
        f"[bold]{shown(search['problem'].strip())}[/]\n"
        f"answer {shown(search['answer'] or 'none')}, {verdict}"
        f" (reference {shown(search['reference'] or 'unknown')}){sure}\n"
        f"{search['status']}{': ' if ending else ''}{ending}, "
        f"{search['simulations'] or 0} simulations, {search['tokens'] or 0} tokens"
    )


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
            line.append(sign % visible(words.replace("\n", "↵")), style)
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
    unsound = f" [red]unsound: {shown(node['unsound'])}[/]" if node["unsound"] else ""
    step = shown((node["text"] or "").strip())
    lead = "[green]▸[/] " if node.get("principal") else ""
    return (
        f"{lead}[dim]{node['ix']}[/] [bold]{step}[/]{mark}  "
        f"[dim]N {node['n']}  Q {number(node['q'])}  "
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
