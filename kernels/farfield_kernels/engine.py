"""The straight line from a spec and arrays to results: read, differentiate, rewrite, lower, schedule, emit, build,
launch. `run` is the whole of it; explain.py shows every stage as text."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .arguments import Sizes, check_arguments, numpy_dtype, result_shapes
from .build import cuda_device_count, import_cupy
from .emit import emit
from .errors import ArgumentError, DeviceError, DtypeError, FormulaError, RuleError, ShapeError
from .expr import INDEX_SHIFT, Array, Axis, Const
from .launch import CpuKernel, CudaKernel, Extent
from .lower import Output, Program, lower
from .operation import Operation, Slot, Spec, Vjp, read
from .ranges import Ranges, check_ranges
from .reductions import COMPENSATED_SUM, SUM
from .rewrite import rewrite
from .schedule import Device, Schedule, block_rows, plan
from .terms import Term, expand


@dataclass(frozen=True, eq=False)
class Stage:
    """One kernel of a call, and which result each of its outputs is."""

    program: Program
    schedule: Schedule
    source: str
    results: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """All kernels of a call. Results in no kernel are zero whatever the data."""

    operation: Operation
    stages: tuple[Stage, ...]
    zeros: tuple[int, ...]


@dataclass
class Timing:
    """Where the time of one call went, in milliseconds."""

    compile_ms: float = 0.0
    h2d_ms: float = 0.0
    kernel_ms: float = 0.0
    d2h_ms: float = 0.0


@dataclass
class Outcome:
    """Results of a call, as NumPy arrays, and its timing."""

    arrays: list[Array]
    timing: Timing = field(default_factory=Timing)


def resolve_device(device: str = "auto") -> Device:
    """`auto` is `cuda` where CuPy sees a device, else `cpu`.

    Raises:
        DeviceError: an unknown name, or cuda without a device.
    """
    if device == "auto":
        return "cuda" if cuda_device_count() else "cpu"
    if device == "cpu":
        return "cpu"
    if device == "cuda":
        import_cupy()
        if not cuda_device_count():
            raise DeviceError("no CUDA device was found; 'farfield doctor' says what is missing")
        return "cuda"
    raise DeviceError(f"device '{device}' is not one of auto, cpu, cuda")


@functools.lru_cache(maxsize=512)
def plan_call(spec: Spec, dtype: str, device: Device) -> Plan:
    """The kernels of a call, as source. Cached."""
    operation = read(spec)
    try:
        terms = [simplified(term) for term in expand(operation)]
    except RuleError as reason:
        raise FormulaError(
            f"its derivative cannot be written: {reason}", text=spec.formula, field="formula"
        ) from None
    first_result, place = [], 0
    for term in terms:
        first_result.append(place)
        place += len(term.reduction.results)
    constant_zero = {n for n, term in enumerate(terms) if _is_zero(term)}
    stages = []
    for row_axis in ("i", "j"):
        members = [n for n, axis in _row_axes(terms).items() if axis == row_axis and n not in constant_zero]
        if members:
            program = lower([terms[n] for n in members], row_axis)
            schedule = plan(program, device, dtype)
            results = [first_result[n] + k for n in members for k in range(len(terms[n].reduction.results))]
            stages.append(Stage(program, schedule, emit(program, schedule), tuple(results)))
    return Plan(operation, tuple(stages), tuple(first_result[n] for n in sorted(constant_zero)))


def simplified(term: Term) -> Term:
    """The term with its formulas rewritten."""
    weights = None if term.weights is None else rewrite(term.weights)
    return replace(term, formula=rewrite(term.formula), weights=weights)


def _is_zero(term: Term) -> bool:
    if term.reduction not in (SUM, COMPENSATED_SUM):
        return False
    formula = term.formula
    while formula.op is not None and formula.op.name == "SumT":
        formula = formula.operands[0]
    return isinstance(formula, Const) and formula.value == 0


def _row_axes(terms: Sequence[Term]) -> dict[int, Axis]:
    """The kept axis of each term's kernel; parameters ride along with a kernel that is there anyway."""
    kept = {term.keep for term in terms}
    shared: Axis = "j" if "j" in kept and "i" not in kept else "i"
    return {n: shared if term.keep == "p" else term.keep for n, term in enumerate(terms)}


