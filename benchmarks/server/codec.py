"""The client's own work on 100 MB: arrays -> the pieces of a request, and an answer's bytes -> arrays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np

from farfield import wire

from .figures import Extent, Figure, median

SHAPE = (12_500_000, 2)  # of float32: 100 MB


def measure(extent: Extent) -> Iterator[Figure]:
    """Medians."""
    array = np.random.default_rng(0).random(SHAPE, np.float32)
    words = {"formula": "x*2", "variables": ["x = Vi(2)"], "reduction": "Sum", "axis": 1, "wrt": []}
    calls = extent.calls(500)
    answer = frame(array)
    for name, call in {
        "encode 100 MB": lambda: wire.encode_call(words, [array]),
        "decode 100 MB": lambda: wire.decode_results(answer),
    }.items():
        times = [timed_us(call) for _ in range(calls)]
        beside = {"calls": calls, "largest_us": max(times)}
        yield Figure(f"client: {name}, p50", median(times), "us", at_most=100, beside=beside)


def frame(array: wire.Array) -> memoryview:
    """An answer with one result."""
    header = msgpack.packb({"results": [{"dtype": array.dtype.name, "shape": array.shape}]})
    head = wire.PREFIX.pack(wire.MAGIC, len(header), 0, 1) + header
    body = np.empty(len(head) + -len(head) % wire.ALIGNMENT + array.nbytes, np.uint8)
    body[: len(head)] = np.frombuffer(head, np.uint8)
    body[len(body) - array.nbytes :] = array.reshape(-1).view(np.uint8)
    return body.data


def timed_us(call: Callable[[], Any]) -> float:
    """Of one call."""
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e6
