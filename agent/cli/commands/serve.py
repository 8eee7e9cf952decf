"""`ratchet serve`: the HTTP door."""

import logging
import sys

from agent.config.settings import Config
from search.errors import ResourceError


def run(config: Config, as_json: bool) -> None:
    try:
        from agent.service import server
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"the service needs {error.name}, which is not installed",
            "pip install 'ratchet-llm[serve]'",
        ) from error
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    raise SystemExit(server.run(config, server.to_stderr, as_json))
