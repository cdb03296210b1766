"""Prometheus metrics of one server."""

from __future__ import annotations

import functools
from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """A registry of its own, so that two servers in one process do not share counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "farfield_requests", "Requests answered", ["op", "status", "reason"], registry=self.registry
        )
        self.seconds = Histogram(
            "farfield_request_seconds",
            "Time of a request by phase",
            ["op", "phase"],
            buckets=SECONDS,
            registry=self.registry,
        )

        self._phase = functools.cache(self.seconds.labels)  # finding a labelled child costs more than counting

    def watch(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """Show a value that is read when the metrics are."""
        Gauge(name, meaning, registry=self.registry).set_function(read)

    def observe_phases(self, op: str, timing_ms: dict[str, float]) -> None:
        """Count the phases of one answered request."""
        for phase, duration_ms in timing_ms.items():
            self._phase(op, phase).observe(duration_ms / 1e3)

    def observe_answer(self, op: str, status: int, reason: str) -> None:
        """Count one answer; `reason` is its error code, or `ok`."""
        self.requests.labels(op, str(status), reason).inc()

    def render(self) -> tuple[bytes, str]:
        """The text and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
