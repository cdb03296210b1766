"""Plan + arrays + back end -> results: the launches of one call, one stage after the other."""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .arguments import Sizes, numpy_dtype
from .build import numpy_reason
from .cuda_device import Cuda, current_cuda
from .cuda_launch import capability, multiprocessors
from .cuda_passage import CudaPassage, Slices
from .expr import Array
from .host_device import NOWHERE, Host, HostPassage, Numpy, Target
from .launch import Extent, Launch
from .lower import Output, Program
from .operation import Vjp
from .pace import GROWTH, Pace
from .ranges import Ranges
from .schedule import FEW_ROWS, MANY_COLUMNS, Device, Schedule, block_rows, for_sizes
from .schedule_contraction import is_for
from .separate import acceptable
from .stages import Emitted, Plan, Separated, Stage


@dataclass
class Timing:
    """Where the time of one call went, in milliseconds.

    Args:
        compile_ms: checking the call, if it is a new one, and compiling what is not compiled yet.
        h2d_ms, d2h_ms: copying arguments to a device before the first kernel, and results after the last.
        kernel_ms: the kernels, and what is copied meanwhile; of a call replayed as a graph, all its copies too.
    """

    compile_ms: float = 0.0
    h2d_ms: float = 0.0
    kernel_ms: float = 0.0
    d2h_ms: float = 0.0


Backend = Host | Cuda
Passage = HostPassage | CudaPassage
HOST, NUMPY = Host(), Numpy()
KEPT_BYTES = 4096  # of a table of batch offsets, up to which it is kept for the next call of that kind


@dataclass(frozen=True, eq=False)
class Step:
    """One stage, by passes if there are any, and its outputs."""

    stage: Stage
    separated: Separated | None
    targets: tuple[Target, ...]


