"""Plan + arrays + back end -> results: the launches of one call, one stage after the other."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .arguments import Sizes, numpy_dtype
from .blocks import NumpyKernel
from .build import import_cupy, numpy_reason
from .expr import Array
from .launch import CpuKernel, CudaKernel, Extent, Launch, capability, multiprocessors, thread_count
from .lower import Output, Program
from .operation import Vjp
from .pace import Pace
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
        h2d_ms, d2h_ms: copying arguments to a device, and results from it.
        kernel_ms: the kernels.
    """

    compile_ms: float = 0.0
    h2d_ms: float = 0.0
    kernel_ms: float = 0.0
    d2h_ms: float = 0.0


KEPT_BYTES = 4096  # of a table of batch offsets, up to which it is kept for the next call of that kind


@dataclass(frozen=True)
class Target:
    """What an output of a kernel is written to.

    Args:
        place: number of the result.
        shape, dtype: of the array that the kernel writes.
        is_sum: whether its rows are to be summed.
        is_direct: whether that array is the result.
    """

    place: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_sum: bool
    is_direct: bool


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

    def launch(self, stage: Stage, backend: Host) -> Launch:
        """The kernel of a stage over all pairs, compiled, and ready to be launched again and again."""
        found = self.launches.get(stage)
        if found is None:
            (kernel,) = backend.build((self.over_pairs(stage),))
            found = kernel.launch(self.extent(kernel.program, kernel.schedule))
            offsets = found.extent.offsets
            if offsets is None or offsets.nbytes <= KEPT_BYTES:
                self.launches[stage] = found
        return found

    def pace(self, part_s: float, backend: Host) -> Pace:
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


# ---- back ends -----------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=512)
def _cpu_kernels(kernels: tuple[Emitted, ...]) -> tuple[CpuKernel, ...]:
    """Compiled kernels; those of one stage are compiled at the same time."""
    if len(kernels) == 1:
        return (CpuKernel(*kernels[0].parts),)
    with ThreadPoolExecutor(min(len(kernels), thread_count())) as pool:
        return tuple(pool.map(lambda emitted: CpuKernel(*emitted.parts), kernels))


@functools.lru_cache(maxsize=512)
def _cuda_kernels(kernels: tuple[Emitted, ...]) -> tuple[CudaKernel, ...]:
    return tuple(CudaKernel(*emitted.parts) for emitted in kernels)


@functools.lru_cache(maxsize=512)
def _numpy_kernels(kernels: tuple[Emitted, ...]) -> tuple[NumpyKernel, ...]:
    return tuple(NumpyKernel(*emitted.parts) for emitted in kernels)


class Host:
    """CPU kernels, which read and write NumPy arrays as they are."""

    is_host = True

    def build(self, kernels: tuple[Emitted, ...]) -> Sequence[Any]:
        """Compiled kernels."""
        return _cpu_kernels(kernels)

    def put(self, array: Array) -> Any:
        """An array as kernels take it."""
        return array

    def get(self, array: Any) -> Array:
        """An array that kernels wrote, for the host."""
        written: Array = array
        return written

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Memory for results."""
        return np.empty(shape, dtype)

    def beside(self, place: int) -> contextlib.AbstractContextManager[None]:
        """Where the stage at a place runs: next to the others, if the device can."""
        return contextlib.nullcontext()

    def wait(self) -> None:
        """Until all that was started is done."""


class Numpy(Host):
    """Kernels of NumPy calls, for a host without a compiler."""

    def build(self, kernels: tuple[Emitted, ...]) -> Sequence[Any]:
        """Kernels, of which nothing is compiled."""
        return _numpy_kernels(kernels)


class Cuda(Host):
    """CUDA kernels on the current device and stream."""

    is_host = False

    def __init__(self) -> None:
        self.cupy = import_cupy()
        self.streams: dict[int, Any] = {}

    def build(self, kernels: tuple[Emitted, ...]) -> Sequence[Any]:
        """Compiled kernels."""
        return _cuda_kernels(kernels)

    def put(self, array: Array) -> Any:
        """A copy on the device."""
        return self.cupy.asarray(array)

    def get(self, array: Any) -> Array:
        """A copy on the host."""
        written: Array = self.cupy.asnumpy(array)
        return written

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Device memory for results."""
        return self.cupy.empty(shape, dtype)

    @contextlib.contextmanager
    def beside(self, place: int) -> Iterator[None]:
        """The first stage runs on the current stream, the others on another one that it waits for at the end."""
        if place == 0:
            yield
            return
        current, device = self.cupy.cuda.get_current_stream(), self.cupy.cuda.Device().id
        if device not in self.streams:
            self.streams[device] = self.cupy.cuda.Stream(non_blocking=True)
        with self.streams[device] as stream:
            yield
        current.wait_event(stream.record())

    def wait(self) -> None:
        """Until the stream is empty, and what it waits for."""
        self.cupy.cuda.get_current_stream().synchronize()


