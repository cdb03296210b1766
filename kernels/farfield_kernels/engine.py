"""The straight line from a spec and arrays to results: read, differentiate, rewrite, lower, schedule, emit, build,
launch. `run` is the whole of it; explain.py shows every stage as text."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .build import cuda_device_count, import_cupy
from .emit import emit
from .errors import ArgumentError, DeviceError, DtypeError, FormulaError, RuleError, ShapeError
from .expr import Array, Axis, Const
from .launch import CpuKernel, CudaKernel
from .lower import Output, Program, lower
from .operation import Operation, Sizes, Slot, Spec, check_arguments, read
from .reference import bind_index
from .rewrite import rewrite
from .schedule import Device, Schedule, plan
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
        terms = [Term(rewrite(term.formula), term.reduction, term.keep) for term in expand(operation)]
    except RuleError as reason:
        raise FormulaError(
            f"its derivative cannot be written: {reason}", text=spec.formula, field="formula"
        ) from None
    first_result, place = [], 0
    for term in terms:
        first_result.append(place)
        place += len(term.reduction.results)
    constant_zero = {n for n, term in enumerate(terms) if term.reduction.name == "Sum" and _is_zero(term)}
    stages = []
    for row_axis in ("i", "j"):
        members = [n for n, axis in _row_axes(terms).items() if axis == row_axis and n not in constant_zero]
        if members:
            program = lower([terms[n] for n in members], row_axis)
            schedule = plan(program, device, dtype)
            results = [first_result[n] + k for n in members for k in range(len(terms[n].reduction.results))]
            stages.append(Stage(program, schedule, emit(program, schedule), tuple(results)))
    return Plan(operation, tuple(stages), tuple(first_result[n] for n in sorted(constant_zero)))


def _is_zero(term: Term) -> bool:
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
    spec: Spec, arrays: Sequence[Array], *, device: str = "auto", out: Sequence[Array] | None = None
) -> Outcome:
    """Compute the results of one call.

    Args:
        spec: what to compute.
        arrays: the arguments: (M, d) for axis i, (N, d) for axis j, (d,) for parameters, all float32 or all
            float64, any strides; int64 for saved indices.
        device: `auto`, `cpu` or `cuda`.
        out: arrays to write the results to, C-contiguous, of the results' shapes and types.

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
    chosen = resolve_device(device)
    timing = Timing()
    started = time.perf_counter()
    kernels = _kernels(spec, sizes.dtype, chosen)
    call = plan_call(spec, sizes.dtype, chosen)
    timing.compile_ms = (time.perf_counter() - started) * 1e3
    results = _results(operation, sizes, out)
    execute = _run_cuda if chosen == "cuda" else _run_cpu
    execute(call, kernels, _bind(operation.arguments, arrays, sizes.dtype), results, sizes, timing)
    for place in call.zeros:
        results[place][...] = 0
    return Outcome(results, timing)


def _bind(slots: Sequence[Slot], arrays: Sequence[Array], dtype: str) -> list[Array]:
    """Arguments as kernels read them: contiguous, native byte order, indices as pairs of floats."""
    return [
        bind_index(array, dtype) if slot.is_index else np.require(array, dtype, ["C", "A"])
        for slot, array in zip(slots, arrays, strict=True)
    ]


def _results(operation: Operation, sizes: Sizes, out: Sequence[Array] | None) -> list[Array]:
    wanted = [(slot.shape(sizes.M, sizes.N), slot.dtype(sizes.dtype)) for slot in operation.results]
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


def _lengths(program: Program, sizes: Sizes) -> tuple[int, int]:
    return (sizes.N, sizes.M) if program.row_axis == "j" else (sizes.M, sizes.N)


def _run_cpu(
    call: Plan,
    kernels: Sequence[Any],
    inputs: list[Array],
    results: list[Array],
    sizes: Sizes,
    timing: Timing,
) -> None:
    started = time.perf_counter()
    for stage, kernel in zip(call.stages, kernels, strict=True):
        rows, cols = _lengths(stage.program, sizes)
        outputs = [
            np.empty((rows, output.count)) if output.is_sum else results[place]
            for output, place in zip(stage.program.outputs, stage.results, strict=True)
        ]
        kernel(inputs, outputs, rows, cols)
        for output, place, written in zip(stage.program.outputs, stage.results, outputs, strict=True):
            if output.is_sum:
                results[place][...] = written.sum(0)
    timing.kernel_ms = (time.perf_counter() - started) * 1e3


def _run_cuda(
    call: Plan,
    kernels: Sequence[Any],
    inputs: list[Array],
    results: list[Array],
    sizes: Sizes,
    timing: Timing,
) -> None:
    cupy = import_cupy()
    stream = cupy.cuda.get_current_stream()
    started = time.perf_counter()
    on_device = [cupy.asarray(array) for array in inputs]
    stream.synchronize()
    copied = time.perf_counter()
    computed: dict[int, Any] = {}
    for stage, kernel in zip(call.stages, kernels, strict=True):
        rows, cols = _lengths(stage.program, sizes)
        outputs = [
            cupy.empty((rows, output.count), _device_dtype(output, sizes)) for output in stage.program.outputs
        ]
        kernel(on_device, outputs, rows, cols)
        for output, place, written in zip(stage.program.outputs, stage.results, outputs, strict=True):
            computed[place] = written.sum(0) if output.is_sum else written
    stream.synchronize()
    finished = time.perf_counter()
    for place, written in computed.items():
        results[place][...] = cupy.asnumpy(written)
    ended = time.perf_counter()
    timing.h2d_ms = (copied - started) * 1e3
    timing.kernel_ms = (finished - copied) * 1e3
    timing.d2h_ms = (ended - finished) * 1e3


def _device_dtype(output: Output, sizes: Sizes) -> str:
    return "int64" if output.is_index else "float64" if output.is_sum else sizes.dtype
