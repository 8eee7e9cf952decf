"""`ratchet models import`: a GGUF file as a checkpoint folder."""

import sys

from agent.checkpoints.gguf_import import EXACT, import_gguf
from agent.cli.output import emit
from agent.config.paths import path_of
from agent.progress import make_progress


def run(file: str, folder: str, as_json: bool) -> None:
    progress = make_progress(quiet=as_json)

    def told(done: int, num: int) -> None:
        if done == 1:
            progress.stage("importing", num, "tensors")
        progress.update(done)

    try:
        found = import_gguf(path_of(file, "FILE"), path_of(folder, "DIR"), told)
    finally:
        progress.close()
    if as_json:
        emit(
            {
                "path": str(found.path),
                "version": found.version,
                "num_parameters": found.num_parameters,
                "tensors": found.kinds,
                "is_dequantised": found.is_dequantised,
            }
        )
        return
    print(f"{found.path}: {found.num_parameters:,} parameters, version {found.version}")
    if found.is_dequantised:
        kinds = ", ".join(f"{n} {k}" for k, n in found.kinds.items() if k not in EXACT)
        print(
            f"Note: the weights were quantised ({kinds}); they are bfloat16 now and keep what "
            "quantising cost them.",
            file=sys.stderr,
        )
