"""GPUs of a Ray cluster: how many, how large, and reserved whole for the actors of a run."""

import logging
import time
from typing import Any

from agent.hosting.placement import ActorPlace
from search.errors import ResourceError

WAIT_S = 60.0
"""How long GPUs that others hold may take to come free before a run begins."""
ASKED = 0.01
"""Of a GPU, by the task that looks at its memory."""
FREE_FIX = "wait for whoever holds them (`ray status`), or set hosting.device to cpu"

log = logging.getLogger("ratchet")


def num_gpus(device: str) -> int:
    """GPUs that models may run on. Raises ResourceError where some are asked for, and none are."""
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    if device.startswith("cuda") and not gpus:
        raise ResourceError(
            f"device {device!r} is asked for, but the cluster has no GPU",
            "leave hosting.device at auto, or set it to cpu",
        )
    return 0 if device == "cpu" else gpus


def free_gpus(gpus: int) -> int:
    """Of so many, those that nobody holds; all where none is free, for then they are waited for."""
    import ray

    free = ray.available_resources().get("GPU", 0.0)
    return min(gpus, int(free + ASKED)) or gpus  # Ray may not have noted the end of a look yet


_known_bytes: dict[str, int] = {}
"""By cluster."""


def gpu_bytes() -> int:
    """Memory of a GPU of the cluster, of which all are taken to be alike; 0 where torch can use
    none. Asked once of a cluster. Raises ResourceError where none comes free to be asked."""
    import ray

    cluster = ray.get_runtime_context().gcs_address
    if cluster not in _known_bytes:
        asked = ray.remote(num_cpus=0, num_gpus=ASKED, max_retries=0)(_local_bytes).remote()
        done, _ = ray.wait([asked], timeout=WAIT_S)
        if not done:
            ray.cancel(asked, force=True)
            raise ResourceError(f"no GPU of the cluster came free within {WAIT_S:.0f} s", FREE_FIX)
        _known_bytes[cluster] = ray.get(asked)
    return _known_bytes[cluster]


def _local_bytes() -> int:
    from agent.networks.device import local_gpus

    return min((size for _, size in local_gpus()), default=0)


class GpuReservation:
    """Whole GPUs that a run's actors divide among themselves."""

    def __init__(self, places: tuple[ActorPlace, ...], is_first: bool = True) -> None:
        """Waits until they are free: for a minute before a run's first models are loaded, and then
        raises ResourceError; later, when a run takes them back, for as long as it takes."""
        import ray
        from ray.util.placement_group import placement_group

        self._group: Any = None
        wanted = len({place.gpu for place in places if place.gpu is not None})
        if not wanted:
            return
        self._group = placement_group([{"GPU": 1}] * wanted, strategy="PACK")
        ready = self._group.ready()
        while not ray.wait([ready], timeout=WAIT_S)[0]:
            free = ray.available_resources().get("GPU", 0)
            found = f"the models need {wanted} whole GPUs of the cluster, and {free:g} are free"
            if is_first:
                self.close()
                raise ResourceError(f"{found} after {WAIT_S:.0f} s", FREE_FIX)
            log.warning("%s; waiting for whoever took them meanwhile", found)

    def options(self, place: ActorPlace) -> dict[str, Any]:
        """What an actor at this place asks Ray for."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if place.gpu is None:
            return {"num_gpus": 0}
        return {
            "num_gpus": place.part,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=place.gpu
            ),
        }

    def close(self) -> None:
        """Give them back; what runs there ends."""
        from ray.util.placement_group import remove_placement_group

        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None


def wait_for_gpus(wanted: float) -> float:
    """GPUs that are free, as soon as there are as many as wanted, or after a minute."""
    import ray

    until = time.monotonic() + WAIT_S
    while (free := ray.available_resources().get("GPU", 0.0)) < wanted:
        if time.monotonic() > until or ray.cluster_resources().get("GPU", 0.0) < wanted:
            break
        time.sleep(0.5)
    return float(free)
