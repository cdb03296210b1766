"""The emitted CUDA text computes the right numbers: the back end runs it on the threads of simt/."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from cuda.simt.device import Emulated, emulated
from cuda.simt.emulator import Order
from farfield_kernels import engine, execute, stages
from farfield_kernels.arguments import check_arguments, result_shapes
from farfield_kernels.execute import Timing, Work
from farfield_kernels.expr import Array
from farfield_kernels.operation import Spec, read
from farfield_kernels.operators import named_operators
from farfield_kernels.ranges import check_ranges
from farfield_kernels.reductions import REDUCTIONS
from farfield_kernels.reference import reference
from farfield_kernels.schedule import Schedule, block_rows
from farfield_kernels.stages import plan_call
from kernels.batch_cases import BATCHES, drawn
from kernels.operator_checks import TOLERANCE as OPERATOR_TOLERANCE
from kernels.operator_checks import Arguments, assert_close, calls_of, evaluate
from kernels.range_cases import CASES, FEW, FEW_BLOCKS, blocks, six_arrays
from kernels.range_cases import SIZES as CASE_SIZES
from kernels.reduction_checks import (
    TOLERANCE,
    VARIANT_IDS,
    VARIANTS,
    arguments_of_vjp,
    assert_results,
    draw,
    forced_splits,
    spec_of,
)

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ is installed")
SEED = Spec("Square(p-a)*Exp(x+y)", ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"))


@pytest.fixture(scope="module")
def device() -> Iterator[Emulated]:
    """What `cuda` is in these tests."""
    with emulated() as device:
        yield device


@pytest.fixture(scope="module")
def sanitized() -> Iterator[Emulated]:
    """The same with sanitizers."""
    with emulated(sanitize=True) as device:
        yield device


def computed(
    device: Emulated,
    spec: Spec,
    arrays: Sequence[Array],
    ranges: Sequence[Array] | None = None,
    *,
    order: Order = "forward",
    in_parts: bool = False,
) -> list[Array]:
    """All results of a call by its CUDA kernels, as the engine puts them together."""
    operation = read(spec)
    sizes = check_arguments(operation, [a.dtype.name for a in arrays], [a.shape for a in arrays])
    pairs = None if ranges is None else check_ranges(ranges, sizes.M, sizes.N)
    results = [
        np.full(shape, -7, slot.dtype(sizes.dtype))
        for slot, shape in zip(operation.results, result_shapes(operation, sizes), strict=True)
    ]
    inputs = [
        engine.bind(slot, array, sizes.compute, sizes.N)
        for slot, array in zip(operation.arguments, arrays, strict=True)
    ]
    work = Work(plan_call(spec, sizes.compute, "cuda"), sizes, pairs, spec.separation)
    device.order = order
    part_s = 0.0 if in_parts else math.inf
    stops = list(execute.execute(work, inputs, results, Timing(), execute.backend_for("cuda"), part_s))
    assert stops == sorted(set(stops))
    return results


def check(
    device: Emulated,
    spec: Spec,
    arrays: Sequence[Array],
    tolerance: float,
    what: str,
    ranges: Sequence[Array] | None = None,
) -> None:
    """Whole and in three splits, the CUDA text agrees with the reference.

    Cut into parts, with its threads and blocks in the opposite order, it gives the same bits.
    """
    expected = reference(read(spec), arrays, ranges)
    for splits in (1, 3):
        with forced_splits(splits):
            got = computed(device, spec, arrays, ranges)
            assert_results(got, expected, tolerance, f"{what}, splits {splits}")
            parts = computed(device, spec, arrays, ranges, order="backward", in_parts=True)
        for a, b in zip(parts, got, strict=True):
            np.testing.assert_array_equal(a, b, f"{what}, splits {splits}, in parts")


def sizes_around(spec: Spec, dtype: str) -> list[tuple[int, int]]:
    """(rows, columns) around the rows of a block, its tile of columns, and nothing."""
    schedule = plan_call(spec, dtype, "cuda").stages[0].emitted.schedule
    rows, tile = block_rows(schedule), schedule.tile
    return [
        (0, 0), (0, 5), (1, 0), (rows + 1, 0), (1, 1), (3, tile - 1), (4, tile), (5, tile + 1), (2, 3 * tile + 5),
        (rows - 1, 2), (rows, 7), (rows + 1, 9), (rows // 4 + 1, tile + 1), (2 * rows + 3, 3),
    ]  # fmt: skip


@pytest.mark.parametrize(("dtype", "axis"), [("float32", 1), ("float64", 0), ("float64", None)])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=VARIANT_IDS)
def test_reductions(name: str, options: dict[str, Any], dtype: str, axis: int | None, device: Emulated) -> None:
    """Every reduction, at every size around blocks and tiles, over either axis and over both."""
    spec = spec_of(name, axis, **options)
    for rows, cols in sizes_around(spec, dtype):
        M, N = (cols, rows) if axis == 0 else (rows, cols)
        check(device, spec, draw(M, N, dtype), TOLERANCE[dtype], f"{name}, {M, N}, axis {axis}")


# Threads of a block, rows of a thread, columns of a tile and of a chunk.
SCHEDULES = ((32, 1, 8, 8), (32, 4, 128, 1), (64, 2, 24, 8), (256, 1, 256, 4), (96, 2, 16, 2))


@pytest.mark.parametrize(("block", "rows", "tile", "chunk"), SCHEDULES)
def test_schedules(block: int, rows: int, tile: int, chunk: int, device: Emulated) -> None:
    """Any number of threads, rows per thread, columns per tile and per chunk, with gradients and merges."""

    def planned(*words: Any, **options: Any) -> Schedule:
        own = plan(*words, **options)
        mergers = block if own.mergers == own.block else own.mergers
        return replace(own, block=block, rows=rows, tile=tile, chunk=chunk, mergers=mergers)

    plan = stages.plan
    with mock.patch.object(stages, "plan", planned):
        plan_call.cache_clear()
        try:
            for spec in (spec_of("Sum", 1), spec_of("LogSumExp", 0), spec_of("KMin_ArgKMin", None)):
                for i, j in sizes_around(spec, "float32"):
                    M, N = (j, i) if spec.axis == 0 else (i, j)
                    check(device, spec, draw(M, N, "float32"), 2e-6, f"{spec.reduction}, {M, N}")
            arrays = positive(((70, 3), (40, 3), (40, 1), (1,), (70, 3)), "float64")
            check(device, SEED.vjp((0, 1, 2, 3)), arrays, 1e-13, "seed gradients")
        finally:
            plan_call.cache_clear()


@pytest.mark.parametrize("order", [1, 2])
def test_threads_in_any_order(order: Order, device: Emulated) -> None:
    """Threads and blocks as drawn give the same bits as one after another."""
    seed = positive(((700, 3), (300, 3), (300, 1), (1,), (700, 3)), "float32")
    calls = [(SEED.vjp((0, 1, 2, 3)), seed)]
    for name in ("Sum", "LogSumExp", "KMin_ArgKMin", "SumSoftMaxWeight"):
        calls += [(spec_of(name, axis), draw(600, 300, "float32")) for axis in (1, None)]
    for spec, arrays in calls:
        for splits in (1, 3):
            with forced_splits(splits):
                forward, other = (computed(device, spec, arrays, order=o) for o in ("forward", order))
            for a, b in zip(forward, other, strict=True):
                np.testing.assert_array_equal(a, b, f"{spec.formula}, {spec.reduction}, splits {splits}")


def test_special_values(device: Emulated) -> None:
    """NaN and infinities among the terms, in the first and the last tile, go where NumPy puts them."""
    for name, options in VARIANTS:
        spec = spec_of(name, 1, "y", ("x = Vi(1)", "y = Vj(1)"), **options)
        for special in ({0: np.nan}, {299: np.nan}, {0: np.inf}, {299: -np.inf}, {5: np.inf, 250: np.nan},
                        dict.fromkeys(range(300), -np.inf), {7: np.inf, 8: -np.inf}):  # fmt: skip
            y = draw(1, 300, "float32")[1][:, :1]
            y[list(special), 0] = list(special.values())
            check(device, spec, [np.zeros((1, 1), "float32"), y], 2e-6, f"{name} with {list(special.items())[:2]}")


def positive(shapes: tuple[tuple[int, ...], ...], dtype: str) -> list[Array]:
    """Uniform numbers in [0.2, 1]."""
    rng = np.random.default_rng(0)
    return [rng.uniform(0.2, 1, shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_seed_and_its_gradients(dtype: str, device: Emulated) -> None:
    """Forward, all four gradients, and second order, at sizes around tiles."""
    tolerance = 2e-6 if dtype == "float32" else 1e-13
    for M, N in sizes_around(SEED, dtype)[:-1]:
        arrays = positive(((M, 3), (N, 3), (N, 1), (1,), (M, 3)), dtype)
        arrays[2] *= -1  # p - a has one sign: nothing cancels in float32
        check(device, SEED, arrays[:4], tolerance, f"seed, {M}, {N}")
        check(device, SEED.vjp((0, 1, 2, 3)), arrays, tolerance, f"seed gradients, {M}, {N}")
    second = SEED.vjp((0, 3)).vjp((0, 1, 2, 3, 4))
    cotangents = positive(((M, 3), (1,)), dtype)
    check(device, second, [*arrays, *cotangents], tolerance, "seed second order")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_seed_by_passes_over_columns_and_rows(dtype: str, device: Emulated) -> None:
    """Separated, forward and gradients; data that are refused go through the kernel over pairs."""
    tolerance = 2e-6 if dtype == "float32" else 1e-13
    seed = replace(SEED, separation="on")
    for M, N in ((1, 1), (5, 129), (9, 600)):
        arrays = positive(((M, 3), (N, 3), (N, 1), (1,), (M, 3)), dtype)
        check(device, seed, arrays[:4], tolerance, f"seed, {M}, {N}")
        check(device, seed.vjp((0, 1, 2, 3)), arrays, tolerance, f"seed gradients, {M}, {N}")
    arrays[1][3] = np.nan
    check(device, seed, arrays[:4], tolerance, "seed with NaN")


@pytest.mark.parametrize("axis", [1])
@pytest.mark.parametrize(
    "name", [name for name in sorted(REDUCTIONS) if REDUCTIONS[name].saving or name == "LogSumExp"]
)
def test_gradients_through_saved_results(name: str, axis: int | None, device: Emulated) -> None:
    """Gradients that read results of the forward call, indices among them."""
    spec = spec_of(name, axis)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in ((9, 2), (40, 2), (40, 1), (2,))]
    check(device, spec.forward(), arrays, 1e-13, f"{name}, saving")
    check(device, spec.vjp((0, 1, 2, 3)), arguments_of_vjp(spec, arrays), 1e-12, name)


@pytest.mark.parametrize(("dtype", "axis"), [("float32", 1), ("float64", None)])
@pytest.mark.parametrize("name", sorted(REDUCTIONS))
def test_batches_and_ranges(name: str, dtype: str, axis: int | None, device: Emulated) -> None:
    """Every reduction over parts of the columns, for arguments with batch axes, and both at once."""
    spec, tolerance = spec_of(name, axis), 2e-6 if dtype == "float32" else 1e-13
    for case in (*CASES, "overlapping"):
        check(device, spec, draw(*CASE_SIZES, dtype), tolerance, f"{name}, {case}", blocks(case))
    for batch in ("crossed", "p alone", "none"):
        for ranges in (None, six_arrays(FEW_BLOCKS, FEW[1])):
            check(device, spec, drawn(BATCHES[batch], *FEW, dtype), tolerance, f"{name}, {batch}", ranges)


@pytest.mark.parametrize("name", ["Sum", "LogSumExp", "Max", "KMin", "SumSoftMaxWeight"])
def test_gradients_of_batches_and_ranges(name: str, device: Emulated) -> None:
    """By variables of both axes and by the parameter, with indices that were saved."""
    spec, arrays = spec_of(name), drawn(BATCHES["each another"], *FEW)
    for ranges in (None, six_arrays(FEW_BLOCKS, FEW[1])):
        taken = arguments_of_vjp(spec, arrays, ranges)
        check(device, spec.vjp((0, 1, 2, 3)), taken, 1e-12, f"gradients of {name}", ranges)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_operators(dtype: str, device: Emulated) -> None:
    """The C text of every operator and case gives the reference's values, all in one kernel."""
    arguments = Arguments()
    calls = [call for name in named_operators() for call in calls_of(name, arguments, dtype, ties=True)]
    device.order = "forward"
    values = evaluate([call.formula for call in calls], arguments.arrays, dtype, device="cuda")
    for call, got in zip(calls, values, strict=True):
        assert_close(got, call.expected(), OPERATOR_TOLERANCE[dtype], call.what)


SANITIZED = {
    "sum": (spec_of("Sum", 1), (70, 200)),
    "sum over i": (spec_of("Sum", 0), (200, 130)),
    "logsumexp": (spec_of("LogSumExp", 1), (65, 129)),
    "both axes": (spec_of("KMin_ArgKMin", None), (130, 129)),
    "weighted": (spec_of("SumSoftMaxWeight", 1), (3, 300)),
}


@pytest.mark.parametrize("name", SANITIZED)
def test_sanitizers_find_nothing(name: str, sanitized: Emulated) -> None:
    """No read past an end and no undefined arithmetic, in one block and in many, whole and split, with ranges."""
    spec, (M, N) = SANITIZED[name]
    check(sanitized, spec, draw(M, N, "float32"), 2e-6, name)
    check(sanitized, spec, draw(*CASE_SIZES, "float32"), 2e-6, f"{name}, ranges", blocks())
