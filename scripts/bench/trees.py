"""Stored trees of any size, their logs whole."""

from collections.abc import Sequence

from sqlalchemy import select

from store.database import open_store
from store.schema import NodeRow, NodeText, ProblemRow, SearchRow, SimulationRow


def add_tree(store_url: str, size: int, texts: Sequence[str] = ()) -> int:
    """A search whose tree has so many nodes, its log whole; its number. `texts` are those of its
    first nodes."""
    store = open_store(store_url)
    with store.session() as session:
        old = session.scalars(select(SearchRow).order_by(SearchRow.id)).first()
        assert old is not None
        problem = ProblemRow(
            task="expressions", key=f"big-{size}", text="1+1", answer="2", origin="given", family=""
        )
        session.add(problem)
        session.flush()
        row = SearchRow(
            round_id=old.round_id,
            problem_id=problem.id,
            position=10_000 + size,
            seed=1,
            status="done",
            num_nodes=size,
            num_simulations=size - 1,
        )
        session.add(row)
        session.flush()
        parents = [-1, *((i - 1) // 4 for i in range(1, size))]
        visits = [1] * size
        for i in range(size - 1, 0, -1):
            visits[parents[i]] += visits[i]
        depth = [0] * size
        for i in range(1, size):
            depth[i] = depth[parents[i]] + 1
        session.bulk_save_objects(
            [
                NodeRow(
                    search_id=row.id,
                    ix=i,
                    parent_ix=parents[i] if i else None,
                    depth=depth[i],
                    visits=visits[i],
                    value_sum=visits[i] * 0.5,
                    own_evaluations=1,
                    prior=None if i == 0 else 0.25,
                    value=0.5,
                    stop=None if i == 0 else "boundary",
                    num_tokens=3,
                )
                for i in range(size)
            ]
        )
        session.bulk_save_objects(
            [
                NodeText(
                    search_id=row.id,
                    ix=i,
                    text=texts[i] if i < len(texts) else f"step {i} of the tree\n",
                )
                for i in range(size)
            ]
        )
        session.bulk_save_objects(
            [
                SimulationRow(search_id=row.id, seq=i - 1, leaf_ix=i, value=0.5, num_tokens=3 * i)
                for i in range(1, size)
            ]
        )
        number = row.id
    store.close()
    return number
