"""What each page shows, as plain values for its template."""

from typing import Any
from urllib.parse import quote, urlencode

from agent.arena.report import facts, standing_rows
from agent.arena.standings import standings
from agent.reports.compare_rounds import compare_rounds
from agent.reports.critic_drift import critic_drift
from agent.viewer.forms import cell
from search.errors import NotFoundError, UsageError
from store import viewing
from store.arena import arena_tasks, chosen_task, votes_cast
from store.database import Store
from store.evaluations import samples_of
from store.inspection import list_rounds, read_tree
from store.names import is_served, run_named
from store.states import ENDED, SEARCH_STOPS

SCRIPTS = (
    "vendor/htm-preact.js",
    "vendor/d3-hierarchy.js",
    "vendor/uPlot.iife.min.js",
    "vendor/diff.js",
    "tree.js",
)
NODES = 2_000
"""Nodes of the table without a script, at most."""
MAX_ID = 2**63 - 1


def runs(store: Store) -> dict[str, Any]:
    with store.session() as session:
        return {"trail": [("Runs", "")], "runs": viewing.runs_shown(session)}


def one_run(store: Store, name: str) -> dict[str, Any]:
    rounds = [r for r in list_rounds(store) if r["run"] == name]
    with store.session() as session:
        row = run_named(session, name)
        measured = viewing.accuracies(session)
        found = {
            "name": row.name,
            "task": row.task,
            "seed": row.seed,
            "config_sha": row.config_sha,
            "created_ts": row.created_ts,
            "code_version": row.code_version,
            "is_served": is_served(row),
        }
    greedy = {m["policy"]: m for m in measured if m["mode"] == "greedy"}
    policy = rounds[0]["policy"] if rounds else None
    policies = [policy]
    for r in rounds:
        policy = r["candidate"] if r["stage"] == "promoted" else policy
        policies.append(policy)
        r["after"] = greedy.get(policy) if r["stage"] in ENDED else None
    return {
        "trail": [(name, "")],
        "run": found,
        "rounds": rounds[::-1],
        "curves": _curves(policies, measured),
        "is_live": any(r["stage"] not in ENDED for r in rounds),
    }


