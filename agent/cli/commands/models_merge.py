"""`ratchet models merge`: adapters and their base as whole weights."""

from agent.checkpoints.merging import merge_into
from agent.cli.output import emit
from agent.config.paths import path_of


def run(path: str, folder: str, as_json: bool) -> None:
    found = merge_into(path_of(path, "ADAPTERS"), path_of(folder, "DIR"))
    if as_json:
        emit(
            {
                "path": str(found.path),
                "version": found.version,
                "num_parameters": found.num_parameters,
            }
        )
        return
    print(f"{found.path}: {found.num_parameters:,} parameters, version {found.version}")