@dataclass(frozen=True, eq=False)
class Work:
    """The kernels of one call and how far they go.

    Args:
        call: the kernels.
        sizes: of the arguments.
        pairs: which of them meet, if not all.
        separation: whether passes may replace kernels over all pairs.
        is_wide: whether all floating-point results are float64, whatever the kernels compute in.
    """

    call: Plan
    sizes: Sizes
    pairs: Ranges | None
    separation: str
    is_wide: bool = False
    launches: dict[Stage, Launch] = field(default_factory=dict)

    @functools.cached_property
    def steps(self) -> tuple[Step, ...]:
        """What is launched, and where its results go."""
        return tuple(Step(stage, self.separated(stage), self._targets(stage)) for stage in self.call.stages)

    def _targets(self, stage: Stage) -> tuple[Target, ...]:
        operation, dtype, compute = self.call.operation, self.sizes.dtype, self.sizes.compute
        targets = []
        for output, place in zip(stage.program.outputs, stage.results, strict=True):
            written = numpy_dtype(output_dtype(output, "float64" if self.is_wide else compute))
            wanted = operation.results[place].dtype("float64" if self.is_wide else dtype)
            same = not output.is_sum and numpy_dtype(wanted) == written
            is_direct = same and self.own_batch(place) == self.sizes.batch
            targets.append(Target(place, self.shape(stage.program, output), written, output.is_sum, is_direct))
        return tuple(targets)

    def launch(self, stage: Stage, backend: Backend) -> Launch:
        """The kernel of a stage over all pairs, compiled, and ready to be launched again and again."""
        found = self.launches.get(stage)
        if found is None:
            (kernel,) = backend.build((self.over_pairs(stage),))
            found = kernel.launch(self.extent(kernel.program, kernel.schedule))
            offsets = found.extent.offsets
            if offsets is None or offsets.nbytes <= KEPT_BYTES:
                self.launches[stage] = found
        return found

    @property
    def is_separated(self) -> bool:
        """Whether a stage is computed by passes, whose results are looked at before they are used."""
        return any(step.separated for step in self.steps)

    def is_short(self, part_s: float, backend: Backend) -> bool:
        """Whether it surely ends within a part, as it did before: a device is not asked in between then."""
        if backend.is_host or self.is_separated:
            return False
        launches = [self.launch(step.stage, backend) for step in self.steps]
        if not all(launch.last_rate or not launch.steps for launch in launches):
            return False
        return GROWTH * sum(launch.steps / launch.last_rate for launch in launches if launch.steps) <= part_s

    def pace(self, part_s: float, backend: Backend) -> Pace:
        """The parts of this call; passes over columns and rows count as no work, so little are they."""
        over_pairs = (self.launch(step.stage, backend) for step in self.steps if not step.separated)
        return Pace(part_s, sum(launch.steps for launch in over_pairs))

    @property
    def batches(self) -> int:
        """Elements of the batch."""
        return math.prod(self.sizes.batch)

    def lengths(self, program: Program) -> tuple[int, int]:
        """Rows and columns of a kernel."""
        M, N = self.sizes.M, self.sizes.N
        return (N, M) if program.row_axis == "j" else (M, N)

    def separated(self, stage: Stage) -> Separated | None:
        """The passes that may replace a kernel, if they are asked for or worth while."""
        if self.pairs is not None or self.sizes.batch or (self.is_wide and self.sizes.compute != "float64"):
            return None
        return stage.passes(*self.lengths(stage.program), self.separation)

    def over_pairs(self, stage: Stage) -> Emitted:
        """The kernel that visits every pair."""
        found = self._over_pairs(stage)
        return stage.by(replace(found.schedule, results="float64")) if self.is_wide else found

    def _over_pairs(self, stage: Stage) -> Emitted:
        rows, cols = self.lengths(stage.program)
        schedule = stage.emitted.schedule
        if schedule.device == "cuda" and is_for(rows, cols, capability()) and stage.contraction:
            return stage.by(stage.contraction)
        if schedule.device == "cuda" and self.pairs is None:
            return stage.by(for_sizes(stage.program, schedule, rows, cols, self.batches, multiprocessors()))
        is_few = rows <= FEW_ROWS and cols >= MANY_COLUMNS and self.pairs is None
        return (stage.for_few_rows if is_few else None) or stage.emitted

    def first_choice(self, stage: Stage) -> tuple[Emitted, ...]:
        """The kernels that a stage runs, unless their results are refused."""
        separated = self.separated(stage)
        return separated.kernels if separated else (self.over_pairs(stage),)

    def extent(self, program: Program, schedule: Schedule) -> Extent:
        """How far the launch of a kernel over all pairs goes."""
        rows, cols = self.lengths(program)
        blocks = ranges = None
        terms = rows * cols
        if self.pairs is not None:
            side = self.pairs.of(program.row_axis)
            blocks = side.blocks(rows, block_rows(schedule))
            ranges, terms = side.columns, side.pairs
        return Extent(rows, cols, self.batches, self._offsets(program), blocks, ranges, terms)

    def _offsets(self, program: Program) -> Array | None:
        """Where in each argument the data of each element of the batch begin."""
        if not self.sizes.batch:
            return None
        slots = self.call.operation.arguments
        offsets = np.zeros((self.batches, len(program.widths)), np.int64)
        for rank, (position, width) in enumerate(program.widths):
            own, axis = self.sizes.batches[position], slots[position].axis
            rows = 1 if axis == "p" else self.sizes.M if axis == "i" else self.sizes.N
            begins = (np.arange(math.prod(own), dtype=np.int64) * (rows * width)).reshape(own)
            offsets[:, rank] = np.broadcast_to(begins, self.sizes.batch).ravel()
        return offsets

    def shape(self, program: Program, output: Output) -> tuple[int, ...]:
        """Shape of what a kernel writes."""
        rows = () if program.over_rows else (self.lengths(program)[0],)
        return (self.batches, *rows, output.width)

    def own_batch(self, place: int) -> tuple[int, ...]:
        """Batch axes of a result: a gradient has those of its argument."""
        operation = self.call.operation
        return self.sizes.batches[operation.wrt[place]] if isinstance(operation, Vjp) else self.sizes.batch

    def settle(self, written: Array, place: int, result: Array) -> None:
        """Copy what a kernel wrote into a result, summed over the batch axes that its argument does not have."""
        own, batch = self.own_batch(place), self.sizes.batch
        full = written.reshape(*batch, *written.shape[1:])
        ahead = len(batch) - len(own)
        repeated = (ahead + k for k, length in enumerate(own) if length == 1 != batch[ahead + k])
        axes = (*range(ahead), *repeated)
        if axes:
            full = full.sum(axes, dtype=np.float64)
        result[...] = full.reshape(result.shape)


