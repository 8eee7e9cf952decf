"""Figures of the service for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Bounds of the histograms' buckets."""


class Figures:
    """One registry a server: two in one process keep apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests by route and status", "route", "code")
        self.request_s = self._seconds("request", "From a request to its end", "route")
        self.first_byte_s = self._seconds(
            "first_byte", "From a request to its answer's first byte", "route"
        )
        self.searches = self._counter("searches", "Ended searches", "status")
        self.search_s = self._seconds("search", "From a search's start to its end")
        self.simulations = self._counter("search_simulations", "Simulations of ended searches")
        self.nodes = self._counter("search_nodes", "Nodes of ended searches")
        self.tokens = self._counter("tokens", "Tokens that the policy read or wrote", "kind")
        self.unscored = self._counter("unscored", "Evaluations that came back without a value")

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"ratchet_{name}", meaning, labels, registry=self.registry)

    def _seconds(self, name: str, meaning: str, *labels: str) -> Histogram:
        full = f"ratchet_{name}_seconds"
        return Histogram(full, meaning, labels, buckets=SECONDS, registry=self.registry)

    def gauge(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """A figure that is looked up when somebody asks."""
        Gauge(f"ratchet_{name}", meaning, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        return generate_latest(self.registry)
