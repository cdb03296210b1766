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
from dataclasses import dataclass
from typing import Any

import numpy as np

from .build import build_cpp, build_cuda, import_cupy
from .errors import DeviceError
from .expr import Array
from .lower import Level, Program
from .schedule import Schedule, block_rows, split

# Scalar operations below which one thread is faster than waking another (about 50 us).
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


@dataclass(frozen=True)
class Extent:
    """How far one launch goes.

    Args:
        rows: length of the kept axis.
        cols: length of the reduced axis.
        batches: elements of the batch.
        offsets: (batches, arguments read) int64: where the data of each begin, in elements; None if all at 0.
        blocks: (blocks, 4) int64: first row, end of rows, first range, end of ranges; None for all pairs.
        ranges: (ranges, 2) int64: first column, end of columns.
        terms: pairs of one batch element.
    """

    rows: int
    cols: int
    batches: int = 1
    offsets: Array | None = None
    blocks: Array | None = None
    ranges: Array | None = None
    terms: int = 0


class CpuKernel:
    """One compiled C++ kernel."""

    def __init__(self, program: Program, schedule: Schedule, source: str) -> None:
        library = build_cpp(source)
        self.program, self.schedule = program, schedule
        self.reduce, self.merge = library.farfield_reduce, library.farfield_merge
        self.state = program.state_size * len(program.components)
        levels: tuple[Level, ...] = ("row", "col", "pair")
        self.operations = {level: 1 + len(program.at(level)) for level in levels}

    def __call__(self, inputs: Sequence[Array | None], outputs: Sequence[Array], extent: Extent) -> None:
        """Run it once; see `CpuLaunch`."""
        CpuLaunch(self, extent)(inputs, outputs)


class CpuLaunch:
    """A kernel and how far it goes: what all launches of that kind have in common is made once.

    Args:
        kernel: what to launch.
        extent: sizes, batch and ranges.
    """

    def __init__(self, kernel: CpuKernel, extent: Extent) -> None:
        rows, cols, batches, over_rows = extent.rows, extent.cols, extent.batches, kernel.program.over_rows
        self.kernel, self.extent = kernel, extent  # whose tables `self.tables` points to
        self.is_empty = batches == 0 or (rows == 0 and not over_rows)
        steps = rows * kernel.operations["row"] + cols * kernel.operations["col"]
        steps += extent.terms * kernel.operations["pair"]
        self.threads = thread_count() if steps * batches > SMALLEST_SHARED_WORK else 1
        is_split = self.threads > 1 and extent.blocks is None
        splits = split(kernel.schedule, rows, cols, batches, self.threads) if is_split else 1
        blocks = -(-rows // block_rows(kernel.schedule)) if extent.blocks is None else len(extent.blocks)
        self.is_merged = splits > 1 or over_rows
        self.partial = batches * splits * kernel.state * rows if self.is_merged else 0  # numbers to be merged
        self.sizes = tuple(ctypes.c_longlong(size) for size in (rows, cols, splits, batches))
        self.row_blocks = ctypes.c_longlong(blocks)
        tables = (extent.blocks, extent.ranges, extent.offsets)
        self.tables = tuple(ctypes.c_void_p(_address(table)) for table in tables)
        self.terms = ctypes.c_longlong(extent.terms if over_rows else cols)

    def __call__(self, inputs: Sequence[Array | None], outputs: Sequence[Array]) -> None:
        """Run it.

        Args:
            inputs: the arguments by position, C-contiguous, in the kernel's type; None where unused.
            outputs: one array per `Program.outputs`, C-contiguous; written in place.
        """
        if self.is_empty:
            return
        partial = np.empty(self.partial) if self.is_merged else None
        pointers = _pointers(len(inputs))(*map(_address, inputs))
        results = _pointers(len(outputs))(*map(_address, outputs))
        at_partial = ctypes.c_void_p(_address(partial))
        ticket = ctypes.c_longlong(0)
        words = (*self.sizes, self.row_blocks, *self.tables, pointers, results, at_partial, ctypes.byref(ticket))
        failed = self.kernel.reduce(*words) if self.threads == 1 else self._shared(words, ticket)
        if failed:
            raise MemoryError("the kernel could not allocate its tiles")
        if self.is_merged and self.kernel.merge(*self.sizes, self.terms, results, at_partial):
            raise MemoryError("the kernel could not allocate its state")

    def _shared(self, words: Sequence[Any], ticket: ctypes.c_longlong) -> int:
        """Run it on all threads; how many failed."""

        def work() -> int:
            return int(self.kernel.reduce(*words))

        others: list[Future[int]] = []
        try:
            with contextlib.suppress(RuntimeError):  # no thread can be started: those that are there will do
                for _ in range(self.threads - 1):
                    others.append(_threads().submit(_elsewhere, work, _current_core()))
            failed = work()
        finally:
            # Helpers that did not start are not needed: the ticket is drawn. Those that did still write to our
            # arrays, so nobody leaves before them, not even on Ctrl-C; the ticket's end lets them stop soon.
            ticket.value = TICKET_END
            running = [other for other in others if not other.cancel()]
            _wait(running)
        return failed + sum(other.result() for other in running)


@functools.cache
def _pointers(count: int) -> type[ctypes.Array[ctypes.c_void_p]]:
    return ctypes.c_void_p * count


def _address(array: Array | None) -> int | None:
    if array is None:
        return None
    try:  # a third of the time of the way that always works
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]  # before Python 3.12
    except (TypeError, ValueError, BufferError):  # read-only, empty, or of a type that buffers do not know
        return int(array.ctypes.data)


class CudaKernel:
    """One compiled CUDA kernel."""

    def __init__(self, program: Program, schedule: Schedule, source: str) -> None:
        module = build_cuda(source)
        self.program, self.schedule = program, schedule
        self.reduce = module.get_function("farfield_reduce")
        self.merge = module.get_function("farfield_merge")
        self.state = program.state_size * len(program.components)

    def __call__(self, inputs: Sequence[Any], outputs: Sequence[Any], extent: Extent) -> None:
        """As `CpuKernel`, on CuPy arrays and the current stream; the tables of `extent` are NumPy arrays."""
        rows, cols, batches, over_rows = extent.rows, extent.cols, extent.batches, self.program.over_rows
        if batches == 0 or (rows == 0 and not over_rows):
            return
        cupy = import_cupy()
        multiprocessors = cupy.cuda.Device().attributes["MultiProcessorCount"]
        splits = 1
        if extent.blocks is None:
            splits = split(self.schedule, rows, cols, batches, multiprocessors)
        row_blocks = -(-rows // block_rows(self.schedule)) if extent.blocks is None else len(extent.blocks)
        is_merged = splits > 1 or over_rows
        partial = cupy.empty(batches * splits * self.state * rows if is_merged else 1, dtype="float64")
        read = [inputs[position] for position, _ in self.program.widths]
        sizes = [np.int64(size) for size in (rows, cols, splits)]
        null = np.uintp(0)
        tables = [
            null if table is None else cupy.asarray(table)
            for table in (extent.blocks, extent.ranges, extent.offsets)
        ]
        block, units = self.schedule.block, batches * row_blocks * splits
        if units:
            self.reduce((units,), (block,), (*sizes, np.int64(row_blocks), *tables, *read, *outputs, partial))
        if is_merged:
            blocks = batches if over_rows else -(-batches * rows // block)
            ends = (np.int64(batches), np.int64(extent.terms if over_rows else cols))
            self.merge((blocks,), (block,), (*sizes, *ends, *outputs, partial))
