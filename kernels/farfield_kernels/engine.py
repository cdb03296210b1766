"""The straight line from a spec and arrays to results: read, differentiate, rewrite, lower, schedule, emit, build,
launch. `run` is the whole of it, `run_in_parts` stops now and then; explain.py shows every stage as text."""

from __future__ import annotations

import functools
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .arguments import check_arguments, numpy_dtype, result_shapes
from .build import cuda_device_count, import_cupy, warn_of_numpy
from .errors import ArgumentError, DeviceError, DtypeError, ShapeError
from .execute import Backend, Timing, Work, backend_for, execute
from .expr import INDEX_SHIFT, Array
from .host_device import Numpy
from .operation import INDEX_DTYPE, Slot, Spec, read
from .ranges import check_ranges
from .schedule import Device
from .stages import plan_call


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
        out: arrays to write the results to, C-contiguous, of the results' shapes and types. Floating-point ones
            may be float64 whatever the type of the arguments, for results that are parts of sums.
        ranges: block-sparse ranges, six arrays (see `ranges.py`), the same for all elements of the batch.

    Returns:
        One array per result, and the timing.

    Raises:
        FormulaError, ArgumentError, LimitError, BuildError: see their classes.
        InsufficientMemory, DeviceError: of a CUDA device; see cuda_errors.py.
    """
    call = _begin(spec, arrays, device, out, ranges)
    if isinstance(call[-1], Numpy):
        warn_of_numpy()  # here, as it names the caller's line
    for _ in execute(*call):
        pass  # it does not stop
    return Outcome(call[2], call[3])


def run_in_parts(
    spec: Spec,
    arrays: Sequence[Array],
    *,
    device: str = "auto",
    out: Sequence[Array] | None = None,
    ranges: Sequence[Array] | None = None,
    part_s: float = 0.2,
) -> Generator[float, None, Outcome]:
    """Compute the results of one call, and stop now and then so that something else can be run in between.

    A stop yields the fraction of the work that is done, above 0 and below 1; `next` goes on, in any thread. The
    results are complete when the generator ends, which returns them; they are those of `run`, bit for bit. Nothing
    is checked or computed before the first `next`; closing the generator gives up the call.

    Parts consist of whole units: a block of rows, or a part of its columns if there are few rows. So a part takes
    longer than `part_s` where one unit per thread does. Sums that separate are one part, and so are, on NumPy,
    reductions over both axes. A call that takes less than `part_s` does not stop.

    Args:
        part_s: seconds between two stops.
        spec, arrays, device, out, ranges: as for `run`; the arrays must not be written to until the end.

    Returns:
        As `run`; the timing is without the time of the stops.

    Raises:
        FormulaError, ArgumentError, LimitError, BuildError: see their classes.
        InsufficientMemory, DeviceError: of a CUDA device; see cuda_errors.py.
    """
    call = _begin(spec, arrays, device, out, ranges)
    if isinstance(call[-1], Numpy):
        warn_of_numpy()  # here, as it names the caller's line
    yield from execute(*call, part_s)
    return Outcome(call[2], call[3])


_Call = tuple[Work, list[Array], list[Array], Timing, Backend]
"""Work, arguments, results, timing and back end."""


def _begin(
    spec: Spec,
    arrays: Sequence[Array],
    device: str,
    out: Sequence[Array] | None,
    ranges: Sequence[Array] | None,
) -> _Call:
    """Check, plan and build, up to what `execute` takes."""
    timing = Timing()
    started = time.perf_counter()
    for array in arrays:
        if not isinstance(array, np.ndarray):
            raise _no_array(arrays)
    dtypes, shapes = tuple([array.dtype for array in arrays]), tuple([array.shape for array in arrays])
    backend = backend_for(resolve_device(device))
    is_wide = out is not None and all(array.dtype.char in "dlq" for array in out)
    if ranges is None:
        ready = _ready_without_ranges(spec, backend, dtypes, shapes, is_wide)
    else:
        ready = _ready(spec, backend, dtypes, shapes, is_wide, ranges)
    work = ready.work
    with backend.guard:
        for step in work.steps:
            if step.separated:
                backend.build(step.separated.kernels)
            else:
                work.launch(step.stage, backend)
    timing.compile_ms = (time.perf_counter() - started) * 1e3
    results = [np.empty(shape, dtype) for shape, dtype in ready.results] if out is None else _checked(out, ready)
    inputs = [
        bind(slot, array, ready.dtype, work.sizes.N) for slot, array in zip(ready.slots, arrays, strict=True)
    ]
    return work, inputs, results, timing, backend


def prepare(
    spec: Spec,
    arrays: Sequence[Array],
    *,
    device: str = "auto",
    out: Sequence[Array] | None = None,
    ranges: Sequence[Array] | None = None,
) -> None:
    """Compile what `run` would on these arguments, and no more."""
    _begin(spec, arrays, device, out, ranges)


def _no_array(arrays: Sequence[Any]) -> ArgumentError:
    place, kind = next((k, type(a).__name__) for k, a in enumerate(arrays) if not isinstance(a, np.ndarray))
    return ArgumentError(f"argument {place} is a {kind}, a NumPy array is needed", field=f"arguments[{place}]")


@dataclass(frozen=True, eq=False)
class _Ready:
    """A call on arrays of some types and shapes: checked and planned.

    Args:
        work: what is launched.
        dtype: what arguments are read in.
        slots: the arguments.
        results: shape and type of each result.
    """

    work: Work
    dtype: np.dtype[Any]
    slots: tuple[Slot, ...]
    results: tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]


def _ready(
    spec: Spec,
    backend: Backend,
    dtypes: Sequence[np.dtype[Any]],
    shapes: Sequence[tuple[int, ...]],
    is_wide: bool,
    ranges: Sequence[Array] | None = None,
) -> _Ready:
    operation = read(spec)
    sizes = check_arguments(operation, [dtype.name for dtype in dtypes], shapes)
    pairs = None if ranges is None else check_ranges(ranges, sizes.M, sizes.N, distinct=operation.selects)
    device: Device = "cpu" if backend.is_host else "cuda"
    work = Work(plan_call(spec, sizes.compute, device), sizes, pairs, spec.separation, is_wide)
    kinds = [numpy_dtype(slot.dtype(sizes.dtype)) for slot in operation.results]
    results = tuple(zip(result_shapes(operation, sizes), kinds, strict=True))
    return _Ready(work, numpy_dtype(sizes.compute), operation.arguments, results)


@functools.lru_cache(maxsize=1024)
def _ready_without_ranges(
    spec: Spec,
    backend: Backend,
    dtypes: Sequence[np.dtype[Any]],
    shapes: Sequence[tuple[int, ...]],
    is_wide: bool,
) -> _Ready:
    """Kept, as most calls are made again."""
    return _ready(spec, backend, dtypes, shapes, is_wide)


def bind(slot: Slot, array: Array, dtype: str | np.dtype[Any], N: int) -> Array:
    """An argument as kernels read it: contiguous, in their type and byte order; of an index, its halves.

    A pair's number i * N + j becomes the halves of i, then those of j.
    """
    if not slot.index:
        flags = array.flags
        is_ready = array.dtype == dtype and flags.c_contiguous and flags.aligned
        return array if is_ready else np.require(array, dtype, ["C", "A"])
    flat = array.reshape(*array.shape[: array.ndim - len(slot.tail)], slot.dim)
    numbers = [flat] if slot.index == "index" else list(np.divmod(flat, max(1, N)))
    low_mask = (1 << INDEX_SHIFT) - 1
    halves = [half for number in numbers for half in (number >> INDEX_SHIFT, number & low_mask)]
    return np.ascontiguousarray(np.concatenate(halves, axis=-1), dtype)


def _checked(out: Sequence[Array], ready: _Ready) -> list[Array]:
    """The arrays that the caller wants results in."""
    if len(out) != len(ready.results):
        raise ArgumentError(f"out takes {len(ready.results)} arrays, got {len(out)}", field="out")
    for place, (array, (shape, dtype)) in enumerate(zip(out, ready.results, strict=True)):
        field = f"out[{place}]"
        if array.dtype != dtype and (dtype == INDEX_DTYPE or array.dtype != np.float64):
            raise DtypeError(f"{field} is {array.dtype}, {dtype} is needed", field=field)
        if array.shape != shape:
            raise ShapeError(f"{field} has shape {array.shape}, {shape} is needed", field=field)
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise ArgumentError(f"{field} must be C-contiguous and writeable", field=field)
    return list(out)
