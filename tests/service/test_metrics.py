"""Metrics: the times of requests as Prometheus knows them."""

from __future__ import annotations

import random

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from farfield_service.metrics import SECONDS, Metrics


def test_phases_are_told_as_the_library_tells_a_histogram() -> None:
    """Line by line, times at the bounds and above the last one included; but for when counting began."""
    ours, registry = Metrics(), CollectorRegistry()
    name, meaning, labels = "farfield_request_seconds", "Time of a request by phase", ["op", "phase"]
    theirs = Histogram(name, meaning, labels, buckets=SECONDS, registry=registry)
    choose = random.Random(0)
    for seconds in (0.0, *SECONDS, 1000.0, *(choose.expovariate(10.0) for _ in range(100))):
        op, phase = choose.choice(["reduce", "vjp"]), choose.choice(["recv", "kernel"])
        ours.observe_phases(op, {phase: seconds * 1e3})
        theirs.labels(op, phase).observe(seconds * 1e3 / 1e3)
    told, expected = ours.render()[0].decode().splitlines(), generate_latest(registry).decode().splitlines()
    told = [line for line in told if "farfield_request_seconds" in line]
    assert sorted(told) == sorted(line for line in expected if "_created" not in line)
