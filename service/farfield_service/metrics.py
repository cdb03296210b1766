"""Prometheus metrics of one server."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable, Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from .logs import Answered

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
BOUNDS = (*(str(float(bound)) for bound in SECONDS), "+Inf")  # as Prometheus writes them


class Phases(Collector):
    """A histogram of seconds by op and phase; the library's own takes ten times as long, phase by phase."""

    def __init__(self, name: str, meaning: str) -> None:
        self.name, self.meaning = name, meaning
        self._counts: dict[tuple[str, str], list[int]] = {}  # by bucket, of those that are in no lower one
        self._sums: dict[tuple[str, str], float] = {}

    def observe(self, op: str, phase: str, seconds: float) -> None:
        """Count one phase of a request."""
        key = (op, phase)
        if key not in self._sums:
            self._counts[key], self._sums[key] = [0] * (len(SECONDS) + 1), 0.0
        self._counts[key][bisect.bisect_left(SECONDS, seconds)] += 1
        self._sums[key] += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What the registry asks for."""
        family = HistogramMetricFamily(self.name, self.meaning, labels=["op", "phase"])
        for key, counts in self._counts.items():
            buckets = list(zip(BOUNDS, itertools.accumulate(counts), strict=True))
            family.add_metric(key, buckets, self._sums[key])
        yield family


class Metrics:
    """A registry of its own, so that two servers in one process do not share counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "farfield_requests", "Requests answered", ["op", "status", "reason"], registry=self.registry
        )
        self.phases = Phases("farfield_request_seconds", "Time of a request by phase")
        self.registry.register(self.phases)
        self.use = Counter("farfield_user_device_seconds", "Worker time by user", ["user"], registry=self.registry)
        self.build_seconds = Histogram(
            "farfield_build_seconds",
            "Time until the kernels of a new call were compiled, or found on disk",
            buckets=SECONDS,
            registry=self.registry,
        )
        # Finding a labelled child costs more than counting.
        self._answers, self._use = functools.cache(self.requests.labels), functools.cache(self.use.labels)

    def watch(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """Show a value that is read when the metrics are."""
        Gauge(name, meaning, registry=self.registry).set_function(read)

    def observe_phases(self, op: str, timing_ms: dict[str, float]) -> None:
        """Count the phases of one answered request."""
        for phase, duration_ms in timing_ms.items():
            self.phases.observe(op, phase, duration_ms / 1e3)

    def observe_use(self, user: str, used_s: float) -> None:
        """Count the worker time that a user took."""
        self._use(user).inc(used_s)

    def observe_answer(self, answered: Answered) -> None:
        """Count one answer, and the time in all of one that has results."""
        self._answers(answered.op, str(answered.status), answered.reason).inc()
        if answered.op != "other" and answered.reason == "ok":
            self.phases.observe(answered.op, "total", answered.seconds)

    def render(self) -> tuple[bytes, str]:
        """The text and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
