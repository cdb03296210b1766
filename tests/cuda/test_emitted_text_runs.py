"""The emitted CUDA text computes the right numbers: a C++ compiler runs it unchanged, one thread per block."""

from __future__ import annotations

import ctypes
import functools
import math
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farfield_kernels import engine
from farfield_kernels.arguments import check_arguments, result_shapes
from farfield_kernels.build import find_compiler
from farfield_kernels.emit.intrinsics import INTRINSICS
from farfield_kernels.execute import Host, Timing, Work, execute
from farfield_kernels.expr import Array
from farfield_kernels.launch import Extent, Launch
from farfield_kernels.lower import Program
from farfield_kernels.operation import Spec, read
from farfield_kernels.operators import named_operators
from farfield_kernels.ranges import check_ranges
from farfield_kernels.reductions import REDUCTIONS
from farfield_kernels.reference import reference
from farfield_kernels.schedule import Schedule
from farfield_kernels.stages import Emitted, plan_call
from kernels.batch_cases import BATCHES, drawn
from kernels.operator_checks import ROWS, TOLERANCE, Arguments, assert_close, calls_of, stages
from kernels.range_cases import CASES, FEW, FEW_BLOCKS, blocks, six_arrays
from kernels.range_cases import SIZES as CASE_SIZES
from kernels.reduction_checks import VARIANT_IDS, VARIANTS, arguments_of_vjp, assert_results, draw, spec_of