def one_round(
    store: Store, run: str, number: int, kind: str, words: str, stop: str, page: int
) -> dict[str, Any]:
    if kind and kind not in viewing.FILTERS:
        raise UsageError(f"there is no filter {kind!r}", f"one of {', '.join(viewing.FILTERS)}")
    found = [r for r in list_rounds(store) if r["run"] == run and r["round"] == number]
    if not found:
        raise NotFoundError(f"run {run!r} has no round {number}", "see the list of runs")
    with store.session() as session:
        searches, total = viewing.searches_shown(
            session, run, number, kind=kind, words=words, stop=stop, page=page
        )
    return {
        "trail": [(run, f"/runs/{_quoted(run)}"), (f"round {number}", "")],
        "run": run,
        "round": found[0],
        "searches": searches,
        "total": total,
        "page": page,
        "pages": max(1, -(-total // viewing.PAGE)),
        "kind": kind,
        "words": words,
        "stop": stop,
        "kinds": list(viewing.FILTERS),
        "stops": list(SEARCH_STOPS),
        "query": urlencode({"kind": kind, "words": words, "stop": stop}),
        "is_live": found[0]["stage"] not in ENDED,
    }


def compare(store: Store, run: str, before: int, after: int) -> dict[str, Any]:
    measured: list[dict[str, Any]] = []
    why = ""
    try:
        measured = compare_rounds(store, run, before, after)
    except UsageError as error:
        why = error.message
    with store.session() as session:
        rows = viewing.side_by_side(session, run, before, after)
    return {
        "trail": [(run, f"/runs/{_quoted(run)}"), (f"rounds {before} and {after}", "")],
        "run": run,
        "before": before,
        "after": after,
        "measured": measured,
        "why": why,
        "rows": rows,
    }


def critics(store: Store, run: str) -> dict[str, Any]:
    with store.session() as session:
        run_named(session, run)
    return {
        "trail": [(run, f"/runs/{_quoted(run)}"), ("critics", "")],
        "title": "Critics against the truth",
        "what": "Outcome scores that searches were given, by round. Truth is the reference "
        "answer, which no critic sees.",
        "choices": [],
        "rows": critic_drift(store, run),
    }


def checkpoints(store: Store) -> dict[str, Any]:
    with store.session() as session:
        rows = viewing.checkpoints_shown(session)
    return {
        "trail": [("Checkpoints", "")],
        "title": "Checkpoints",
        "what": "Weights with the ones that they were made from, oldest first.",
        "choices": [],
        "rows": [
            {
                "role": r["role"],
                "version": r["version"],
                "made from": r["parent"] or "-",
                "run": r["run"] or "-",
                "round": r["round"] or "-",
                "status": r["status"],
                "MB": round(r["bytes"] / 1e6, 1),
                "measured": _report(r["report"]),
            }
            for r in rows
        ],
    }


def samples(store: Store, run: str, policy: str, mode: str, show: str) -> dict[str, Any]:
    wanted = {"all": None, "right": True, "wrong": False}
    if show not in wanted:
        raise UsageError(f"there is no choice {show!r}", "one of all, right, wrong")
    with store.session() as session:
        measured = viewing.accuracies(session)
        policies = list(dict.fromkeys(m["policy"] for m in reversed(measured)))
        policy = policy or (policies[0] if policies else "")
        found = samples_of(session, policy, mode, wanted[show], 200)
    modes = list(dict.fromkeys(m["mode"] for m in measured if m["policy"] == policy))
    return {
        "trail": [(run, f"/runs/{_quoted(run)}"), ("samples", "")] if run else [("Samples", "")],
        "title": "What was written for held-out problems",
        "what": f"Policy {policy}, 200 problems at most.",
        "choices": [
            ("policy", policies, policy),
            ("mode", modes, mode),
            ("show", list(wanted), show),
        ],
        "rows": [
            {
                "problem": s.problem,
                "reference": s.reference,
                "answer": s.answer,
                "right": "right" if s.is_correct else "wrong",
                "text": s.text,
            }
            for s in found
        ],
    }


def arena(store: Store, task: str | None, can_vote: bool) -> dict[str, Any]:
    with store.session() as session:
        tasks = arena_tasks(session)
        name = task or (tasks[0] if tasks else "")
        votes = votes_cast(session, chosen_task(session, name)) if name else []
    values: dict[str, Any] = {
        "trail": [("Arena", "")],
        "task": name,
        "tasks": tasks,
        "rows": [],
        "facts": [],
        "judges": [],
        "why": "",
        "can_vote": can_vote and bool(name),
    }
    try:
        found = standings(votes)
    except UsageError as error:
        return values | {"why": f"{error.message}. {error.fix}"}
    judges = [{"judge": j.judge, "votes": j.n, "p": j.p} for j in found.judges]
    return values | {"rows": standing_rows(found), "facts": facts(found), "judges": judges}


def one_problem(store: Store, problem_id: int) -> dict[str, Any]:
    with store.session() as session:
        found = viewing.problem_shown(session, checked(problem_id))
    return {"trail": [(f"problem {problem_id}", "")], "problem": found}


def one_search(store: Store, search_id: int) -> dict[str, Any]:
    with store.session() as session:
        found = viewing.search_shown(session, checked(search_id))
        texts = viewing.texts_shown(session, search_id)
    return {"trail": _trail(found), "search": found, "texts": texts, "scripts": SCRIPTS}


def table(store: Store, search_id: int) -> dict[str, Any]:
    with store.session() as session:
        found = viewing.search_shown(session, checked(search_id))
    nodes = read_tree(store, search_id)
    return {
        "trail": [
            *_trail(found)[:-1],
            (f"search {search_id}", f"/searches/{search_id}"),
            ("table", ""),
        ],
        "search": found,
        "nodes": nodes[:NODES],
        "total": len(nodes),
    }


def checked(number: int) -> int:
    if not 0 <= number <= MAX_ID:
        raise NotFoundError(f"there is no number {str(number)[:40]}", "see the list of runs")
    return number


def _trail(search: dict[str, Any]) -> list[tuple[str, str]]:
    run, number = search["run"], search["round"]
    link = f"/runs/{_quoted(run)}"
    here = (f"search {search['id']}", "")
    return [(run, link), (f"round {number}", f"{link}/rounds/{number}"), here]


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _curves(policies: list[str | None], measured: list[dict[str, Any]]) -> dict[str, Any]:
    """By mode the accuracy in per cent after each round, 0 being before the first."""
    found: dict[str, list[float | None]] = {}
    for mode in dict.fromkeys(m["mode"] for m in measured):
        of = {
            m["policy"]: 100 * m["correct"] / m["n"]
            for m in measured
            if m["mode"] == mode and m["n"]
        }
        values = [of.get(p) if p else None for p in policies]
        if any(v is not None for v in values):
            found[mode] = values
    return {"rounds": list(range(len(policies))), "modes": found}


def _report(report: dict[str, Any]) -> str:
    """The few figures of a training report that say how good it is."""
    return ", ".join(
        f"{key} {cell(value)}"
        for key, value in list(report.items())
        if isinstance(value, int | float) and not isinstance(value, bool)
    )[:200]
