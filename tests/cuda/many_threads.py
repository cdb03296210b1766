"""Emitted CUDA text behind the signature of `CudaKernel`, on NumPy arrays: all threads of its blocks run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cuda.simt.emulator import Order, build
from farfield_kernels.emit import emit
from farfield_kernels.execute import Host
from farfield_kernels.expr import Array
from farfield_kernels.launch import Extent, Launch
from farfield_kernels.lower import Program
from farfield_kernels.schedule import Schedule
from farfield_kernels.stages import Emitted

Choice = Callable[[Program, Schedule], Schedule]


class ManyThreads(Host):
    """The back end of such kernels.

    Args:
        choice: program, its schedule -> the schedule that is run.
        splits: parts of the columns.
        order: of blocks and threads, see the emulator.
    """

    def __init__(self, choice: Choice, splits: int, order: Order) -> None:
        self.choice, self.splits, self.order = choice, splits, order

    def build(self, kernels: tuple[Emitted, ...]) -> list[ManyThreadsKernel]:
        """Compiled kernels."""
        return [ManyThreadsKernel(k.program, self.choice(k.program, k.schedule), self) for k in kernels]


class ManyThreadsKernel:
    """One of them."""

    def __init__(self, program: Program, schedule: Schedule, host: ManyThreads) -> None:
        self.program, self.schedule, self.host = program, schedule, host
        self.text = build(emit(program, schedule))
        self.state = program.state_size * len(program.components)

    def launch(self, extent: Extent) -> Launch:
        """Ready to be run."""
        return ManyThreadsLaunch(self, extent)


class ManyThreadsLaunch(Launch):
    """As `CudaLaunch`."""

    def __init__(self, kernel: ManyThreadsKernel, extent: Extent) -> None:
        self.splits = kernel.host.splits if extent.blocks is None else 1
        self.row_blocks = extent.row_blocks(kernel.schedule)
        super().__init__(kernel, extent, extent.batches * self.row_blocks * self.splits, 1)

    def memory(self) -> Array:
        """Partial states."""
        return np.full(self.extent.batches * self.splits * self.kernel.state * self.extent.rows + 1, np.nan)

    def run(self, inputs: Sequence[Any], outputs: Sequence[Any], memory: Any, first: int, end: int) -> None:
        """Run reduce, and merge if the columns were split or both axes are reduced."""
        extent, kernel, over_rows = self.extent, self.kernel, self.kernel.program.over_rows
        rows, cols, batches, block = extent.rows, extent.cols, extent.batches, kernel.schedule.block
        if batches == 0 or (rows == 0 and not over_rows):
            return
        sizes = [np.int64(size) for size in (rows, cols, self.splits)]
        read = [inputs[position] for position, _ in kernel.program.widths]
        order = kernel.host.order
        if end > first:
            walk = [
                *sizes,
                np.int64(first),
                np.int64(self.row_blocks),
                extent.blocks,
                extent.ranges,
                extent.offsets,
            ]
            kernel.text.launch(
                "farfield_reduce", end - first, block, [*walk, *read, *outputs, memory], order=order
            )
        if end == self.units and (self.splits > 1 or over_rows):
            ends = [np.int64(batches), np.int64(extent.terms if over_rows else cols)]
            blocks = batches if over_rows else -(-batches * rows * kernel.schedule.mergers // block)
            kernel.text.launch("farfield_merge", blocks, block, [*sizes, *ends, *outputs, memory], order=order)
