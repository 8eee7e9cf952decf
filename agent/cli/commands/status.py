"""`ratchet status`: who works on which run, and how its actors are."""

import time
from typing import Any

from agent.cli.output import emit, table
from agent.config.settings import Config
from store.database import now_us, read_store
from store.leases import clock_us, left_us
from store.names import chosen_run, run_named
from store.rounds import actors_of, last_round, search_counts
from store.states import ActorState


def run(config: Config, as_json: bool) -> None:
    store = read_store(config.store)
    with store.session() as session:
        found = run_named(session, chosen_run(session, config.run, config.names_run))
        last = last_round(session, found.id)
        counts = search_counts(session, last.id) if last else {}
        actors = actors_of(session, found.id)
        is_held = left_us(found, clock_us(session)) > 0
    document: dict[str, Any] = {
        "run": found.name,
        "task": found.task,
        "store": config.shown_store,
        "worked_on_by": found.owner if is_held else None,
        "round": last.number if last else None,
        "stage": last.stage if last else None,
        "searches": counts,
        "actors": [
            {
                "role": a.role,
                "state": a.state if is_held else ActorState.STOPPED,
                "version": a.version,
                "device": a.device,
                "pid": a.pid,
                "restarts": a.num_restarts,
                "seen_s_ago": round((now_us() - a.seen_ts) / 1e6, 1),
            }
            for a in actors
        ],
    }
    if as_json:
        emit(document)
        return
    who = f"worked on by {document['worked_on_by']}" if is_held else "nobody works on it"
    print(f"run {found.name!r}, task {found.task}: {who}")
    if last:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(last.started_ts / 1e6))
        shown = ", ".join(f"{num} {status}" for status, num in counts.items()) or "none yet"
        print(f"round {last.number}: {last.stage}, started {since} UTC, searches: {shown}")
    table(document["actors"])
