"""`ratchet models plan`: what a model would take of GPUs, before any is there."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agent.checkpoints.files import read_json
from agent.cli.output import emit
from agent.config.paths import path_of
from agent.gpu_plan import (
    GPUS,
    Serving,
    Way,
    Work,
    nearest_fit,
    num_parameters,
    serving,
    training_ways,
)
from agent.networks.architecture import Architecture
from search.errors import CheckpointError, UsageError

GIB = 2**30


def run(
    folder: str, kind: str, num_gpus: int, gpu_gib: float | None, work: Work, as_json: bool
) -> None:
    arch = _architecture(path_of(folder, "DIR"))
    if arch.megalodon is not None:
        raise UsageError(
            f"{folder} is a Megalodon network, which no plan is made for yet",
            "ratchet improve --policy DIR --dry-run says what a round takes",
        )
    gpu = GPUS[kind]
    if gpu_gib is not None:
        gpu = replace(gpu, num_bytes=int(gpu_gib * GIB))
    ways = training_ways(arch, gpu, num_gpus, work)
    found = serving(arch, gpu, work)
    nearest = nearest_fit(arch, gpu, num_gpus, work)
    if as_json:
        emit(
            {
                "parameters": num_parameters(arch),
                "gpu": gpu.name,
                "gpu_bytes": gpu.num_bytes,
                "gpus": num_gpus,
                "work": asdict(work),
                "training": [asdict(way) | {"bytes": way.num_bytes} for way in ways],
                "nearest": None
                if nearest is None
                else {"gpus": nearest[0], "settings": nearest[1].settings},
                "serving": asdict(found),
            }
        )
        return
    console = Console()
    size = f"{num_parameters(arch) / 1e9:,.2f} billion parameters"
    each = f"{gpu.num_bytes / GIB:,.0f} GiB each"
    console.print(f"{folder}: {size}, on {num_gpus} x {gpu.name} of {each}. Nothing was loaded.")
    console.print(_training(ways, work))
    console.print(_serving(found))
    console.print(_advice(nearest, num_gpus), soft_wrap=True)


def _architecture(path: Path) -> Architecture:
    """By config.json alone: the weights need not be there."""
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"{path} has no config.json", "give a model's directory; its weights need not be there"
        )
    return Architecture.from_config(read_json(path, "config.json"))


def _training(ways: list[Way], work: Work) -> Table:
    title = f"Training, {work.batch_size} texts of {work.text_tokens:,} tokens a step; GiB a GPU"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for way in ways:
        table.add_column(way.name, justify="right")
    for part in dict.fromkeys(name for way in ways for name in way.parts):
        table.add_row(part, *(f"{way.parts.get(part, 0) / GIB:.1f}" for way in ways))
    table.add_row("all", *(f"{way.num_bytes / GIB:.1f}" for way in ways), style="bold")
    table.add_row("fits", *("yes" if way.fits else "no" for way in ways), style="bold")
    table.add_row("blocks", *(_blocks(way) for way in ways))
    table.add_row("seconds a step (estimate)", *(f"{way.step_s:.2g}" for way in ways))
    table.add_row("chosen by", *("\n".join(way.settings).replace("=", "\n=") for way in ways))
    return table


def _blocks(way: Way) -> str:
    return "computed again" if way.is_checkpointed else "kept"


def _serving(found: Serving) -> Table:
    table = Table(title="Serving, on one GPU", title_justify="left", show_header=False)
    rows: dict[str, Any] = {
        "weights in bfloat16": f"{found.weight_bytes / GIB:.1f} GiB",
        "keys and values of a token": f"{found.kv_bytes / 2**10:,.0f} KiB",
        "tokens that fit beside": f"{found.cached_tokens:,}",
        "five roles, each its own weights": f"{found.five_copies_bytes / GIB:.1f} GiB",
        "five roles as adapters on one base": f"{found.five_adapters_bytes / GIB:.1f} GiB",
        "written by 256 texts (estimate)": f"{found.written_per_s:,.0f} tokens/s",
        "written by searches (estimate)": f"{found.searched_per_s:,.0f} tokens/s",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _advice(nearest: tuple[int, Way] | None, num_gpus: int) -> str:
    if nearest is None:
        return "Nothing of this fits: use a smaller model, or shorter texts."
    needed, way = nearest
    more = "" if needed == num_gpus else f" with {needed} GPUs"
    chosen = "".join(f" --set {setting}" for setting in way.settings)
    return f"The first way that fits{more}: {way.name}{chosen and f' ({chosen.strip()})'}."
