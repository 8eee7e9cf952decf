"""Who was at work while a stage ran: by it one sees what a round waits for."""

import time
from dataclasses import dataclass, field

from agent.hosting.hosts import Hosts


@dataclass(slots=True)
class Timeline:
    """Of one stage, from now on."""

    hosts: Hosts
    _began: float = field(default_factory=time.monotonic)
    _before: dict[str, tuple[int, float]] = field(init=False)

    def __post_init__(self) -> None:
        self._before = self._seen()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def at_work(self) -> dict[str, float]:
        """Share of the stage's time that each actor answered calls; one that began anew meanwhile
        counts from there."""
        spent = max(self.seconds, 1e-9)
        found = {}
        for role, (pid, seconds) in self._seen().items():
            then, before = self._before.get(role, (pid, 0.0))
            worked = seconds - before if then == pid and seconds >= before else seconds
            found[role] = round(min(1.0, worked / spent), 3)
        return found

    def _seen(self) -> dict[str, tuple[int, float]]:
        return {
            role: (int(seen.get("pid", 0)), float(seen.get("busy_s", 0.0)))
            for role, seen in self.hosts.health().items()
        }
