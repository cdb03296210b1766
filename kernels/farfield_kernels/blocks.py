"""Program + arrays -> arrays by NumPy alone: what runs where there is no compiler.

Blocks of rows meet tiles of columns, whose values lie in a few buffers that fit the last cache and serve every
tile; see `tape.py` for what is computed and `Reduction.fold` for what becomes of it. Threads share the blocks of
rows: NumPy releases the interpreter lock while it computes.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from .expr import INDEX_SHIFT, Array
from .functions_numpy import sums_of_products
from .launch import SMALLEST_SHARED_WORK, Extent, Launch, thread_count
from .lower import Level, Output, Program
from .reductions import SUM, State, Tile
from .schedule import Schedule
from .tape import Take, write
from .texts import evaluate, parse

# NumPy spends 0.2 us on each row of a block, so few rows and many columns are fast: 1e8 pairs of a Gaussian kernel
# of 3 dims took 0.12 s of CPU time in blocks of 16 x 4096, 0.19 s in those of 64 x 1024. But what depends on the
# column alone is computed once per block of rows, and a selection sorts once per block: where that is much, in
# attention of 64 dims for one, 512 columns are four times as fast.
COLUMNS, FEWER_COLUMNS = 4096, 512
# Short calls make threads wait for the interpreter lock: that kernel took two threads 0.18 s with 65,536 pairs a
# call and 0.09 s with these, whose buffers fill 4 MiB at most, a part of the last cache.
NUMBERS = 262_144
CACHE_BYTES = 4_194_304


@dataclass(frozen=True)
class Block:
    """Rows `first` to `end - 1`, and the `count` columns that they meet, in order."""

    first: int
    end: int
    columns: slice | Array
    count: int

    def tiles(self, numbers: int) -> Iterator[tuple[slice | Array, int]]:
        """The columns, so many at a time that the pairs are at most `numbers`, and how many."""
        most = max(1, numbers // (self.end - self.first))
        for first in range(0, self.count, most):
            end = min(self.count, first + most)
            if isinstance(self.columns, slice):
                yield slice(self.columns.start + first, self.columns.start + end), end - first
            else:
                yield self.columns[first:end], end - first


class NumpyKernel:
    """One program; made and called as `CpuKernel` is."""

    def __init__(self, program: Program, schedule: Schedule, source: str) -> None:
        self.program, self.schedule = program, schedule
        self.dtype = np.dtype(schedule.dtype)
        self.tape = write(program, schedule.dtype)
        of_columns = sum(load.count for load in self.tape.loads["col"]) + len(self.tape.calls["col"])
        self.is_narrow = program.reduction.takes_count or of_columns > 2 * len(self.tape.pairs)
        sizes = [1 if is_truth else self.dtype.itemsize for is_truth in self.tape.slots.values()]
        self.pair_bytes = max(1, sum(sizes))

    @property
    def columns(self) -> int:
        """Columns of a tile, unless there are few rows."""
        return FEWER_COLUMNS if self.is_narrow else COLUMNS

    @property
    def numbers(self) -> int:
        """Pairs of a tile."""
        return max(self.columns, min(NUMBERS, CACHE_BYTES // self.pair_bytes))

    def launch(self, extent: Extent) -> Launch:
        """Ready to be run."""
        return NumpyLaunch(self, extent)

    def blocks(self, extent: Extent, threads: int) -> Iterator[Block]:
        """The rows, in order. Where they are reduced too, a block is one row, or one tile holds all its pairs."""
        over_rows = self.program.over_rows
        if extent.blocks is None or extent.ranges is None:
            most = self.numbers // max(1, extent.cols if over_rows else min(extent.cols, self.columns))
            most = max(1, most if over_rows else min(most, -(-extent.rows // threads)))
            for first in range(0, extent.rows, most):
                yield Block(first, min(first + most, extent.rows), slice(0, extent.cols), extent.cols)
            return
        for first, end, begin_range, end_range in sorted(extent.blocks.tolist()):
            ranges = extent.ranges[begin_range:end_range].tolist()
            met = np.concatenate([np.arange(0), *(np.arange(*found) for found in ranges)])
            columns = slice(*ranges[0]) if len(ranges) == 1 else met
            most = max(1, self.numbers // max(1, len(met))) if over_rows else max(1, end - first)
            for top in range(first, end, most):
                yield Block(top, min(top + most, end), columns, len(met))


class NumpyLaunch(Launch):
    """Units are blocks of rows, or where both axes are reduced elements of the batch."""

    def __init__(self, kernel: NumpyKernel, extent: Extent) -> None:
        steps = extent.terms * extent.batches * (1 + len(kernel.tape.pairs))
        threads = thread_count() if steps > SMALLEST_SHARED_WORK else 1
        blocks = list(kernel.blocks(extent, threads))
        self.parts = [blocks] if kernel.program.over_rows else [[block] for block in blocks]
        super().__init__(kernel, extent, extent.batches * len(self.parts), threads)

    @functools.cached_property
    def ends(self) -> Array | None:
        """See `Launch`."""
        work = [sum((block.end - block.first) * (1.0 + block.count) for block in part) for part in self.parts]
        return None if self.extent.blocks is None else np.cumsum(work)

    def run(self, inputs: Sequence[Any], outputs: Sequence[Any], memory: Any, first: int, end: int) -> None:
        """See `Launch`."""
        kernel, extent, parts = self.kernel, self.extent, self.parts
        described = zip(outputs, kernel.program.outputs, strict=True)
        rows = 1 if kernel.program.over_rows else extent.rows
        written = [array.reshape(extent.batches, rows, output.width) for array, output in described]
        ticket, is_over = itertools.count(first), threading.Event()

        def work() -> None:
            try:
                with np.errstate(all="ignore"):  # every thread has its own
                    walk = _Walk(kernel, inputs, extent)
                    while not is_over.is_set() and (unit := next(ticket)) < end:
                        batch, part = divmod(unit, len(parts))
                        walk.reduce(batch, parts[part], [array[batch] for array in written])
            except BaseException:
                is_over.set()
                raise

        threads = min(self.workers, end - first)
        if threads <= 1:
            work()
            return
        with ThreadPoolExecutor(threads) as pool:
            try:
                for done in [pool.submit(work) for _ in range(threads)]:
                    done.result()
            finally:
                is_over.set()  # on Ctrl-C too


class _Walk:
    """One thread's cells and buffers."""

    def __init__(self, kernel: NumpyKernel, inputs: Sequence[Array | None], extent: Extent) -> None:
        self.kernel, self.inputs, self.extent = kernel, inputs, extent
        self.program, self.tape, self.dtype = kernel.program, kernel.tape, kernel.dtype
        self.cells: list[Any] = [None] * self.tape.cells
        for cell, number in self.tape.constants.items():
            self.cells[cell] = number
        self.run("constant")
        self.buffers: dict[int, Array] = {}
        self.shape = (0, 0)
        self.batch = -1
        self.arrays: dict[int, Array] = {}  # argument -> (rows, width), of one element of the batch
        self.begins: dict[int, int] = {}  # argument -> where in it that is
        self.turned: dict[int, Array] = {}  # argument of the columns -> (width, columns)
        self.columns = np.arange(extent.cols)
        self.read = {
            level: {load.position for load in self.tape.loads[level] if load.position is not None}
            for level in ("p", "row", "col")
        }

    def reduce(self, batch: int, blocks: Sequence[Block], written: Sequence[Array]) -> None:
        """The results of the rows of a block, or of all pairs."""
        if batch != self.batch:
            self.batch = batch
            self.load_batch()
        over_rows = self.program.over_rows
        rows = 1 if over_rows else blocks[0].end - blocks[0].first
        state, terms = self.identity(rows), self.extent.terms
        for block in blocks:
            self.load_rows(block)
            for columns, count in block.tiles(self.kernel.numbers):
                self.load_columns(columns)
                self.take_in(state, block, columns, count)
            terms = terms if over_rows else block.count
        at = slice(None) if over_rows else slice(blocks[0].first, blocks[0].end)
        for output, array in zip(self.program.outputs, written, strict=True):
            self.finish(output, state, terms, array[at])

    # -- cells

    def run(self, level: Level) -> None:
        """The calls of a level whose values are not those of pairs."""
        cells = self.cells
        for call in self.tape.calls[level]:
            cells[call.cell] = call.function(*[cells[cell] for cell in call.reads])

    def load(self, level: Level, components: dict[int, Array], numbers: Array) -> None:
        """Fill in what is read, components of arguments by position and halves of numbers, and what follows."""
        for load in self.tape.loads[level]:
            if load.position is not None:
                found = components[load.position][load.component : load.component + load.count]
            else:
                half = numbers >> INDEX_SHIFT if load.half == "high" else numbers & ((1 << INDEX_SHIFT) - 1)
                found = half[None].astype(self.dtype)
            self.cells[load.cell] = found[0] if level == "p" else found.T if level == "row" else found
        self.run(level)

    def load_batch(self) -> None:
        """The arrays of an element of the batch, but for those that are where they were."""
        offsets = self.extent.offsets
        lengths = {"p": 1, "row": self.extent.rows, "col": self.extent.cols}
        for rank, (position, width) in enumerate(self.program.widths):
            begin = 0 if offsets is None else int(offsets[self.batch, rank])
            level = next(level for level, positions in self.read.items() if position in positions)
            if self.begins.get(position) != begin:
                flat = self.inputs[position]
                assert flat is not None
                self.begins[position] = begin
                rows = lengths[level]
                array = flat.reshape(-1)[begin : begin + rows * width].reshape(rows, width)
                self.arrays[position] = array
                if level == "col":
                    self.turned[position] = np.ascontiguousarray(array.T, self.dtype)
        arrays = {position: self.arrays[position][0].astype(self.dtype) for position in self.read["p"]}
        self.load("p", arrays, self.columns)

    def load_rows(self, block: Block) -> None:
        rows = slice(block.first, block.end)
        turned = {
            position: np.ascontiguousarray(self.arrays[position][rows].T, self.dtype)
            for position in self.read["row"]
        }
        self.load("row", turned, np.arange(block.first, block.end))

    def load_columns(self, columns: slice | Array) -> None:
        self.load("col", {k: turned[:, columns] for k, turned in self.turned.items()}, self.columns[columns])

    # -- pairs

    def take_in(self, state: list[State], block: Block, columns: slice | Array, count: int) -> None:
        """Compute a tile and fold its terms into the state."""
        shape = (block.end - block.first, count)
        if shape != self.shape:
            self.resize(shape)
        cells = self.cells
        for step in self.tape.pairs:
            if isinstance(step, Take):
                self.take(step, state, block, columns)
            else:
                step.function(*[cells[cell] for cell in step.reads], out=cells[step.cell])

    def resize(self, shape: tuple[int, int]) -> None:
        """Lay the slots out for a tile: along the longer side, as NumPy's inner loops are then long."""
        self.shape = (rows, cols) = shape
        for slot, is_truth in self.tape.slots.items():
            buffer = self.buffers.get(slot)
            if buffer is None or buffer.size < rows * cols:
                buffer = self.buffers[slot] = np.empty(rows * cols, bool if is_truth else self.dtype)
            flat = buffer[: rows * cols]
            is_turned = cols < rows and not self.program.over_rows
            self.cells[slot] = flat.reshape(cols, rows).T if is_turned else flat.reshape(rows, cols)

    def take(self, step: Take, state: list[State], block: Block, columns: slice | Array) -> None:
        term = self.cells[step.term]
        if step.factors is not None:
            for k, sums in zip(step.components, sums_of_products(self.cells[step.factors], term.T), strict=True):
                state[k] = (state[k][0] + sums,)
            return
        terms = term if step.is_free else np.broadcast_to(term, self.shape)
        if not (step.is_free or self.program.reduction is SUM):
            terms = terms.copy()  # a fold may write to it
        numbers = self.columns[columns]
        weights = self.weights()
        if self.program.over_rows:  # a pair is one of many columns of one row
            rows = np.arange(block.first, block.end)
            numbers = (rows[:, None] * self.extent.cols + numbers).reshape(-1)
            terms = terms.reshape(1, -1)
            if weights is not None:
                weights = np.broadcast_to(weights, (len(weights), *self.shape)).reshape(len(weights), 1, -1)
        taken = self.program.reduction.fold(state[step.components[0]], Tile(terms, numbers, weights))
        for k in step.components:
            state[k] = taken

    def weights(self) -> Array | None:
        """(W, rows or 1, cols)."""
        found = [self.cells[cell] for cell in self.tape.weights]
        if not found:
            return None
        if self.tape.is_together:
            return np.asarray(found[0][:, None])
        return np.stack([np.broadcast_to(weight, self.shape) for weight in found])

    # -- state

    def identity(self, rows: int) -> list[State]:
        """The state of every component before the first term."""
        fields = []
        for field in self.program.reduction.state:
            shape = (rows, self.program.entries(field)) if field.each else (rows,)
            value = evaluate(parse(field.identity), {})
            fields.append(np.full(shape, value, np.int64 if field.is_integer else np.float64))
        return [tuple(fields)] * len(self.program.components)

    def finish(self, output: Output, state: Sequence[State], terms: int, written: Array) -> None:
        """Write one output of some rows: (rows, width)."""
        result, sizes = output.result, {"K": self.program.K, "W": len(self.program.weights), "terms": terms}
        entries = {"": 1, "K": self.program.K, "W": len(self.program.weights) - result.skip}[result.each]
        tree, ahead = parse(result.finish), int(result.head is not None)
        for o in range(output.count):
            fields = zip(self.program.reduction.state, state[output.first + o], strict=True)
            names = sizes | {field.name: values for field, values in fields}
            if result.head is not None:
                written[:, 0] = evaluate(parse(result.head), names)
            for q in range(entries):
                written[:, ahead + q * output.count + o] = evaluate(tree, names | {"q": q})
