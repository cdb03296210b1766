"""The straight line from a spec and arrays to results: read, differentiate, rewrite, lower, schedule, emit, build,
launch. `run` is the whole of it; explain.py shows every stage as text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .arguments import Sizes, check_arguments, numpy_dtype, result_shapes
from .build import cuda_device_count, import_cupy
from .errors import ArgumentError, DeviceError, DtypeError, ShapeError
from .execute import Timing, Work, backend_for, execute
from .expr import INDEX_SHIFT, Array
from .operation import Operation, Slot, Spec, read
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
    work = Work(plan_call(spec, sizes.compute, chosen), sizes, pairs, spec.separation)
    backend = backend_for(chosen)
    for stage in work.call.stages:
        backend.build(work.first_choice(stage))
    timing.compile_ms = (time.perf_counter() - started) * 1e3
    results = _results(operation, sizes, out)
    inputs = [
        bind(slot, array, sizes.compute, sizes.N) for slot, array in zip(operation.arguments, arrays, strict=True)
    ]
    execute(work, inputs, results, timing, backend)
    for place in work.call.zeros:
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
