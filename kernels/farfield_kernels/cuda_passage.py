"""One call on its way to a CUDA device and back: streams, copies and events, and one wait at the end.

Everything is enqueued, nothing waited for. Arguments go up and kernels run on the stream `compute`, later stages
on `beside`, results come down on `down`; an event stands wherever one stream needs what another does. A call of
many rows goes in slices: `up` copies the next rows while kernels compute these, `down` brings back earlier ones.
Device memory is given back when all streams are empty: no block has a new owner while the old one is being copied.

Copies from and to memory that was pinned are asynchronous. Other arguments go through the driver's own staging;
other results come down into pinned blocks if they are small, else to their place, when all kernels are enqueued.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cuda_launch import sum_rows
from .cuda_memory import CudaMemory, Lane
from .expr import Array
from .host_device import Target
from .launch import Launch

STAGED_BYTES = 2**20  # of a result, up to which a pinned block of the same size is spent on it


@dataclass(frozen=True)
class Slices:
    """Rows that are copied and computed piece by piece, of a call with one kernel.

    Args:
        ends: units before the end of each piece, ascending.
        unit_rows: rows of a unit.
        rows: in all.
        positions: arguments that have these rows; all others are copied before.
        results: what the kernel's outputs become, row by row.
    """

    ends: tuple[int, ...]
    unit_rows: int
    rows: int
    positions: frozenset[int]
    results: tuple[Array, ...]

    def rows_before(self, unit: int) -> int:
        """Rows of the units before one."""
        return min(self.rows, unit * self.unit_rows)

    def pieces(self, first: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(piece, first unit, end) of what lies between two units."""
        for piece, piece_end in enumerate(self.ends):
            begin = self.ends[piece - 1] if piece else 0
            low, high = max(begin, first), min(piece_end, end)
            if low < high:
                yield piece, low, high


