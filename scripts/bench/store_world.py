"""Finished searches and planned rounds for benchmarks of the store."""

from collections.abc import Sequence

from sqlalchemy import func, select

from scripts.bench.free_world import FreeWorld
from search import frontier
from search.interfaces import EvaluateRequest, Evaluation, Rollout
from search.mcts import Search
from search.score import Score
from search.settings import SearchSettings
from search.state import Problem, State
from store.database import Store, now_us
from store.recording import Claim, add_problems, claim, plan_searches, record_search
from store.schema import Base, Round, Run, SearchRow


class ScoredWorld(FreeWorld):
    """With a score by each critic and a rollout at each leaf, so that every table gets rows."""

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> list[Evaluation]:
        found = []
        for plain, request in zip(super().evaluate(requests), requests, strict=True):
            value = plain.value or 0.0
            scores = tuple(Score(critic, "v", value) for critic in ("value", "process"))
            rollouts: tuple[Rollout, ...] = ()
            if request.state.is_finished:
                answer = str(request.seed % 2)
                outcome = Score("outcome", "v", value)
                rollouts = (Rollout(request.state, request.state.depth, 0, True, outcome, answer),)
            found.append(Evaluation(value, scores, rollouts, 3))
        return found


def finished() -> Search:
    """A finished search of about two hundred nodes."""
    world = ScoredWorld(depth=6)
    settings = SearchSettings(
        simulations=64, max_tokens=0, importance=0.0, min_width=8, max_width=8
    )
    search = Search(State("p", (1, 2, 3), "a problem in a few words"), settings, 7)
    frontier.run([search], world, world)
    return search


def planned(store: Store, num: int, number: int = 1, name: str = "bench") -> list[int]:
    """Ids of the claimed searches of a new round."""
    with store.session() as session:
        run = session.scalars(select(Run).where(Run.name == name)).one_or_none()
        if run is None:
            run = Run(
                name=name,
                task="expressions",
                config={},
                config_sha="c",
                code_version="0",
                seed=1,
                created_ts=now_us(),
                fence=1,
            )
            session.add(run)
            session.flush()
        row = Round(
            run_id=run.id,
            number=number,
            stage="searching",
            models={},
            search_config={},
            config_sha="c",
            timings={},
            started_ts=now_us(),
        )
        session.add(row)
        session.flush()
        keys = [f"{name} {number} {i}" for i in range(num)]
        rows = add_problems(session, "expressions", [Problem(k, k, "1") for k in keys], row.id)
        plan_searches(session, row, [(p.id, 5) for p in rows])
        ids = list(session.scalars(select(SearchRow.id).where(SearchRow.round_id == row.id)))
        for start in range(0, len(ids), 500):
            claim(session, ids[start : start + 500], 1)
        return ids


def record(store: Store, search_id: int, search: Search) -> bool:
    return record_search(store, Claim(search_id, 1, "policy-1"), search, lambda a: a == "1")


def count(store: Store, model: type[Base]) -> int:
    with store.session() as session:
        return int(session.scalar(select(func.count()).select_from(model)) or 0)