def output_dtype(output: Output, dtype: str) -> str:
    """Element type of what a kernel writes whose floating-point results are `dtype`."""
    return "int64" if output.is_index else "float64" if output.is_sum else dtype


def backend_for(device: Device) -> Backend:
    """The back end of a device; on the CPU that of NumPy where there is no compiler."""
    if device == "cuda":
        return current_cuda()
    return HOST if numpy_reason() is None else NUMPY


# ---- the run -------------------------------------------------------------------------------------------------


def execute(
    work: Work,
    inputs: Sequence[Array],
    results: Sequence[Array],
    timing: Timing,
    backend: Backend,
    part_s: float = math.inf,
) -> Iterator[float]:
    """Fill in the results, and stop now and then.

    A stop yields the fraction of the work that is done. What is between two stops takes about `part_s`.

    Args:
        work: what to launch.
        inputs: one array per argument, as kernels read them (see `engine.bind`).
        results: one array per result of the call.
        timing: its fields are set, without the time of the stops; compiling anew is added to `compile_ms`.
        backend: where kernels run.
        part_s: seconds.

    Raises:
        InsufficientMemory, DeviceError: of a CUDA device; see cuda_errors.py.
    """
    pauses: list[float] = []
    begun, compiling_before = time.perf_counter(), timing.compile_ms
    with backend.guard:
        if not backend.is_host and _replayed(work, inputs, results, timing, backend, part_s):
            return
        is_whole = part_s == math.inf or work.is_short(part_s, backend)
        slices = None if backend.is_host else _slices(work, inputs, results, backend)
        with backend.open(inputs, slices) as passage:
            pace = None if is_whole else work.pace(part_s, backend)
            yield from _enqueued(work, results, timing, backend, passage, pauses, pace)
            settled = passage.finish()
            finished = time.perf_counter()
            _settle(work, settled, results)
            between = passage.between
            timing.h2d_ms = between(passage.begun, passage.copied)
            timing.kernel_ms = between(passage.copied, passage.computed) - (timing.compile_ms - compiling_before)
            if pauses:
                timing.kernel_ms -= sum(pauses) * 1e3
            timing.d2h_ms = between(passage.computed, passage.ended) + (time.perf_counter() - finished) * 1e3
    if is_whole and finished - begun > part_s:
        for launch in work.launches.values():
            launch.last_rate = 0.0  # to be measured anew


def _settle(work: Work, settled: Sequence[tuple[Array, int]], results: Sequence[Array]) -> None:
    """Make results of what kernels wrote."""
    for written, place in settled:
        work.settle(written, place, results[place])
    for place in work.call.zeros:
        results[place][...] = 0


def _enqueued(
    work: Work,
    results: Sequence[Array],
    timing: Timing,
    backend: Backend,
    passage: Passage,
    pauses: list[float],
    pace: Pace | None,
) -> Iterator[float]:
    """Start all kernels and copies of a call, with stops if there is a pace; `pauses` gets their seconds."""
    for place, step in enumerate(work.steps):
        with passage.beside(place) if pace is None else NOWHERE:
            outputs = [
                results[target.place]
                if target.is_direct and backend.is_host and results[target.place].dtype == target.dtype
                else passage.empty(target.shape, target.dtype)
                for target in step.targets
            ]
            separated = step.separated
            if not (separated and _by_passes(work, separated, outputs, passage, backend)):
                begun = time.perf_counter()
                launch = work.launch(step.stage, backend)
                if separated:  # refused: what computes all pairs may be new
                    timing.compile_ms += (time.perf_counter() - begun) * 1e3
                    if pace:
                        pace.steps += launch.steps
                memory = launch.memory(passage)
                if pace:
                    yield from _in_parts(launch, outputs, memory, passage, pauses, pace)
                else:
                    passage.compute(launch, passage.arguments, outputs, memory, 0, launch.units)
            passage.take(outputs, step.targets, results)