class CudaPassage:
    """Arguments and results of one call.

    Args:
        memory: of the device.
        lane: streams that nobody else uses until the end.
        inputs: arguments, as kernels read them.
        slices: pieces to copy and compute at a time, if that pays.
    """

    def __init__(
        self, memory: CudaMemory, lane: Lane, inputs: Sequence[Array], slices: Slices | None = None
    ) -> None:
        self.memory, self.lane, self.stream = memory, lane, lane.compute
        self.cupy, self.inputs, self.slices = memory.cupy, inputs, slices
        self.held: list[Any] = []  # device arrays and pinned blocks, until all streams are empty
        self.arrived: list[Any] = []  # an event for the arguments of each slice
        self.joined: list[Any] = []  # events that the end waits for
        self.late: list[tuple[Any, Array]] = []  # copies down for which the host waits
        self.settled: list[tuple[Array, int]] = []
        self.has_down = False

    def begin(self) -> None:
        """Start to copy the arguments."""
        self.begun = self.mark()
        self.arguments = self._arguments()
        self.ready = self._event(self.lane.compute)
        self.copied = self.mark()

    def __enter__(self) -> CudaPassage:
        try:
            self.begin()
        except BaseException:
            self._end(is_failed=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        self._end(is_failed=kind is not None)

    def _end(self, *, is_failed: bool) -> None:
        if is_failed:
            self.memory.drain(self.lane)
        self.held.clear()
        self.memory.give_back(self.lane)

    # -- moments

    def mark(self) -> Any:
        """The moment at which `compute` reaches this point."""
        return self.lane.compute.record()

    def between(self, begin: Any, end: Any) -> float:
        """Milliseconds from one moment to another, when both are past."""
        return float(self.cupy.cuda.get_elapsed_time(begin, end))

    def _event(self, stream: Any) -> Any:
        """What another stream can wait for."""
        return stream.record(self.cupy.cuda.Event(disable_timing=True))

    # -- memory

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Device memory for what a kernel writes."""
        array = self.memory.allocate(shape, dtype, self.lane.compute)
        self.held.append(array)
        return array

    def staged(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Pinned memory of the host."""
        block, array = self.memory.staged(shape, dtype)
        self.held.append(block)
        return array

    def put(self, array: Array) -> Any:
        """A copy on the device."""
        target = self.empty(array.shape, array.dtype)
        self._copy_up(target, array, self.stream)
        return target

    def _copy_up(self, target: Any, array: Array, stream: Any) -> None:
        target.data.copy_from_host_async(array.ctypes.data, array.nbytes, stream)

    def _copy_down(self, written: Any, array: Array, stream: Any) -> None:
        written.data.copy_to_host_async(array.ctypes.data, array.nbytes, stream)

    def _arguments(self) -> list[Any]:
        """Start to copy all arguments; those of all slices, if there are some, and those that all need first."""
        slices, up = self.slices, self.lane.up
        if slices is None:
            return [self.put(array) for array in self.inputs]
        arguments = [self.empty(array.shape, array.dtype) for array in self.inputs]
        for position, array in enumerate(self.inputs):
            if position not in slices.positions:
                self._copy_up(arguments[position], array, up)
        begin = 0
        for end in map(slices.rows_before, slices.ends):
            for position in sorted(slices.positions):
                rows, array = self.inputs[position][begin:end], arguments[position]
                target = array.data + begin * row_bytes(rows)
                target.copy_from_host_async(rows.ctypes.data, rows.nbytes, up)
            self.arrived.append(self._event(up))
            begin = end
        self.lane.compute.wait_event(self.arrived[0])
        return arguments

    # -- the call

    @contextlib.contextmanager
    def beside(self, place: int) -> Iterator[None]:
        """The first stage runs on `compute`, the others next to it."""
        if place == 0:
            yield
            return
        self.stream = self.lane.beside
        self.stream.wait_event(self.ready)
        try:
            yield
        finally:
            self.joined.append(self._event(self.stream))
            self.stream = self.lane.compute

    def compute(
        self, launch: Launch, inputs: Sequence[Any], outputs: Sequence[Any], memory: Any, first: int, end: int
    ) -> None:
        """Units of a launch, each slice when its rows have come."""
        with self.memory.device, self.stream:
            if self.slices is None:
                launch.run(inputs, outputs, memory, first, end)
                return
            for piece, low, high in self.slices.pieces(first, end):
                if piece:  # the first one came with the arguments that all need
                    self.stream.wait_event(self.arrived[piece])
                launch.run(inputs, outputs, memory, low, high)
                self._slice_down(self.slices, outputs, low, high)

    def _slice_down(self, slices: Slices, outputs: Sequence[Any], first: int, end: int) -> None:
        """Start to copy the rows of some units to their results."""
        begin, stop = slices.rows_before(first), slices.rows_before(end)
        down = self._down()
        for written, result in zip(outputs, slices.results, strict=True):
            rows, source = result[begin:stop], written.data + begin * row_bytes(result)
            source.copy_to_host_async(rows.ctypes.data, rows.nbytes, down)

    def _down(self) -> Any:
        """The stream for results, when it reaches what is enqueued by now."""
        down, self.has_down = self.lane.down, True
        down.wait_event(self._event(self.stream))
        return down

    def _summed(self, written: Any) -> Any:
        """Sums over the second axis, (batches, rows, width) -> (batches, 1, width)."""
        with self.memory.device, self.stream:
            return sum_rows(written, self)

    def total(self, written: Any) -> float:
        """The sum of what a kernel wrote, (1, rows, 1), at once."""
        return float(self.get(self._summed(written)).sum())

    def take(self, written: Sequence[Any], targets: Sequence[Target], results: Sequence[Array]) -> None:
        """Have what a stage wrote copied down when it is there, and results be made of it."""
        if self.slices is not None:
            return  # it is on its way
        now: list[tuple[Any, Array]] = []
        for output, target in zip(written, targets, strict=True):
            source, result = self._summed(output) if target.is_sum else output, results[target.place]
            array, is_late = self._landing(source, result, is_direct=target.is_direct)
            (self.late if is_late else now).append((source, array))
            if array is not result:
                self.settled.append((array, target.place))
        if now:
            down = self._down()
            for source, array in now:
                self._copy_down(source, array, down)

    def _landing(self, written: Any, result: Array, *, is_direct: bool) -> tuple[Array, bool]:
        """Where an output comes down, and whether the host waits for that, as it does for memory not pinned."""
        if is_direct and self.memory.is_pinned(result):
            return result, False
        if written.nbytes <= STAGED_BYTES:
            return self.staged(written.shape, written.dtype), False
        return (result if is_direct else np.empty(written.shape, written.dtype)), True

    def get(self, written: Any) -> Array:
        """What a kernel wrote, at once: the host waits for it."""
        array = np.empty(written.shape, written.dtype)
        self._copy_down(written, array, self.stream)
        return array

    def wait(self) -> None:
        """Until `compute` is empty; slices may still be on their way."""
        self.lane.compute.synchronize()

    def join(self) -> None:
        """Have `compute` wait for all other streams."""
        compute = self.lane.compute
        for event in self.joined:
            compute.wait_event(event)
        self.computed = self.mark()
        if self.has_down:
            compute.wait_event(self._event(self.lane.down))

    def finish(self) -> list[tuple[Array, int]]:
        """Until all is there: what results are to be made of, and their places."""
        self.join()
        for written, array in self.late:
            self._copy_down(written, array, self.lane.compute)
        self.ended = self.mark()
        self.lane.compute.synchronize()
        return self.settled


def row_bytes(array: Array) -> int:
    """From one row of a contiguous array to the next."""
    return int(array.strides[0])
