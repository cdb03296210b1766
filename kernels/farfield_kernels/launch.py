"""Binary + arrays -> arrays: run one kernel on CPU threads; cuda_launch.py does so on a CUDA device.

Every CPU thread calls the same function and draws units of work from one ticket. The threads are Farfield's own,
so no OpenMP run time can clash with the one that torch brings; the calling thread is one of them, and ctypes
releases the interpreter lock. Some units of a launch can be run, and the others later: see `Launch`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from .build import build_cpp
from .errors import DeviceError
from .expr import Array
from .lower import Level, Program
from .schedule import Schedule, block_rows, split

# Scalar operations below which one thread is faster than waking another (about 50 us).
SMALLEST_SHARED_WORK = 1_000_000
ROUNDING = 1e-9  # of the work of a launch: that much more does not need another part
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

    def steps(self, operations: Mapping[Level, int]) -> int:
        """Scalar operations in all, of so many per row, column and pair."""
        steps = self.rows * operations["row"] + self.cols * operations["col"] + self.terms * operations["pair"]
        return steps * self.batches

    def row_blocks(self, schedule: Schedule) -> int:
        """Blocks of rows of one element of the batch."""
        return -(-self.rows // block_rows(schedule)) if self.blocks is None else len(self.blocks)


class Launch:
    """A kernel and how far it goes, run in one go or some units at a time, in order.

    Args:
        kernel: what to launch.
        extent: sizes, batch and ranges.
        units: into how much its work is divided, element of the batch after element.
        workers: units that are computed at the same time.
    """

    def __init__(self, kernel: Any, extent: Extent, units: int, workers: int) -> None:
        self.kernel, self.extent, self.units, self.workers = kernel, extent, units, workers
        self.last_rate = 0.0  # scalar operations per second, when it was run in parts; see pace.py

    def memory(self, passage: Any = None) -> Any:
        """What the units of one run share: states that are merged when all are known.

        Args:
            passage: what has memory of the device; see cuda_passage.py.
        """

    def run(self, inputs: Sequence[Any], outputs: Sequence[Any], memory: Any, first: int, end: int) -> None:
        """Compute the units `first` to `end - 1`, and finish with the last one.

        Args:
            inputs: the arguments by position, C-contiguous, in the kernel's type; None where unused.
            outputs: one array per `Program.outputs`, C-contiguous; written in place.
            memory: of `memory()`, the same for all units.
        """
        raise NotImplementedError

    def __call__(self, inputs: Sequence[Any], outputs: Sequence[Any], passage: Any = None) -> None:
        """Compute all units."""
        self.run(inputs, outputs, self.memory(passage), 0, self.units)

    @functools.cached_property
    def steps(self) -> float:
        """Scalar operations of all units."""
        return self.extent.steps(_operations(self.kernel.program)) if self.units else 0

    @functools.cached_property
    def ends(self) -> Array | None:
        """Work of the first 1, 2, ... units of an element of the batch; None if units are alike."""
        blocks, ranges = self.extent.blocks, self.extent.ranges
        if blocks is None or ranges is None:
            return None
        met = np.concatenate([[0], np.cumsum(ranges[:, 1] - ranges[:, 0])])
        return np.cumsum((blocks[:, 1] - blocks[:, 0]) * (1.0 + met[blocks[:, 3]] - met[blocks[:, 2]]))

    def reached(self, unit: int) -> float:
        """Scalar operations of the units before one."""
        if self.ends is None or not self.units:
            return self.steps * unit / max(1, self.units)
        element, own = divmod(unit, len(self.ends))
        share = self.ends[own - 1] / self.ends[-1] if own else 0.0
        return float((element + share) * self.steps / self.extent.batches)

    def end(self, first: int, steps: float) -> int:
        """The end of so many scalar operations from a unit on, such that all workers have as many units to do."""
        share = min(1.0, (self.reached(first) + steps) / max(1.0, self.steps) + ROUNDING)
        if self.ends is None or not self.units:
            end = int(share * self.units)
        else:
            element, own = divmod(share * self.extent.batches, 1)
            end = int(element) * len(self.ends) + int(np.searchsorted(self.ends, own * self.ends[-1], "right"))
        rounds = max(1, (end - first) // self.workers)
        return self.units if end >= self.units else min(self.units, first + rounds * self.workers)


@functools.lru_cache(maxsize=512)
def _operations(program: Program) -> dict[Level, int]:
    """Scalar operations per row, column and pair."""
    levels: tuple[Level, ...] = ("row", "col", "pair")
    return {level: 1 + len(program.at(level)) for level in levels}


class CpuKernel:
    """One compiled C++ kernel."""

    def __init__(self, program: Program, schedule: Schedule, source: str) -> None:
        library = build_cpp(source)
        self.program, self.schedule = program, schedule
        self.reduce, self.merge = library.farfield_reduce, library.farfield_merge
        self.state = program.state_size * len(program.components)

    def launch(self, extent: Extent) -> Launch:
        """Ready to be run."""
        return CpuLaunch(self, extent)


class CpuLaunch(Launch):
    """What all runs of that kind have in common is made once."""

    def __init__(self, kernel: CpuKernel, extent: Extent) -> None:
        rows, cols, batches, over_rows = extent.rows, extent.cols, extent.batches, kernel.program.over_rows
        steps = extent.steps(_operations(kernel.program))
        threads = thread_count() if steps > SMALLEST_SHARED_WORK else 1
        is_split = threads > 1 and extent.blocks is None
        splits = split(kernel.schedule, rows, cols, batches, threads) if is_split else 1
        blocks = extent.row_blocks(kernel.schedule)
        super().__init__(kernel, extent, batches * blocks * splits, threads)
        self.is_empty = batches == 0 or (rows == 0 and not over_rows)
        self.is_merged = splits > 1 or over_rows
        self.partial = batches * splits * kernel.state * rows if self.is_merged else 0  # numbers to be merged
        self.sizes = tuple(ctypes.c_longlong(size) for size in (rows, cols, splits))
        self.batches, self.last = ctypes.c_longlong(batches), ctypes.c_longlong(self.units)
        tables = (extent.blocks, extent.ranges, extent.offsets)
        self.tables = (ctypes.c_longlong(blocks), *(ctypes.c_void_p(_address(table)) for table in tables))
        self.terms = ctypes.c_longlong(extent.terms if over_rows else cols)

    def memory(self, passage: Any = None) -> Array | None:
        """Partial states."""
        return np.empty(self.partial) if self.is_merged else None

    def run(self, inputs: Sequence[Any], outputs: Sequence[Any], memory: Any, first: int, end: int) -> None:
        """See `Launch`."""
        if self.is_empty:
            return
        pointers = _pointers(len(inputs))(*map(_address, inputs))
        results = _pointers(len(outputs))(*map(_address, outputs))
        at_partial, ticket = ctypes.c_void_p(_address(memory)), ctypes.c_longlong(first)
        last = self.last if end == self.units else ctypes.c_longlong(end)
        words = (*self.sizes, last, *self.tables, pointers, results, at_partial, ctypes.byref(ticket))
        failed = self.kernel.reduce(*words) if self.workers == 1 else self._shared(words, ticket)
        if failed:
            raise MemoryError("the kernel could not allocate its tiles")
        is_done = self.is_merged and end == self.units
        if is_done and self.kernel.merge(*self.sizes, self.batches, self.terms, results, at_partial):
            raise MemoryError("the kernel could not allocate its state")

    def _shared(self, words: Sequence[Any], ticket: ctypes.c_longlong) -> int:
        """Run it on all threads; how many failed."""

        def work() -> int:
            return int(self.kernel.reduce(*words))

        others: list[Future[int]] = []
        try:
            with contextlib.suppress(RuntimeError):  # no thread can be started: those that are there will do
                for _ in range(self.workers - 1):
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
