"""The same application under Ray Serve, for clusters: `ratchet serve --ray-serve`.

One replica, since one process holds the lease of the service's run and steps all searches together;
the models are actors of their own and scale apart (`hosting.workers`). What Ray Serve would do by
default and a search must not suffer is set here: five requests at a time, and answers that are cut
off after twenty seconds at the end.
"""

import contextlib
import json
import os
import threading
from collections.abc import Callable
from typing import Any

from agent import signals
from agent.config.settings import Config
from agent.hosting.ray_hosts import start_ray
from agent.service.keys import Keys
from agent.service.server import Say, opened_keys

NAME = "ratchet"
HEALTH_S = 60.0
"""How long a replica may take to say how it is: a step of a large model lasts seconds."""


class Door:
    """What runs in the replica."""

    def __init__(self, config: Config, keys: Keys) -> None:
        from agent.open_models import open_models
        from agent.service.service import Service

        self.keys = keys
        self._open = contextlib.ExitStack()
        models = self._open.enter_context(open_models(config))
        for ref in models.models.refs.values():
            models.hosts.load(ref)
        self.service = Service(models, config)
        self._open.callback(self.service.close)

    def __serve_build_asgi_app__(self) -> Any:
        from agent.service.app import make_app

        return make_app(self.service, self.keys)

    def check_health(self) -> None:
        if not self.service.worker.is_alive:
            raise RuntimeError("the thread that steps the searches has ended")

    def __del__(self) -> None:
        self._open.close()


def deployment(config: Config, keys: Keys) -> Any:
    """The deployment, with the bounds of the service."""
    from ray import serve

    limits = config.serve
    made = serve.deployment(
        serve.ingress()(Door),
        name=NAME,
        num_replicas=1,
        max_ongoing_requests=4 * (limits.active + limits.waiting),
        graceful_shutdown_timeout_s=limits.drain_s + 10.0,
        health_check_timeout_s=HEALTH_S,
        ray_actor_options={"num_cpus": 0},
    )
    return made.bind(config, keys)


def run(config: Config, say: Say, as_json: bool) -> int:
    """Serve on the cluster until a signal; the exit code that tells it."""
    keys = opened_keys(config)
    start_ray(config.hosting.ray_address)
    from ray import serve
    from ray.serve.config import HTTPOptions

    limits = config.serve
    with signals.kept():
        serve.start(
            http_options=HTTPOptions(
                host=limits.host, port=limits.port, keep_alive_timeout_s=75, request_timeout_s=None
            ),
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        serve.run(deployment(config, keys), name=NAME, route_prefix="/")
    url = f"http://{limits.host}:{limits.port}/v1"
    if as_json:
        print(json.dumps({"event": "launch", "url": url, "pid": os.getpid()}), flush=True)
    else:
        say(f"serving under Ray Serve at {url}; pages at {url.removesuffix('/v1')}/view")
    code = _until_signal()
    serve.delete(NAME)
    if as_json:
        print(json.dumps({"event": "done", "status": "stopped"}), flush=True)
    return code


def _until_signal(wait: Callable[[], Any] | None = None) -> int:
    """Wait for the first signal; its exit code."""
    try:
        (wait or threading.Event().wait)()
    except signals.Stopped:
        return signals.code()
    return 0
