"""Damaged checkpoints, weights and scores that are no numbers (S5 to S8 of the store's faults)."""

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from sqlalchemy import select

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.custody import as_new, current_models, fault_of
from agent.checkpoints.embedded import embedded_path
from agent.checkpoints.publish import NonFiniteError, publish
from agent.checkpoints.weights import load_model
from critics.outcome import OutcomeCritic
from scripts.bench.databases import Databases
from scripts.bench.report import Row, counted, repeats
from scripts.bench.store_kills import SEED
from scripts.bench.store_world import ScoredWorld
from search import frontier
from search.interfaces import EvaluateRequest, Evaluation
from search.mcts import Search
from search.settings import SearchSettings
from search.state import State
from store.checkpoints import register
from store.database import now_us, open_store
from store.schema import CheckpointRow, Round, Run


def damaged_checkpoints(databases: Databases, num: int) -> list[Row]:
    """S5, S6. One byte flipped, a file cut or gone; then the version before it is used."""
    folder = databases.folder / "damaged"
    source = embedded_path("expressions", "policy")
    assert source is not None
    first = verify_checkpoint(source)
    older = publish(load_model(first), first, folder, "policy", {})
    decoder = load_model(older)
    with torch.no_grad():
        next(decoder.parameters()).add_(1e-3)
    newer = publish(decoder, older, folder, "policy", {})
    store = open_store(databases.new("custody"))
    with store.session() as session:
        for checkpoint, parent in ((older, None), (newer, older.version)):
            register(session, as_new("policy", checkpoint, parent))
        session.add(
            Run(
                id=1,
                name="r",
                task="t",
                config={},
                config_sha="",
                code_version="",
                seed=1,
                created_ts=now_us(),
            )
        )
        session.flush()
        session.add(
            Round(
                run_id=1,
                number=1,
                stage="promoted",
                models={"policy": older.version},
                candidates={"policy": newer.version},
                search_config={},
                config_sha="",
                timings={},
                started_ts=now_us(),
            )
        )
    rng = random.Random(SEED)
    files = sorted(newer.path.iterdir())
    rows: list[Row] = []
    began = time.perf_counter()
    load_model(verify_checkpoint(older.path))
    load_s = time.perf_counter() - began
    for name, damage in (("s5", _flip), ("s6", _cut)):
        seen = fallen = 0
        times: list[float] = []
        for _ in range(num):
            file = rng.choice(files)
            whole = file.read_bytes()
            damage(file, whole, rng)
            with store.session() as session:
                row = session.scalars(
                    select(CheckpointRow).where(CheckpointRow.version == newer.version)
                ).one()
                seen += bool(fault_of(row))
            began = time.perf_counter()
            models = current_models(store, 1, _quiet)
            times.append((time.perf_counter() - began) / load_s)
            with store.session() as session:
                status = session.scalars(
                    select(CheckpointRow.status).where(CheckpointRow.version == newer.version)
                ).one()
            assert models is not None
            fallen += models["policy"].version == older.version and status == "quarantined"
            file.write_bytes(whole)
            current_models(store, 1, _quiet)
        told = "one byte flipped in any file" if name == "s5" else "a file cut, emptied or gone"
        rows += [
            counted(f"{name}_detected_sqlite", seen, "of all", num, f"{told}, before loading", num),
            counted(
                f"{name}_parent_used_sqlite", fallen, "of all", num, "and the row quarantined", num
            ),
            repeats(f"{name}_fallback_sqlite", times, "loads", "time of one load", target=1.0),
        ]
    store.close()
    return rows


def _quiet(text: str) -> None: ...


def _flip(file: Path, whole: bytes, rng: random.Random) -> None:
    place = rng.randrange(len(whole))
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])


def _cut(file: Path, whole: bytes, rng: random.Random) -> None:
    kind = rng.random()
    if kind < 0.2:
        file.unlink()
    else:
        file.write_bytes(whole[: 0 if kind < 0.4 else rng.randrange(len(whole))])


def non_finite_weights() -> list[Row]:
    """S7. One element, all of a tensor, and one that only bfloat16 cannot hold."""
    source = embedded_path("expressions", "policy")
    assert source is not None
    parent = verify_checkpoint(source)
    cases: list[tuple[Callable[[torch.Tensor], object], torch.dtype]] = [
        (lambda t: t.view(-1)[3:4].fill_(float("nan")), torch.float32),
        (lambda t: t.view(-1)[3:4].fill_(float("inf")), torch.float32),
        (lambda t: t.fill_(float("nan")), torch.float32),
        (lambda t: t.view(-1)[3:4].fill_(3.4e38), torch.bfloat16),
    ]
    refused = left = 0
    for spoil, dtype in cases:
        decoder = load_model(parent)
        with torch.no_grad():
            spoil(list(decoder.parameters())[-1])
        with tempfile.TemporaryDirectory() as folder:
            try:
                publish(decoder, parent, Path(folder), "policy", {}, dtype)
            except NonFiniteError:
                refused += 1
            left += len(list(Path(folder).iterdir()))
    told = "NaN, infinity, a whole tensor, a number that bfloat16 cannot hold"
    return [
        counted("s7_rejected", refused, "of all", len(cases), told, len(cases)),
        counted("s7_left_on_disk", left, "directories", len(cases), told),
    ]


class _BrokenCritic(ScoredWorld):
    """Every third evaluation has a score that is no number."""

    num = 0

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> list[Evaluation]:
        found = []
        for evaluation in super().evaluate(requests):
            self.num += 1
            if self.num % 3 == 0:
                logit = (float("nan"), float("inf"), float("-inf"))[self.num // 3 % 3]
                score = OutcomeCritic("v")._score(logit, ())
                evaluation = Evaluation(score.value, (score,), (), evaluation.num_tokens)
            found.append(evaluation)
        return found


def non_finite_scores() -> list[Row]:
    """S8. They never enter W, are counted, and the search goes on to its end."""
    world = _BrokenCritic(depth=6)
    settings = SearchSettings(
        simulations=64, max_tokens=0, importance=0.0, min_width=8, max_width=8
    )
    searches = [Search(State("p", (1, 2, 3), "a problem"), settings, seed) for seed in range(20)]
    frontier.run(searches, world, world)
    values = [e.q for s in searches for n in s.nodes for e in n.edges if e.visits]
    wrong = sum(q is None or not 0 <= q <= 1 for q in values)
    unended = sum(not s.is_done for s in searches)
    uncounted = sum(s.num_unscored == 0 for s in searches)
    told = "a third of all scores NaN or infinite"
    return [
        counted("s8_values_spoiled", wrong, "edges", len(searches), told),
        counted("s8_not_ended", unended, "searches", len(searches), told),
        counted("s8_not_counted", uncounted, "searches", len(searches), told),
    ]
