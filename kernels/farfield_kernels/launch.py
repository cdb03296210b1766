"""Binary + arrays -> arrays: run one kernel on CPU threads or on a CUDA device.

Every CPU thread calls the same function and draws units of work from one ticket. The threads are Farfield's own,
so no OpenMP run time can clash with the one that torch brings; the calling thread is one of them, and ctypes
releases the interpreter lock.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from .build import build_cpp, build_cuda, import_cupy
from .errors import DeviceError
from .expr import Array
from .lower import Program
from .schedule import Schedule, split

# Pairs times scalar operations below which one thread is faster than waking another (about 50 us).
SMALLEST_SHARED_WORK = 1_000_000
TICKET_END = 2**62  # past every unit of work

_pool: ThreadPoolExecutor | None = None


def _after_fork() -> None:
    global _pool
    _pool = None  # the parent's threads do not exist in the child


os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def thread_count() -> int:
    """CPU threads: `FARFIELD_THREADS`, else the cores this process may run on."""
    asked = os.environ.get("FARFIELD_THREADS", "")
    if asked:
        if not asked.isdigit() or int(asked) < 1:
            raise DeviceError(f"FARFIELD_THREADS is '{asked}', a number from 1 is needed")
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max(1, thread_count() - 1), thread_name_prefix="farfield")
    return _pool


def _wait(running: Sequence[Future[int]]) -> None:
    """Wait for all, and pass on an interrupt only then."""
    interrupt: KeyboardInterrupt | None = None
    for future in running:
        while not future.done():
            try:
                concurrent.futures.wait([future])
            except KeyboardInterrupt as error:
                interrupt = error
    if interrupt:
        raise interrupt


def _load_current_core() -> Callable[[], int]:
    try:
        return ctypes.CDLL(None).sched_getcpu
    except (AttributeError, OSError):  # not Linux
        return lambda: -1


_current_core = _load_current_core()


def _elsewhere(work: Callable[[], int], core: int) -> int:
    """Run on another core than the caller's.

    Linux wakes a thread on the core of the thread that woke it, and may take longer to move it away than a whole
    call lasts: after 20 ms of rest, two threads shared one of two cores for all of a 6 ms call.
    """
    if core < 0:
        return work()
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        return work()
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.sched_setaffinity(0, allowed - {core})
    try:
        return work()
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, allowed)


class CpuKernel:
    """One compiled C++ kernel."""

    def __init__(self, program: Program, schedule: Schedule, source: str) -> None:
        library = build_cpp(source)
        self.program, self.schedule = program, schedule
        self.reduce, self.merge = library.farfield_reduce, library.farfield_merge
        self.fields = len(program.reduction.state) * len(program.components)
        self.operations = 1 + len(program.at("pair"))

    def __call__(self, inputs: Sequence[Array | None], outputs: Sequence[Array], rows: int, cols: int) -> None:
        """Run it.

        Args:
            inputs: the arguments by position, C-contiguous, in the kernel's type; None where unused.
            outputs: one array per `Program.outputs`, C-contiguous; written in place.
            rows: length of the kept axis.
            cols: length of the reduced axis.
        """
        if rows == 0:
            return
        threads = thread_count() if rows * cols * self.operations > SMALLEST_SHARED_WORK else 1
        splits = split(self.schedule, rows, cols, threads) if threads > 1 else 1
        partial = np.empty(splits * self.fields * rows if splits > 1 else 0)
        pointers = (ctypes.c_void_p * len(inputs))(*(None if a is None else a.ctypes.data for a in inputs))
        results = (ctypes.c_void_p * len(outputs))(*(a.ctypes.data for a in outputs))
        ticket = ctypes.c_longlong(0)
        sizes = (ctypes.c_longlong(rows), ctypes.c_longlong(cols), ctypes.c_longlong(splits))
        at_partial = ctypes.c_void_p(partial.ctypes.data)

        def work() -> int:
            return int(self.reduce(*sizes, pointers, results, at_partial, ctypes.byref(ticket)))

        others = [_threads().submit(_elsewhere, work, _current_core()) for _ in range(threads - 1)]
        try:
            failed = work()
        finally:
            # Helpers that did not start are not needed: the ticket is drawn. Those that did still write to our
            # arrays, so nobody leaves before them, not even on Ctrl-C; the ticket's end lets them stop soon.
            ticket.value = TICKET_END
            running = [other for other in others if not other.cancel()]
            _wait(running)
        failed += sum(other.result() for other in running)
        if failed:
            raise MemoryError("the kernel could not allocate its tiles")
        if splits > 1:
            self.merge(*sizes, results, at_partial)


class CudaKernel:
    """One compiled CUDA kernel."""

    def __init__(self, program: Program, schedule: Schedule, source: str) -> None:
        module = build_cuda(source)
        self.program, self.schedule = program, schedule
        self.reduce = module.get_function("farfield_reduce")
        self.merge = module.get_function("farfield_merge")
        self.fields = len(program.reduction.state) * len(program.components)

    def __call__(self, inputs: Sequence[Any], outputs: Sequence[Any], rows: int, cols: int) -> None:
        """As `CpuKernel`, on CuPy arrays and the current stream."""
        if rows == 0:
            return
        cupy = import_cupy()
        multiprocessors = cupy.cuda.Device().attributes["MultiProcessorCount"]
        splits = split(self.schedule, rows, cols, multiprocessors)
        partial = cupy.empty(splits * self.fields * rows if splits > 1 else 1, dtype="float64")
        read = [inputs[position] for position, _ in self.program.widths]
        sizes = (np.int64(rows), np.int64(cols), np.int64(splits))
        block = self.schedule.block
        blocks = -(-rows // (block * self.schedule.rows))
        self.reduce((blocks, splits), (block,), (*sizes, *read, *outputs, partial))
        if splits > 1:
            self.merge((-(-rows // block),), (block,), (*sizes, *outputs, partial))
