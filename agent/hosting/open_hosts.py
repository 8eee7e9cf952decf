"""The hosts that the settings ask for."""

import importlib.util

from agent.config.settings import HostingSettings
from agent.hosting.hosts import Hosts
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.hosting.placement import Needs
from agent.hosting.ray_hosts import RayHosts
from search.errors import UsageError


def check_hosting(hosting: HostingSettings) -> None:
    """Raises UsageError for settings that this environment or each other rule out."""
    if hosting.engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UsageError(
            "hosting.engine is 'vllm', but vLLM is not installed",
            "pip install -e '.[vllm]', or set hosting.engine to torch",
        )
    if hosting.hosting == "inline" and hosting.workers > 1:
        raise UsageError(
            f"hosting.workers is {hosting.workers}, but inline hosting is one process",
            "set hosting.workers to 1, or use --hosting ray",
        )


def open_hosts(hosting: HostingSettings, needs: Needs | None = None) -> Hosts:
    """Hosts that are ready to load models, which take `needs` of a GPU. Raises UsageError as
    `check_hosting` does, and ResourceError where a cluster's GPUs do not hold them."""
    check_hosting(hosting)
    settings = HostSettings.of(hosting)
    if hosting.hosting == "ray":
        return RayHosts(settings, hosting.ray_address, needs)
    return InlineHosts(settings)
