"""Damaged checkpoints: noticed before they are loaded, and replaced by what was before them."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select, text

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.custody import as_new, current_models, fault_of
from agent.checkpoints.manifest import MANIFEST
from agent.checkpoints.publish import publish
from agent.checkpoints.weights import load_model
from agent.config.load import load_config
from agent.progress import Silent
from agent.rounds.run import Improver
from search.errors import CheckpointError
from store.check import check_store
from store.checkpoints import register
from store.database import Store, open_store
from store.schema import CheckpointRow, Event, Round, TrainMetric
from tests.agent.conftest import write_checkpoint
from tests.agent.rounds.small import SMALL, improve, places
from tests.agent.rounds.test_round import contents, run_rounds
from tests.rows import a_round, a_run


def published(tmp_path: Path, seed: int = 0) -> Path:
    parent = verify_checkpoint(write_checkpoint(tmp_path / f"base-{seed}", seed=seed))
    return publish(load_model(parent), parent, tmp_path / "checkpoints", "policy", {}).path


def flip(file: Path, place: int) -> None:
    raw = bytearray(file.read_bytes())
    raw[place] ^= 0x55
    file.write_bytes(raw)


def row_of(path: Path) -> CheckpointRow:
    found = verify_checkpoint(path)
    return CheckpointRow(
        role="policy", version=found.version, path=str(path), manifest_sha=found.manifest_sha
    )


def test_a_changed_byte_in_any_file_is_noticed_before_loading(tmp_path: Path) -> None:
    path = published(tmp_path)
    row = row_of(path)
    assert not fault_of(row)
    rng = random.Random(5)
    files = sorted(path.iterdir())
    for _ in range(100):
        file = rng.choice(files)
        place = rng.randrange(file.stat().st_size)
        flip(file, place)
        assert fault_of(row), (file.name, place)
        flip(file, place)
    assert not fault_of(row)


def test_a_cut_emptied_or_missing_file_is_noticed_before_loading(tmp_path: Path) -> None:
    path = published(tmp_path)
    row = row_of(path)
    rng = random.Random(6)
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for size in (0, *(rng.randrange(len(whole)) for _ in range(24))):
            file.write_bytes(whole[:size])
            assert fault_of(row), (file.name, size)
        file.unlink()
        assert fault_of(row), file.name
        file.write_bytes(whole)
    assert not fault_of(row)


def test_a_damaged_directory_of_the_same_name_is_written_anew(tmp_path: Path) -> None:
    path = published(tmp_path)
    flip(path / "model.safetensors", 900)
    assert published(tmp_path) == path
    assert verify_checkpoint(path).manifest_sha
    assert [p for p in path.parent.iterdir() if ".damaged-" in p.name]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"sqlite:///{tmp_path}/store.db")


def lineage(store: Store, tmp_path: Path) -> list[Path]:
    """A run of two rounds whose policies are the parents of one another."""
    paths = [published(tmp_path, seed) for seed in range(3)]
    found = [verify_checkpoint(p) for p in paths]
    with store.session() as session:
        for checkpoint, parent in zip(found, [None, *found], strict=False):
            register(session, as_new("policy", checkpoint, parent.version if parent else None))
        session.add(a_run(id=1, name="default"))
        session.flush()
        for number in (1, 2):
            session.add(
                a_round(
                    1,
                    number,
                    "promoted",
                    models={"policy": found[number - 1].version},
                    candidates={"policy": found[number].version},
                )
            )
    return paths


def used(store: Store, say: Callable[[str], None] = print) -> str:
    models = current_models(store, 1, say)
    assert models is not None
    return models["policy"].path


def test_the_parent_of_a_damaged_checkpoint_is_used_until_it_is_whole_again(
    store: Store, tmp_path: Path
) -> None:
    first, second, last = lineage(store, tmp_path)
    said: list[str] = []
    assert used(store) == str(last)
    flip(last / "model.safetensors", 700)
    assert used(store, said.append) == str(second)
    assert any("damaged" in line for line in said) and "going on with" in said[-1]
    shutil.rmtree(second)
    assert used(store) == str(first)
    flip(last / "model.safetensors", 700)
    assert used(store) == str(last)
    with store.session() as session:
        statuses = dict(session.execute(select(CheckpointRow.path, CheckpointRow.status)).all())  # type: ignore[arg-type]
        kinds = session.scalars(select(Event.kind).order_by(Event.id)).all()
    assert statuses == {str(first): "ready", str(second): "quarantined", str(last): "ready"}
    assert kinds == ["checkpoint-quarantined", "checkpoint-quarantined", "checkpoint-restored"]


def test_with_no_whole_version_left_the_error_says_where_to_put_one(
    store: Store, tmp_path: Path
) -> None:
    for path in lineage(store, tmp_path):
        (path / MANIFEST).write_text("{}")
    with pytest.raises(CheckpointError, match="no policy of the run is whole") as caught:
        used(store)
    assert "ratchet models" in caught.value.fix


@pytest.mark.round
def test_a_damaged_candidate_is_trained_again_to_the_same_weights(
    checkpoint: Path, tmp_path: Path
) -> None:
    for name in ("calm", "stormy"):
        (tmp_path / name).mkdir()
    run_rounds(tmp_path / "calm", checkpoint)
    improve(tmp_path / "stormy", checkpoint, failpoint="after-training")
    store = open_store(f"sqlite:///{tmp_path}/stormy/store.db")
    with store.session() as session:
        candidates = session.scalars(select(Round.candidates)).one()
        assert candidates is not None
        path = session.scalars(
            select(CheckpointRow.path).where(CheckpointRow.version == candidates["policy"])
        ).one()
        curve = session.scalars(select(TrainMetric.value).where(TrainMetric.name == "loss")).all()
    assert curve
    flip(Path(path) / "model.safetensors", 1200)
    config, _ = load_config(SMALL | places(tmp_path / "stormy") | {"policy": str(checkpoint)})
    with Improver(config, Silent()).started() as improver:
        improver.run_round()
    assert contents(tmp_path / "stormy") == contents(tmp_path / "calm")
    with store.session() as session:
        assert "quarantined" not in set(session.scalars(select(CheckpointRow.status)))


@pytest.mark.round
def test_a_round_whose_models_are_damaged_is_given_up_and_the_next_one_has_whole_ones(
    checkpoint: Path, tmp_path: Path
) -> None:
    run_rounds(tmp_path, checkpoint)
    improve(tmp_path, checkpoint, failpoint="after-claim")
    store = open_store(f"sqlite:///{tmp_path}/store.db")
    with store.session() as session:
        models = session.scalars(select(Round.models).where(Round.number == 2)).one()
        path = session.scalars(
            select(CheckpointRow.path).where(
                CheckpointRow.role == "drafter", CheckpointRow.version == models["drafter"]
            )
        ).one()
    older = write_checkpoint(tmp_path / "other", seed=4, num_hidden_layers=1)
    spare = verify_checkpoint(older)
    with store.session() as session:
        register(session, as_new("drafter", spare))
        first = session.scalars(select(Round).where(Round.number == 1)).one()
        first.models = first.models | {"drafter": spare.version}
    flip(Path(path) / "config.json", 3)
    config, _ = load_config(SMALL | places(tmp_path) | {"policy": str(checkpoint)})
    with Improver(config, Silent()).started() as improver:
        outcome = improver.run_round()
    assert outcome.number == 3
    with store.session() as session:
        rows = session.scalars(select(Round).order_by(Round.number)).all()
        assert rows[1].stage == "failed" and "damaged" in (rows[1].error or "")
        assert rows[2].models["drafter"] == spare.version
        left = session.execute(
            text("SELECT count(*) FROM searches WHERE status IN ('pending', 'running')")
        ).scalar_one()
    assert left == 0 and not any(check_store(store).values())
