"""Retention: old rounds keep the paths that were trained on, with their siblings, and no more.

Of a trimmed search stay its row, its trajectories, the nodes on the path of every trajectory that a
dataset took and the children of those nodes, so that its preference pairs stay what they were.
Other nodes, their texts and scores, and the log of simulations go; `searches.is_trimmed` says so.
"""

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session

from store.database import Store
from store.names import run_named
from store.schema import (
    CriticScore,
    DatasetItem,
    NodeRow,
    NodeText,
    Round,
    Run,
    SearchRow,
    SimulationRow,
    TrajectoryRow,
)
from store.states import ENDED


@dataclass(slots=True)
class Freed:
    """What trimming takes away, in rows and (estimated) bytes."""

    searches: int = 0
    nodes: int = 0
    scores: int = 0
    simulations: int = 0
    num_bytes: int = 0


def rounds_to_trim(session: Session, run: str, keep: int) -> list[int]:
    """Ids of the run's ended rounds but the last `keep`, oldest first."""
    ids = session.scalars(
        select(Round.id)
        .join(Run, Run.id == Round.run_id)
        .where(Run.name == run, Round.stage.in_(ENDED))
        .order_by(Round.number)
    ).all()
    return list(ids[: max(0, len(ids) - keep)])


def trim(store: Store, run: str, keep: int, is_real: bool) -> Freed:
    """Trim what `rounds_to_trim` names, a search a transaction; without `is_real` only count.

    Interrupted, it goes on where it stopped. On SQLite the file shrinks at the end.
    """
    freed = Freed()
    with store.session() as session:
        run_named(session, run)
        rounds = rounds_to_trim(session, run, keep)
        searches = session.scalars(
            select(SearchRow.id)
            .where(SearchRow.round_id.in_(rounds), SearchRow.is_trimmed.is_(False))
            .order_by(SearchRow.id)
        ).all()
    for search_id in searches:
        with store.session() as session:
            _trim_search(session, search_id, is_real, freed)
    if is_real and searches and store.engine.dialect.name == "sqlite":
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM"))
    return freed


def _trim_search(session: Session, search_id: int, is_real: bool, freed: Freed) -> None:
    kept = _kept(session, search_id)
    gone = [
        ix
        for ix in session.scalars(select(NodeRow.ix).where(NodeRow.search_id == search_id))
        if ix not in kept
    ]
    of_search = CriticScore.search_id == search_id
    num_scores = session.scalar(
        select(func.count()).select_from(CriticScore).where(of_search, CriticScore.ix.in_(gone))
    )
    num_simulations = session.scalar(
        select(func.count()).select_from(SimulationRow).where(SimulationRow.search_id == search_id)
    )
    text_bytes = session.scalar(
        select(func.sum(func.length(NodeText.text))).where(
            NodeText.search_id == search_id, NodeText.ix.in_(gone)
        )
    )
    freed.searches += 1
    freed.nodes += len(gone)
    freed.scores += num_scores or 0
    freed.simulations += num_simulations or 0
    freed.num_bytes += (
        110 * len(gone)
        + int(text_bytes or 0)
        + 60 * (num_scores or 0)
        + 40 * (num_simulations or 0)
    )
    if not is_real:
        return
    for table in (CriticScore, NodeText, NodeRow):
        session.execute(delete(table).where(table.search_id == search_id, table.ix.in_(gone)))
    session.execute(delete(SimulationRow).where(SimulationRow.search_id == search_id))
    session.execute(update(SearchRow).where(SearchRow.id == search_id).values(is_trimmed=True))


def _kept(session: Session, search_id: int) -> set[int]:
    """The root, the path of each trajectory that a dataset took, and the children of all these."""
    children: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for ix, parent, step in session.execute(
        select(NodeRow.ix, NodeRow.parent_ix, NodeText.text)
        .join(NodeText, (NodeText.search_id == NodeRow.search_id) & (NodeText.ix == NodeRow.ix))
        .where(NodeRow.search_id == search_id, NodeRow.parent_ix.is_not(None))
        .order_by(NodeRow.ix)
    ):
        children[parent or 0].append((ix, step))
    kept = {0}
    taken = session.scalars(
        select(TrajectoryRow.steps)
        .join(DatasetItem, DatasetItem.trajectory_id == TrajectoryRow.id)
        .where(TrajectoryRow.search_id == search_id)
    )
    for steps in taken:
        here = 0
        for step in steps["steps"]:
            siblings = children[here]
            kept.update(ix for ix, _ in siblings)
            onward = next((ix for ix, words in siblings if words == step["text"]), None)
            if onward is None:
                break
            here = onward
    return kept
