"""`ratchet status`: who works on which run, and how its actors are."""

import time
from typing import Any

from sqlalchemy import func, select

from agent.cli.output import emit, table
from agent.config.load import Config
from store.database import now_us, open_store
from store.leases import clock_us, left_us
from store.names import run_named
from store.schema import ActorRow, Round, SearchRow


def run(config: Config, as_json: bool) -> None:
    store = open_store(config.store, must_exist=True)
    with store.session() as session:
        found = run_named(session, config.run)
        last = session.scalars(
            select(Round).where(Round.run_id == found.id).order_by(Round.number.desc())
        ).first()
        found_counts = session.execute(
            select(SearchRow.status, func.count())
            .where(SearchRow.round_id == (last.id if last else 0))
            .group_by(SearchRow.status)
        )
        counts = {status: int(num) for status, num in found_counts}
        actors = session.scalars(
            select(ActorRow).where(ActorRow.run_id == found.id).order_by(ActorRow.role)
        ).all()
        is_held = left_us(found, clock_us(session)) > 0
    document: dict[str, Any] = {
        "run": found.name,
        "task": found.task,
        "store": config.store,
        "worked_on_by": found.owner if is_held else None,
        "round": last.number if last else None,
        "stage": last.stage if last else None,
        "searches": counts,
        "actors": [
            {
                "role": a.role,
                "state": a.state if is_held else "stopped",
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
        print(f"round {last.number}: {last.stage}, started {since} UTC, searches {counts}")
    table(document["actors"])
