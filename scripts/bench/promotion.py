"""A promotion by hand: the next policy of a run is its last one with one number changed."""

from pathlib import Path

from safetensors.torch import load_file, save_file

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.custody import as_new
from agent.checkpoints.model_refs import ModelRef
from store.checkpoints import register
from store.database import now_us, open_store
from store.schema import Round, Run
from store.states import Stage


def copied(source: Path, target: Path) -> Path:
    """A policy once more, of another version."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and file.suffix != ".safetensors" and file.name != "manifest.json":
            (target / file.name).write_bytes(file.read_bytes())
    for file in source.glob("*.safetensors"):
        tensors = load_file(file)
        key = sorted(tensors)[0]
        tensors[key] = tensors[key].clone()
        tensors[key].view(-1)[0] += 1e-3
        save_file(tensors, target / file.name, metadata={"format": "pt"})
    return target


def promote(store_url: str, refs: dict[str, ModelRef], folder: Path, run: str = "default") -> str:
    """Write a promoted round of a new run into the store; the new policy's version."""
    new = verify_checkpoint(copied(Path(refs["policy"].path), folder / "promoted"))
    store = open_store(store_url)
    with store.session() as session:
        for role, ref in refs.items():
            register(session, as_new(role, verify_checkpoint(Path(ref.path))))
        register(session, as_new("policy", new, refs["policy"].version))
        row = Run(
            name=run,
            task="expressions",
            config={},
            config_sha="",
            code_version="",
            seed=1,
            created_ts=now_us(),
        )
        session.add(row)
        session.flush()
        session.add(
            Round(
                run_id=row.id,
                number=1,
                stage=Stage.PROMOTED,
                models={role: ref.version for role, ref in refs.items()},
                candidates={"policy": new.version},
                search_config={},
                config_sha="",
                timings={},
                started_ts=now_us(),
                ended_ts=now_us(),
            )
        )
    store.close()
    return new.version
