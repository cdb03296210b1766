"""Binary + device arrays -> device arrays: run one kernel on a CUDA device, on the current stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .build import build_cuda, cuda_device_count, import_cupy
from .emit.cuda_sum import CUDA_SUM
from .emit.cuda_sum import THREADS as SUM_THREADS
from .launch import Extent, Launch
from .lower import Program
from .schedule import Schedule, split

DEFAULT_MULTIPROCESSORS = 132  # of an H100 or H200, where there is no device to ask
DEFAULT_CAPABILITY = 9  # of those too
STATES = 2048  # of rows, merged by one block of a device: 16 by each thread, one after the other


def multiprocessors() -> int:
    """Of the current CUDA device; `DEFAULT_MULTIPROCESSORS` without one."""
    if not cuda_device_count():
        return DEFAULT_MULTIPROCESSORS
    return int(import_cupy().cuda.Device().attributes["MultiProcessorCount"])


def capability() -> int:
    """The major number of the current CUDA device's compute capability; `DEFAULT_CAPABILITY` without one."""
    if not cuda_device_count():
        return DEFAULT_CAPABILITY
    return int(import_cupy().cuda.Device().attributes["ComputeCapabilityMajor"])


class CudaKernel:
    """One compiled CUDA kernel."""

    def __init__(self, program: Program, schedule: Schedule, source: str) -> None:
        module = build_cuda(source)
        self.program, self.schedule = program, schedule
        self.reduce = module.get_function("farfield_reduce")
        self.merge = module.get_function("farfield_merge")
        self.state = program.state_size * len(program.components)

    def launch(self, extent: Extent) -> Launch:
        """Ready to be run on the current stream; the tables of `extent` are NumPy arrays."""
        return CudaLaunch(self, extent)


class CudaLaunch(Launch):
    """The grid of a kernel on the current device."""

    def __init__(self, kernel: CudaKernel, extent: Extent) -> None:
        workers = multiprocessors()
        rows, cols, batches = extent.rows, extent.cols, extent.batches
        is_split = extent.blocks is None
        self.splits = split(kernel.schedule, rows, cols, batches, workers) if is_split else 1
        self.row_blocks = extent.row_blocks(kernel.schedule)
        super().__init__(kernel, extent, batches * self.row_blocks * self.splits, workers)
        # States of an element of the batch where both axes are reduced: of all units, and after each merging.
        self.states = [self.row_blocks * self.splits * (kernel.schedule.block // kernel.schedule.mergers)]
        while self.states[-1] > STATES:
            self.states.append(-(-self.states[-1] // STATES))

    def memory(self, passage: Any = None) -> tuple[Any, list[Any]]:
        """Partial states, and the tables on the device."""
        extent, kernel, null = self.extent, self.kernel, np.uintp(0)
        is_merged = self.splits > 1 or kernel.program.over_rows
        states = sum(self.states) if kernel.program.over_rows else self.splits * extent.rows
        size = extent.batches * kernel.state * states if is_merged else 1
        tables = (extent.blocks, extent.ranges, extent.offsets)
        on_device = [null if table is None else passage.put(table) for table in tables]
        return passage.empty((size,), np.dtype("float64")), on_device

    def run(self, inputs: Sequence[Any], outputs: Sequence[Any], memory: Any, first: int, end: int) -> None:
        """See `Launch`."""
        extent, kernel, over_rows = self.extent, self.kernel, self.kernel.program.over_rows
        rows, cols, batches = extent.rows, extent.cols, extent.batches
        if batches == 0 or (rows == 0 and not over_rows):
            return
        partial, tables = memory
        read = [inputs[position] for position, _ in kernel.program.widths]
        sizes = [np.int64(size) for size in (rows, cols, self.splits)]
        block = kernel.schedule.block
        if end > first:
            walk = (*sizes, np.int64(first), np.int64(self.row_blocks), *tables)
            kernel.reduce((end - first,), (block,), (*walk, *read, *outputs, partial))
        if end == self.units and over_rows:
            self._merge_rows(outputs, partial)
        elif end == self.units and self.splits > 1:
            blocks = -(-batches * rows * kernel.schedule.mergers // block)
            kernel.merge((blocks,), (block,), (*sizes, np.int64(batches), np.int64(cols), *outputs, partial))

    def _merge_rows(self, outputs: Sequence[Any], partial: Any) -> None:
        """Merge what blocks left, until each element of the batch has one state."""
        kernel, batches = self.kernel, self.extent.batches
        for states, left in zip(self.states, (*self.states[1:], 1), strict=True):
            sizes = (np.int64(size) for size in (states, self.extent.cols, left, batches, self.extent.terms))
            kernel.merge((batches * left,), (kernel.schedule.mergers,), (*sizes, *outputs, partial))
            partial = partial[batches * kernel.state * states :]


SUMMED_ROWS = 8192  # rows of one block of threads, so that many rows make many blocks
MAX_SUMMED_PARTS = 256  # which another block sums


def sum_rows(written: Any, passage: Any) -> Any:
    """Sums over the second axis, (batches, rows, width) float64 -> (batches, 1, width).

    The order of the terms follows from the shape alone. CuPy's own sum would take memory that nobody holds until a
    graph that was made of it is gone.

    Args:
        written: a device array.
        passage: what has memory of the device; see cuda_passage.py.
    """
    kernel = build_cuda(CUDA_SUM).get_function("farfield_sum")
    parts = 0
    while parts != 1:
        batches, rows, width = written.shape
        parts = min(MAX_SUMMED_PARTS, max(1, rows // SUMMED_ROWS))
        sums = passage.empty((batches, parts, width), np.dtype("float64"))
        if batches and width:
            sizes = (np.int64(rows), np.int64(width), np.int64(parts))
            kernel((batches * parts * width,), (SUM_THREADS,), (written, sums, *sizes))
        written = sums
    return written