@functools.lru_cache(maxsize=512)
def _kernels(spec: Spec, dtype: str, device: Device) -> tuple[CpuKernel | CudaKernel, ...]:
    kind = CudaKernel if device == "cuda" else CpuKernel
    return tuple(
        kind(stage.program, stage.schedule, stage.source) for stage in plan_call(spec, dtype, device).stages
    )


def run(
    spec: Spec,
    arrays: Sequence[Array],
    *,
    device: str = "auto",
    out: Sequence[Array] | None = None,
    ranges: Sequence[Array] | None = None,
) -> Outcome:
    """Compute the results of one call.

    Args:
        spec: what to compute.
        arrays: the arguments: (M, d) for axis i, (N, d) for axis j, (d,) for parameters, after batch axes that
            broadcast, all of one float type, any strides; int64 for saved indices.
        device: `auto`, `cpu` or `cuda`.
        out: arrays to write the results to, C-contiguous, of the results' shapes and types.
        ranges: block-sparse ranges, six arrays (see `ranges.py`), the same for all elements of the batch.

    Returns:
        One array per result, and the timing.

    Raises:
        FormulaError, ArgumentError, LimitError, BuildError: see their classes.
    """
    operation = read(spec)
    for place, array in enumerate(arrays):
        if not isinstance(array, np.ndarray):
            kind = type(array).__name__
            raise ArgumentError(
                f"argument {place} is a {kind}, a NumPy array is needed", field=f"arguments[{place}]"
            )
    sizes = check_arguments(operation, [a.dtype.name for a in arrays], [a.shape for a in arrays])
    pairs = None if ranges is None else check_ranges(ranges, sizes.M, sizes.N, distinct=operation.selects)
    chosen = resolve_device(device)
    timing = Timing()
    started = time.perf_counter()
    kernels = _kernels(spec, sizes.compute, chosen)
    call = plan_call(spec, sizes.compute, chosen)
    timing.compile_ms = (time.perf_counter() - started) * 1e3
    results = _results(operation, sizes, out)
    inputs = [
        bind(slot, array, sizes.compute, sizes.N) for slot, array in zip(operation.arguments, arrays, strict=True)
    ]
    execute = _run_cuda if chosen == "cuda" else _run_cpu
    execute(Work(call, kernels, inputs, sizes, pairs), results, timing)
    for place in call.zeros:
        results[place][...] = 0
    return Outcome(results, timing)


def bind(slot: Slot, array: Array, dtype: str, N: int) -> Array:
    """An argument as kernels read it: contiguous, in their type and byte order; of an index, its halves.

    A pair's number i * N + j becomes the halves of i, then those of j.
    """
    if not slot.index:
        return np.require(array, dtype, ["C", "A"])
    flat = array.reshape(*array.shape[: array.ndim - len(slot.tail)], slot.dim)
    numbers = [flat] if slot.index == "index" else list(np.divmod(flat, max(1, N)))
    low_mask = (1 << INDEX_SHIFT) - 1
    halves = [half for number in numbers for half in (number >> INDEX_SHIFT, number & low_mask)]
    return np.ascontiguousarray(np.concatenate(halves, axis=-1), dtype)


def _results(operation: Operation, sizes: Sizes, out: Sequence[Array] | None) -> list[Array]:
    dtypes = [numpy_dtype(slot.dtype(sizes.dtype)) for slot in operation.results]
    wanted = list(zip(result_shapes(operation, sizes), dtypes, strict=True))
    if out is None:
        return [np.empty(shape, dtype) for shape, dtype in wanted]
    if len(out) != len(wanted):
        raise ArgumentError(f"out takes {len(wanted)} arrays, got {len(out)}", field="out")
    for place, (array, (shape, dtype)) in enumerate(zip(out, wanted, strict=True)):
        field = f"out[{place}]"
        if array.dtype != dtype:
            raise DtypeError(f"{field} is {array.dtype}, {dtype} is needed", field=field)
        if array.shape != shape:
            raise ShapeError(f"{field} has shape {array.shape}, {shape} is needed", field=field)
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise ArgumentError(f"{field} must be C-contiguous and writeable", field=field)
    return list(out)