def _in_parts(
    launch: Launch, outputs: Sequence[Any], memory: Any, passage: Passage, pauses: list[float], pace: Pace
) -> Iterator[float]:
    """One kernel, part by part."""
    end, is_over = 0, False
    while not is_over:
        first, end = end, pace.end(launch, end)
        passage.compute(launch, passage.arguments, outputs, memory, first, end)
        passage.wait()
        is_over = end == launch.units
        if pace.is_due(launch, first, end):
            stopped = time.perf_counter()
            yield pace.fraction
            pace.resume()
            pauses.append(time.perf_counter() - stopped)


def _by_passes(
    work: Work, separated: Separated, outputs: Sequence[Any], passage: Passage, backend: Backend
) -> bool:
    """Compute a stage's outputs by passes over columns and rows; False if they must not be used."""
    rows, cols = work.lengths(separated.rows.program)
    *column_kernels, row_kernel = backend.build(separated.kernels)
    float64 = np.dtype("float64")

    def compute(kernel: Any, extent: Extent, inputs: Sequence[Any], written: Sequence[Any]) -> None:
        launch = kernel.launch(extent)
        passage.compute(launch, inputs, written, launch.memory(passage), 0, launch.units)

    sums: list[Any] = []
    for kernel in column_kernels:
        sums.append(passage.empty((1, 1, kernel.program.outputs[0].width), float64))
        compute(kernel, Extent(1, cols, terms=cols), passage.arguments, sums[-1:])
    refused = passage.empty((1, rows, 1), float64)
    compute(row_kernel, Extent(rows, 1, terms=rows), [*passage.arguments, *sums], [*outputs, refused])
    on_host = iter([passage.get(result) for result in sums])
    total = passage.total(refused)
    return all(
        acceptable(separation, list(itertools.islice(on_host, len(separation.columns))), total)
        for separation in separated.separations
    )


# ---- what a CUDA device does beside ---------------------------------------------------------------------------


def _slices(work: Work, inputs: Sequence[Array], results: Sequence[Array], backend: Backend) -> Slices | None:
    """For a call of one kernel over all pairs whose results are its rows, if that pays."""
    if isinstance(backend, Host) or len(work.steps) != 1:
        return None
    (step,), program = work.steps, work.steps[0].stage.program
    is_whole = work.pairs is not None or work.sizes.batch or work.is_separated or program.over_rows
    if is_whole or not all(target.is_direct for target in step.targets):
        return None
    slots = work.call.operation.arguments
    in_rows = [position for position, slot in enumerate(slots) if slot.axis == program.row_axis]
    written = [results[target.place] for target in step.targets]
    return backend.slices(work.launch(step.stage, backend), in_rows, inputs, written)


def _replayed(
    work: Work,
    inputs: Sequence[Array],
    results: Sequence[Array],
    timing: Timing,
    backend: Backend,
    part_s: float,
) -> bool:
    """Fill in the results by a graph; False if there is none for such a call."""
    if isinstance(backend, Host) or work.pairs is not None or work.is_separated or not work.steps:
        return False
    steps = sum(work.launch(step.stage, backend).steps for step in work.steps)
    if len(work.launches) < len(work.steps):
        return False  # their tables are too large to be kept

    def enqueue(passage: CudaPassage) -> None:
        for _ in _enqueued(work, results, timing, backend, passage, [], None):
            pass  # it does not stop

    replay = backend.replay(work, inputs, sum(result.nbytes for result in results), steps, part_s, enqueue)
    if replay is None or not replay.lock.acquire(blocking=False):  # another thread is at it
        return False
    try:
        settled = replay(inputs, timing)
        computed = time.perf_counter()
        _settle(work, settled, results)
        timing.d2h_ms = (time.perf_counter() - computed) * 1e3
    finally:
        replay.lock.release()
    return True