HOST, NUMPY = Host(), Numpy()


@functools.cache
def _cuda() -> Cuda:
    return Cuda()


def backend_for(device: Device) -> Host:
    """The back end of a device; on the CPU that of NumPy where there is no compiler."""
    if device == "cuda":
        return _cuda()
    return HOST if numpy_reason() is None else NUMPY


# ---- the run -------------------------------------------------------------------------------------------------


def execute(
    work: Work,
    inputs: Sequence[Array],
    results: Sequence[Array],
    timing: Timing,
    backend: Host,
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
    """
    started = time.perf_counter()
    arguments = [backend.put(array) for array in inputs]
    backend.wait()
    copied = time.perf_counter()
    compiling_before, suspended_s = timing.compile_ms, 0.0
    pace = None if part_s == math.inf else work.pace(part_s, backend)
    computed: dict[int, Any] = {}
    for place, step in enumerate(work.steps):
        with backend.beside(place) if pace is None else contextlib.nullcontext():
            outputs = [
                results[target.place]
                if target.is_direct and backend.is_host and results[target.place].dtype == target.dtype
                else backend.empty(target.shape, target.dtype)
                for target in step.targets
            ]
            separated = step.separated
            if not (separated and _by_passes(work, separated, arguments, outputs, backend)):
                begun = time.perf_counter()
                launch = work.launch(step.stage, backend)
                if separated:  # refused: what computes all pairs may be new
                    timing.compile_ms += (time.perf_counter() - begun) * 1e3
                    if pace:
                        pace.steps += launch.steps
                memory, end, is_over = launch.memory(), 0, False
                while not is_over:
                    first, end = end, pace.end(launch, end) if pace else launch.units
                    launch.run(arguments, outputs, memory, first, end)
                    is_over = end == launch.units
                    if pace:
                        backend.wait()
                        if pace.is_due(launch, first, end):
                            stopped = time.perf_counter()
                            yield pace.fraction
                            pace.resume()
                            suspended_s += time.perf_counter() - stopped
            for target, written in zip(step.targets, outputs, strict=True):
                computed[target.place] = written.sum(1) if target.is_sum else written
    backend.wait()
    finished = time.perf_counter()
    for place, written in computed.items():
        if written is not results[place]:
            work.settle(backend.get(written), place, results[place])
    for place in work.call.zeros:
        results[place][...] = 0
    ended = time.perf_counter()
    timing.h2d_ms = (copied - started) * 1e3
    timing.kernel_ms = (finished - copied - suspended_s) * 1e3 - (timing.compile_ms - compiling_before)
    timing.d2h_ms = (ended - finished) * 1e3


def _by_passes(
    work: Work, separated: Separated, arguments: Sequence[Any], outputs: Sequence[Any], backend: Host
) -> bool:
    """Compute a stage's outputs by passes over columns and rows; False if they must not be used."""
    rows, cols = work.lengths(separated.rows.program)
    *column_kernels, row_kernel = backend.build(separated.kernels)
    sums: list[Any] = []
    for kernel in column_kernels:
        result = backend.empty((1, 1, kernel.program.outputs[0].width), "float64")
        kernel.launch(Extent(1, cols, terms=cols))(arguments, [result])
        sums.append(result)
    refused = backend.empty((1, rows, 1), "float64")
    row_kernel.launch(Extent(rows, 1, terms=rows))([*arguments, *sums], [*outputs, refused])
    on_host, total = iter([backend.get(result) for result in sums]), float(refused.sum())
    return all(
        acceptable(separation, list(itertools.islice(on_host, len(separation.columns))), total)
        for separation in separated.separations
    )