@dataclass(frozen=True, eq=False)
class Work:
    """Everything that the launches of one call read."""

    call: Plan
    kernels: Sequence[CpuKernel | CudaKernel]
    inputs: list[Array]
    sizes: Sizes
    pairs: Ranges | None

    @property
    def batches(self) -> int:
        """Elements of the batch."""
        return math.prod(self.sizes.batch)

    def extent(self, stage: Stage) -> Extent:
        """How far the launch of one kernel goes."""
        sizes, row_axis = self.sizes, stage.program.row_axis
        rows, cols = (sizes.N, sizes.M) if row_axis == "j" else (sizes.M, sizes.N)
        blocks = ranges = None
        terms = rows * cols
        if self.pairs is not None:
            side = self.pairs.of(row_axis)
            blocks, ranges, terms = side.blocks(rows, block_rows(stage.schedule)), side.columns, side.pairs
        return Extent(rows, cols, self.batches, self._offsets(stage.program), blocks, ranges, terms)

    def _offsets(self, program: Program) -> Array | None:
        """Where in each argument the data of each element of the batch begin."""
        if not self.sizes.batch:
            return None
        offsets = np.zeros((self.batches, len(program.widths)), np.int64)
        for rank, (position, _) in enumerate(program.widths):
            own = self.sizes.batches[position]
            count = math.prod(own)
            size = self.inputs[position].size // count if count else 0
            begins = (np.arange(count, dtype=np.int64) * size).reshape(own)
            offsets[:, rank] = np.broadcast_to(begins, self.sizes.batch).ravel()
        return offsets

    def shape(self, stage: Stage, output: Output) -> tuple[int, ...]:
        """Shape of what a kernel writes."""
        if stage.program.over_rows:
            return (self.batches, output.width)
        return (self.batches, self.sizes.N if stage.program.row_axis == "j" else self.sizes.M, output.width)

    def dtype(self, output: Output) -> str:
        """Element type of what a kernel writes."""
        return "int64" if output.is_index else "float64" if output.is_sum else self.sizes.compute

    def own_batch(self, place: int) -> tuple[int, ...]:
        """Batch axes of a result: a gradient has those of its argument."""
        operation = self.call.operation
        return self.sizes.batches[operation.wrt[place]] if isinstance(operation, Vjp) else self.sizes.batch

    def is_direct(self, output: Output, place: int, result: Array) -> bool:
        """Whether a kernel can write into a result as it is."""
        return (
            not output.is_sum and result.dtype == self.dtype(output) and self.own_batch(place) == self.sizes.batch
        )

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


def _run_cpu(work: Work, results: list[Array], timing: Timing) -> None:
    started = time.perf_counter()
    for stage, kernel in zip(work.call.stages, work.kernels, strict=True):
        places = list(zip(stage.program.outputs, stage.results, strict=True))
        outputs = [
            results[place]
            if work.is_direct(output, place, results[place])
            else np.empty(work.shape(stage, output), work.dtype(output))
            for output, place in places
        ]
        kernel(work.inputs, outputs, work.extent(stage))
        for (output, place), written in zip(places, outputs, strict=True):
            if written is not results[place]:
                work.settle(written.sum(1) if output.is_sum else written, place, results[place])
    timing.kernel_ms = (time.perf_counter() - started) * 1e3


def _run_cuda(work: Work, results: list[Array], timing: Timing) -> None:
    cupy = import_cupy()
    stream = cupy.cuda.get_current_stream()
    started = time.perf_counter()
    on_device = [cupy.asarray(array) for array in work.inputs]
    stream.synchronize()
    copied = time.perf_counter()
    computed: dict[int, Any] = {}
    for stage, kernel in zip(work.call.stages, work.kernels, strict=True):
        outputs = [cupy.empty(work.shape(stage, output), work.dtype(output)) for output in stage.program.outputs]
        kernel(on_device, outputs, work.extent(stage))
        for output, place, written in zip(stage.program.outputs, stage.results, outputs, strict=True):
            computed[place] = written.sum(1) if output.is_sum else written
    stream.synchronize()
    finished = time.perf_counter()
    for place, written in computed.items():
        work.settle(cupy.asnumpy(written), place, results[place])
    ended = time.perf_counter()
    timing.h2d_ms = (copied - started) * 1e3
    timing.kernel_ms = (finished - copied) * 1e3
    timing.d2h_ms = (ended - finished) * 1e3