HEADER = Path(__file__).with_name("one_thread.h")
SEED = Spec("Square(p-a)*Exp(x+y)", ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"))

# (M, N): around the tile of 256 columns, chunks of 8 and the rows that a thread holds.
SIZES = (
    (0, 5), (1, 0), (1, 1), (3, 7), (4, 8), (5, 9), (6, 127), (7, 128), (8, 129), (2, 255), (3, 257), (9, 600),
)  # fmt: skip


class OneThreadKernel:
    """Emitted CUDA text behind the signature of `CudaKernel`, on NumPy arrays; a block is one thread."""

    def __init__(self, program: Program, schedule: Schedule, library: ctypes.CDLL, splits: int) -> None:
        self.program, self.library, self.splits = program, library, splits
        self.schedule = replace(schedule, block=1, team=1)
        self.state = program.state_size * len(program.components)

    def launch(self, extent: Extent) -> Launch:
        """Ready to be run."""
        return OneThreadLaunch(self, extent)


class OneThreadLaunch(Launch):
    """As `CudaLaunch`."""

    def __init__(self, kernel: OneThreadKernel, extent: Extent) -> None:
        self.splits = kernel.splits if extent.blocks is None else 1
        self.row_blocks = extent.row_blocks(kernel.schedule)
        super().__init__(kernel, extent, extent.batches * self.row_blocks * self.splits, 1)

    def memory(self) -> Array:
        """Partial states."""
        return np.full(self.extent.batches * self.splits * self.kernel.state * self.extent.rows + 1, np.nan)

    def run(self, inputs: Sequence[Any], outputs: Sequence[Any], memory: Any, first: int, end: int) -> None:
        """Run reduce, and merge if the columns were split or both axes are reduced."""
        extent, kernel, over_rows = self.extent, self.kernel, self.kernel.program.over_rows
        rows, cols, batches = extent.rows, extent.cols, extent.batches
        sizes = [ctypes.c_longlong(size) for size in (rows, cols, self.splits)]
        tables = [
            ctypes.c_void_p(None) if table is None else self._pointer(table)
            for table in (extent.blocks, extent.ranges, extent.offsets)
        ]
        taken = [self._pointer(inputs[position]) for position, _ in kernel.program.widths]
        written = [self._pointer(array) for array in (*outputs, memory)]
        walk = [*sizes, ctypes.c_longlong(first), ctypes.c_longlong(self.row_blocks), *tables, *taken, *written]
        self._launch(kernel.library.launch_farfield_reduce, end - first, walk)
        if end == self.units and (self.splits > 1 or over_rows):
            ends = [ctypes.c_longlong(batches), ctypes.c_longlong(extent.terms if over_rows else cols)]
            blocks = batches if over_rows else batches * rows  # of one thread
            self._launch(kernel.library.launch_farfield_merge, blocks, [*sizes, *ends, *written])

    @staticmethod
    def _pointer(array: Array) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    @staticmethod
    def _launch(entry: Any, blocks: int, arguments: list[Any]) -> None:
        addresses = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
        entry(ctypes.c_uint(blocks), ctypes.c_uint(1), addresses)


class OneThread(Host):
    """The back end of such kernels, whose columns are split into so many parts."""

    def __init__(self, library: Callable[[str], ctypes.CDLL], splits: int) -> None:
        self.library, self.splits = library, splits

    def build(self, kernels: tuple[Emitted, ...]) -> list[OneThreadKernel]:
        """Compiled kernels."""
        return [OneThreadKernel(k.program, k.schedule, self.library(k.source), self.splits) for k in kernels]


Build = Callable[[int], OneThread]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Number of splits -> the back end; equal sources are compiled once."""
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler is installed")
    folder = tmp_path_factory.mktemp("one-thread")

    @functools.cache
    def library(source: str) -> ctypes.CDLL:
        binary = folder / f"{library.cache_info().currsize}.so"
        for inline in INTRINSICS.values():
            source = source.replace(inline, "")
        text = f"{source}\nONE_THREAD_LAUNCH(farfield_reduce)\nONE_THREAD_LAUNCH(farfield_merge)\n"
        command = [compiler, "-std=c++17", "-O0", "-w", "-shared", "-fPIC", "-include", str(HEADER)]
        command += ["-x", "c++", "-", "-o", str(binary)]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return ctypes.CDLL(str(binary))

    return lambda splits: OneThread(library, splits)


def computed(
    build: Build,
    spec: Spec,
    arrays: Sequence[Array],
    splits: int,
    ranges: Sequence[Array] | None = None,
    *,
    in_parts: bool = False,
) -> list[Array]:
    """All results of a call by its CUDA kernels, as the engine puts them together."""
    operation = read(spec)
    sizes = check_arguments(operation, [a.dtype.name for a in arrays], [a.shape for a in arrays])
    pairs = None if ranges is None else check_ranges(ranges, sizes.M, sizes.N)
    call = plan_call(spec, sizes.compute, "cuda")
    results = [
        np.full(shape, 0 if place in call.zeros else -7, slot.dtype(sizes.dtype))
        for place, (slot, shape) in enumerate(zip(operation.results, result_shapes(operation, sizes), strict=True))
    ]
    inputs = [
        engine.bind(slot, array, sizes.compute, sizes.N)
        for slot, array in zip(operation.arguments, arrays, strict=True)
    ]
    work = Work(call, sizes, pairs, spec.separation)
    part_s = 0.0 if in_parts else math.inf
    stops = list(execute(work, inputs, results, Timing(), build(splits), part_s))
    assert stops == sorted(set(stops))
    return results


def check(
    build: Build,
    spec: Spec,
    arrays: Sequence[Array],
    tolerance: float,
    what: str,
    ranges: Sequence[Array] | None = None,
) -> None:
    """Whole and in three splits, the CUDA text agrees with the reference."""
    expected = reference(read(spec), arrays, ranges)
    for splits in (1, 3):
        got = computed(build, spec, arrays, splits, ranges)
        assert_results(got, expected, tolerance, f"{what}, splits {splits}")
        parts = computed(build, spec, arrays, splits, ranges, in_parts=True)
        for a, b in zip(parts, got, strict=True):
            np.testing.assert_array_equal(a, b, f"{what}, splits {splits}, in parts")


@pytest.mark.parametrize(("dtype", "axis"), [("float32", 1), ("float64", None)])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=VARIANT_IDS)
def test_reductions(name: str, options: dict[str, Any], dtype: str, axis: int | None, build: Build) -> None:
    """Every reduction, at every size around tiles, over columns and over both axes."""
    spec = spec_of(name, axis, **options)
    for M, N in SIZES:
        sizes = (N, M) if axis == 0 else (M, N)
        tolerance = 2e-6 if dtype == "float32" else 1e-13
        check(build, spec, draw(*sizes, dtype), tolerance, f"{name}, {sizes}, axis {axis}")


def test_special_values(build: Build) -> None:
    """NaN and infinities among the terms, in the first and the last tile, go where NumPy puts them."""
    for name, options in VARIANTS:
        spec = spec_of(name, 1, "y", ("x = Vi(1)", "y = Vj(1)"), **options)
        for special in ({0: np.nan}, {299: np.nan}, {0: np.inf}, {299: -np.inf}, {5: np.inf, 250: np.nan},
                        dict.fromkeys(range(300), -np.inf), {7: np.inf, 8: -np.inf}):  # fmt: skip
            y = draw(1, 300, "float32")[1][:, :1]
            y[list(special), 0] = list(special.values())
            check(build, spec, [np.zeros((1, 1), "float32"), y], 2e-6, f"{name} with {list(special.items())[:2]}")


def positive(shapes: tuple[tuple[int, ...], ...], dtype: str) -> list[Array]:
    """Uniform numbers in [0.2, 1]."""
    rng = np.random.default_rng(0)
    return [rng.uniform(0.2, 1, shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_seed_and_its_gradients(dtype: str, build: Build) -> None:
    """Forward, all four gradients, and second order, at sizes around tiles."""
    tolerance = 2e-6 if dtype == "float32" else 1e-13
    for M, N in SIZES:
        arrays = positive(((M, 3), (N, 3), (N, 1), (1,), (M, 3)), dtype)
        arrays[2] *= -1  # p - a has one sign: nothing cancels in float32
        check(build, SEED, arrays[:4], tolerance, f"seed, {M}, {N}")
        check(build, SEED.vjp((0, 1, 2, 3)), arrays, tolerance, f"seed gradients, {M}, {N}")
    second = SEED.vjp((0, 3)).vjp((0, 1, 2, 3, 4))
    cotangents = positive(((M, 3), (1,)), dtype)
    check(build, second, [*arrays, *cotangents], tolerance, "seed second order")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_seed_by_passes_over_columns_and_rows(dtype: str, build: Build) -> None:
    """Separated, forward and gradients; data that are refused go through the kernel over pairs."""
    tolerance = 2e-6 if dtype == "float32" else 1e-13
    seed = replace(SEED, separation="on")
    for M, N in ((1, 1), (5, 129), (9, 600)):
        arrays = positive(((M, 3), (N, 3), (N, 1), (1,), (M, 3)), dtype)
        check(build, seed, arrays[:4], tolerance, f"seed, {M}, {N}")
        check(build, seed.vjp((0, 1, 2, 3)), arrays, tolerance, f"seed gradients, {M}, {N}")
    arrays[1][3] = np.nan
    check(build, seed, arrays[:4], tolerance, "seed with NaN")


@pytest.mark.parametrize("axis", [1])
@pytest.mark.parametrize(
    "name", [name for name in sorted(REDUCTIONS) if REDUCTIONS[name].saving or name == "LogSumExp"]
)
def test_gradients_through_saved_results(name: str, axis: int | None, build: Build) -> None:
    """Gradients that read results of the forward call, indices among them."""
    spec = spec_of(name, axis)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in ((9, 2), (40, 2), (40, 1), (2,))]
    check(build, spec.forward(), arrays, 1e-13, f"{name}, saving")
    check(build, spec.vjp((0, 1, 2, 3)), arguments_of_vjp(spec, arrays), 1e-12, name)


@pytest.mark.parametrize(("dtype", "axis"), [("float32", 1), ("float64", None)])
@pytest.mark.parametrize("name", sorted(REDUCTIONS))
def test_batches_and_ranges(name: str, dtype: str, axis: int | None, build: Build) -> None:
    """Every reduction over parts of the columns, for arguments with batch axes, and both at once."""
    spec, tolerance = spec_of(name, axis), 2e-6 if dtype == "float32" else 1e-13
    for case in (*CASES, "overlapping"):
        check(build, spec, draw(*CASE_SIZES, dtype), tolerance, f"{name}, {case}", blocks(case))
    for batch in ("crossed", "p alone", "none"):
        for ranges in (None, six_arrays(FEW_BLOCKS, FEW[1])):
            check(build, spec, drawn(BATCHES[batch], *FEW, dtype), tolerance, f"{name}, {batch}", ranges)


@pytest.mark.parametrize("name", ["Sum", "LogSumExp", "Max", "KMin", "SumSoftMaxWeight"])
def test_gradients_of_batches_and_ranges(name: str, build: Build) -> None:
    """By variables of both axes and by the parameter, with indices that were saved."""
    spec, arrays = spec_of(name), drawn(BATCHES["each another"], *FEW)
    for ranges in (None, six_arrays(FEW_BLOCKS, FEW[1])):
        taken = arguments_of_vjp(spec, arrays, ranges)
        check(build, spec.vjp((0, 1, 2, 3)), taken, 1e-12, f"gradients of {name}", ranges)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_operators(dtype: str, build: Build) -> None:
    """The C text of every operator and case gives the reference's values, all in one kernel."""
    arguments = Arguments()
    calls = [call for name in named_operators() for call in calls_of(name, arguments, dtype, ties=True)]
    (kernel,) = build(1).build((Emitted(*stages([call.formula for call in calls], dtype, "cuda")),))
    outputs = [np.empty((ROWS, output.count), dtype) for output in kernel.program.outputs]
    inputs = [np.ascontiguousarray(array, dtype) for array in arguments.arrays]
    kernel.launch(Extent(ROWS, 1, terms=ROWS))(inputs, outputs)
    for call, got in zip(calls, outputs, strict=True):
        assert_close(got, call.expected(), TOLERANCE[dtype], call.what)
