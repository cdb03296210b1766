"""Reduction declaration -> checks: emitted kernels against its NumPy reference, gradient against differences.

Each check takes the name of a reduction. One formula serves them all; its arrays hold few distinct numbers, so
that ties occur, and the sizes lie around the tiles, blocks and chunks of the schedules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from unittest import mock

import numpy as np

from farfield_kernels import engine, launch
from farfield_kernels.expr import Array
from farfield_kernels.operation import Spec, read
from farfield_kernels.reductions import REDUCTIONS
from farfield_kernels.reference import reference
from farfield_kernels.schedule import Device

from .operator_checks import slope

FORMULA = "(x - y) * b + p"
VARIABLES = ("x = Vi(2)", "y = Vj(2)", "b = Vj(1)", "p = Pm(2)")
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}  # relative to the largest number the reduction can have met

# (M, N): around vector widths, the row block of 256, tiles of 256 and 1024, chunks of 32 and 64.
SIZES = (
    (0, 0), (0, 7), (7, 0), (1, 1), (1, 7), (7, 1), (15, 16), (16, 15), (17, 31), (31, 33), (33, 17), (64, 65),
    (2, 600), (255, 33), (256, 32), (257, 31), (600, 15), (16, 255), (15, 256), (17, 257),
    (3, 1023), (2, 1024), (1, 1025),
)  # fmt: skip


def draw(M: int, N: int, dtype: str, seed: int = 0) -> list[Array]:
    """Arguments of `FORMULA`: multiples of 1/4, so that equal terms are frequent and terms are exact."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-8, 9, shape).astype(dtype) / 4 for shape in ((M, 2), (N, 2), (N, 1), (2,))]


@contextlib.contextmanager
def forced_splits(splits: int, threads: int = 2) -> Iterator[None]:
    """Columns are split into that many parts, whatever the sizes."""
    with (
        mock.patch.object(launch, "split", return_value=splits),
        mock.patch.object(launch, "SMALLEST_SHARED_WORK", -1),
        mock.patch.object(launch, "thread_count", return_value=threads),
    ):
        yield


def assert_results(got: Sequence[Array], expected: Sequence[Array], tolerance: float, what: str) -> None:
    """Indices equal; numbers equal up to `tolerance` times the largest, NaN and infinities in the same places."""
    assert len(got) == len(expected), f"{what}: {len(got)} results, expected {len(expected)}"
    for place, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a.shape == b.shape, f"{what}: result {place} has shape {a.shape}, expected {b.shape}"
        if b.dtype.kind == "i":
            assert np.array_equal(a, b), f"{what}: indices differ at {np.argwhere(a != b)[:3].tolist()}"
            continue
        finite = np.isfinite(b)
        same = np.array_equal(a[~finite], b[~finite].astype(a.dtype), equal_nan=True)
        assert same, f"{what}: {a[~finite][:5]}, expected {b[~finite][:5]}"
        scale = max(1.0, float(np.abs(b[finite]).max(initial=0)))
        worst = float(np.abs(a[finite] - b[finite]).max(initial=0))
        assert worst <= tolerance * scale, f"{what}: result {place} off by {worst:.2e}, the largest is {scale:.2e}"


def check_reduction(
    name: str, dtype: str, axis: int, sizes: Sequence[tuple[int, int]] = SIZES, device: Device = "cpu"
) -> None:
    """The kernel agrees with the reference for every size, in one piece and with its columns split."""
    spec = Spec(FORMULA, VARIABLES, name, axis)
    for M, N in sizes:
        arrays = draw(M, N, dtype)
        expected = reference(read(spec), arrays)
        what = f"{name} over axis {axis}, M={M}, N={N}, {dtype}"
        assert_results(engine.run(spec, arrays, device=device).arrays, expected, TOLERANCE[dtype], what)
        with forced_splits(3):
            split = engine.run(spec, arrays, device=device).arrays
        assert_results(split, expected, TOLERANCE[dtype], f"{what}, 3 splits")


def check_gradient(name: str, axis: int, device: Device = "cpu") -> None:
    """<vjp(e), d> = <e, difference quotient along d> for every argument, through saved results if any."""
    spec = Spec(FORMULA, VARIABLES, REDUCTIONS[name].saving or name, axis)
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(shape) for shape in ((5, 2), (6, 2), (6, 1), (2,))]
    operation = read(spec)
    results = engine.run(spec, arrays, device=device).arrays
    cotangents = [rng.standard_normal(r.shape) for r in results if r.dtype.kind == "f"]
    saved = [results[place] for place in operation.saved]
    vjp = spec.vjp((0, 1, 2, 3))
    gradients = engine.run(vjp, [*arrays, *saved, *cotangents], device=device).arrays
    for place, gradient in enumerate(gradients):
        direction = rng.standard_normal(arrays[place].shape)

        def objective(step: float, place: int = place, direction: Array = direction) -> Array:
            moved = [a + step * direction if k == place else a for k, a in enumerate(arrays)]
            numbers = [r for r in reference(operation, moved) if r.dtype.kind == "f"]
            return np.array(sum(np.vdot(e, r) for e, r in zip(cotangents, numbers, strict=True)))

        expected, got = float(slope(objective, 1e-4)), float(np.vdot(gradient, direction))
        assert abs(got - expected) <= 1e-8 * max(1, abs(expected)), (
            f"gradient of {name} over axis {axis} in argument {place}: {got}, differences give {expected}"
        )
