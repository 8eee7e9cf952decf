"""`ratchet serve`: the HTTP door."""

import logging
import sys

from agent.config.settings import Config
from search.errors import ResourceError


def run(config: Config, with_ray_serve: bool, as_json: bool) -> None:
    extra = "ray-serve" if with_ray_serve else "serve"
    try:
        from agent.service import server

        if with_ray_serve:
            import ray.serve  # noqa: F401
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"the service needs {error.name}, which is not installed",
            f"pip install 'ratchet-llm[{extra}]'",
        ) from error
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    if with_ray_serve:
        from agent.service import ray_serve

        raise SystemExit(ray_serve.run(config, server.to_stderr, as_json))
    raise SystemExit(server.run(config, server.to_stderr, as_json))
