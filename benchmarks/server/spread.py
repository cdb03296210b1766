"""A long request that two workers of one thread each share, against one such worker, call by call in turn."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np

from farfield import Session, connect
from farfield.wire import Array
from farfield_kernels.operation import Spec

from .figures import Extent, Figure, median
from .program import Program, children, running

SPEC = Spec("Exp(-p*SqDist(x,y))*b", ("x = Vi(3)", "y = Vj(3)", "b = Vj(2)", "p = Pm(1)"))
ROWS = 90_000  # two seconds on a core with AVX-512
FEW, COLUMNS = 480, 6_000_000
SIDE = 60_000
CALLS = 5
STOP_S = 0.02  # of every 0.04, of a worker that is slowed
TARGET = 0.56  # of two equal workers, as there are two cores for two workers, a server and a client
SLOWED_TARGET = 0.75  # two thirds is what speeds of 1 and 1/2 make


def arguments(M: int, N: int) -> list[Array]:
    """Of SPEC."""
    rng = np.random.default_rng(0)
    return [rng.random(shape, np.float32) for shape in ((M, 3), (N, 3), (N, 2), (1,))]


def measure(extent: Extent) -> Iterator[Figure]:
    """Rows, columns, gradients of both sides; then rows with one of the two workers stopped half of the time."""
    rows, few, both = (arguments(*sizes) for sizes in ((ROWS, ROWS), (FEW, COLUMNS), (SIDE, SIDE)))
    calls = {
        "rows": (SPEC, rows),
        "columns": (SPEC, few),
        "gradients of x, y and p": (SPEC.vjp((0, 1, 3)), [*both, both[2]]),
    }
    with (
        running(FARFIELD_THREADS="1") as one,
        running("--workers", "2", FARFIELD_THREADS="1") as two,
        connect(one.url) as alone,
        connect(two.url) as together,
    ):
        while len(workers := children(two)) < 2 or not are_up(two):
            time.sleep(0.05)
        for name, (spec, arrays) in calls.items():
            yield compared(f"{name}: 2 workers, by the time of 1", spec, arrays, alone, together, extent, TARGET)
        with slowed(workers[0]):
            name = "rows: 2 workers, one at half its speed, by the time of 1"
            yield compared(name, SPEC, rows, alone, together, extent, SLOWED_TARGET)


def compared(
    name: str, spec: Spec, arrays: list[Array], alone: Session, together: Session, extent: Extent, target: float
) -> Figure:
    """The median of the ratios of calls in turn; the first of each compiles."""
    pairs = [(wall_s(alone, spec, arrays), wall_s(together, spec, arrays)) for _ in range(extent.calls(CALLS) + 1)]
    ones, twos = zip(*pairs[1:], strict=True)
    beside = {"calls": len(ones), "one_s": median(ones), "two_s": median(twos)}
    ratio = median([two / one for one, two in pairs[1:]])
    return Figure(name, ratio, "x", at_most=target, beside=beside)


def wall_s(session: Session, spec: Spec, arrays: list[Array]) -> float:
    """Of one call."""
    begin = time.perf_counter()
    session.call(spec, arrays)
    return time.perf_counter() - begin


def are_up(server: Program) -> bool:
    """Whether both workers are."""
    return b"farfield_workers_ready 2.0\n" in server.get("/metrics")[1]


@contextlib.contextmanager
def slowed(pid: int) -> Iterator[None]:
    """A program that is stopped half of the time."""
    is_over = threading.Event()

    def alternate() -> None:
        while not is_over.wait(STOP_S):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(STOP_S)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=alternate)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
