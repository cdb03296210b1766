"""Threads: a small call does not wait for a large one, an interrupt does not leave threads behind."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pytest

from farfield_kernels import launch
from farfield_kernels.engine import run
from farfield_kernels.expr import Array
from farfield_kernels.launch import Extent
from farfield_kernels.operation import Spec

SPEC = Spec("Exp(-SqDist(x,y))", ("x = Vi(3)", "y = Vj(3)"))


def points(count: int) -> Array:
    """Normal draws."""
    return np.random.default_rng(0).standard_normal((count, 3)).astype(np.float32)


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads whatever the machine."""
    monkeypatch.setattr(launch, "thread_count", lambda: 2)


@pytest.mark.usefixtures("two_threads")
def test_a_small_call_does_not_wait_for_a_large_one() -> None:
    """Beside a call of seconds, one of milliseconds is done while most of the large one is still to do."""
    small, large = points(2000), points(60_000)
    run(SPEC, [small, small])
    beside = threading.Thread(target=lambda: run(SPEC, [large, large]))
    begin = time.perf_counter()
    beside.start()
    time.sleep(0.05)
    run(SPEC, [small, small])
    small_done = time.perf_counter()
    beside.join()
    large_done = time.perf_counter()
    assert large_done - small_done > (large_done - begin) / 4


@pytest.mark.usefixtures("two_threads")
def test_an_interrupt_leaves_no_thread_in_the_kernel() -> None:
    """KeyboardInterrupt comes out of the call after every thread has left the arrays."""
    large = points(40_000)
    inside: list[int] = []

    class Counting:
        def __init__(self, reduce: object) -> None:
            self.reduce = reduce

        def __call__(self, *arguments: object) -> int:
            inside.append(1)
            try:
                return int(self.reduce(*arguments))  # type: ignore[operator]
            finally:
                inside.pop()

    kernel = next(iter(launch_kernels()))
    kernel.reduce = Counting(kernel.reduce)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        out = np.empty((len(large), 1), np.float32)
        with pytest.raises(KeyboardInterrupt):
            kernel.launch(Extent(len(large), len(large), terms=len(large) ** 2))([large, large], [out])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not inside


def interrupt(*_: object) -> None:
    """As Ctrl-C."""
    raise KeyboardInterrupt


def launch_kernels() -> list[launch.CpuKernel]:
    """Fresh kernels of the formula."""
    from farfield_kernels.stages import plan_call

    return [launch.CpuKernel(*stage.emitted.parts) for stage in plan_call(SPEC, "float32", "cpu").stages]


@pytest.mark.usefixtures("two_threads")
def test_threads_that_cannot_start_cost_speed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a process may have no more threads, the caller computes alone."""

    class Full:
        def submit(self, *_: object) -> None:
            raise RuntimeError("can't start new thread")

    x = points(3000)
    expected = run(SPEC, [x, x]).arrays[0]
    monkeypatch.setattr(launch, "_threads", Full)
    np.testing.assert_array_equal(run(SPEC, [x, x]).arrays[0], expected)


@pytest.mark.usefixtures("two_threads")
def test_a_sandbox_that_forbids_affinity_costs_speed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are right where sched_setaffinity is refused."""

    def refuse(*_: object) -> None:
        raise PermissionError

    x = points(3000)
    expected = run(SPEC, [x, x]).arrays[0]
    monkeypatch.setattr(launch.os, "sched_setaffinity", refuse, raising=False)
    np.testing.assert_array_equal(run(SPEC, [x, x]).arrays[0], expected)
