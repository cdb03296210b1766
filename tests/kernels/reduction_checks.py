"""Reduction declaration -> checks: emitted kernels against its NumPy reference, gradient against differences.

Each check takes the name of a reduction. One formula serves them all; its arrays hold few distinct numbers, so
that ties occur, and the sizes lie around the tiles, blocks and chunks of the schedules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np

from farfield_kernels import blocks, cuda_launch, engine, launch
from farfield_kernels.expr import Array
from farfield_kernels.operation import Spec, read
from farfield_kernels.reductions import REDUCTIONS
from farfield_kernels.reference import reference
from farfield_kernels.schedule import Device

from .operator_checks import slope

INF, NAN = np.inf, np.nan
FORMULA = "(x - y) * b + p"
VARIABLES = ("x = Vi(2)", "y = Vj(2)", "b = Vj(1)", "p = Pm(2)")
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}  # relative to the largest number the reduction can have met
SELECTED = 3  # terms that KMin and its kind select

# Where the usual formula would be out of a reduction's domain: scalars to exponentiate, factors of 1 and -1.
FORMULAS = {"Prod": "IfElse((x - y) * b + p, 1, -1)"}
WEIGHTED = "((x|y) * b + Elem(p,0)) / 16"
WEIGHTS = "Square(x - y) + Exp(b / 2) + 1"

# Reduction and the options that make a variant of it.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in sorted(REDUCTIONS)),
    *((name, {"nan_policy": "ignore"}) for name in sorted(REDUCTIONS) if REDUCTIONS[name].ignoring),
    *((name, {"sum_scheme": "kahan_scheme"}) for name in sorted(REDUCTIONS) if REDUCTIONS[name].compensated),
    *((name, {"formula2": WEIGHTS}) for name in sorted(REDUCTIONS) if REDUCTIONS[name].weighted),
]
VARIANT_IDS = [" ".join([name, *options.values()]).replace(WEIGHTS, "weighted") for name, options in VARIANTS]


def spec_of(
    name: str,
    axis: int | None = 1,
    formula: str | None = None,
    variables: tuple[str, ...] = VARIABLES,
    **options: Any,
) -> Spec:
    """A call of a reduction with all that it takes; `formula` stands for its weights too."""
    reduction = REDUCTIONS[name]
    if reduction.takes_count:
        options["opt_arg"] = SELECTED
    if reduction.weights == "needed" or "formula2" in options:
        options["formula2"] = formula or WEIGHTS
    usual = WEIGHTED if reduction.is_weighted or "formula2" in options else FORMULAS.get(name, FORMULA)
    return Spec(formula or usual, variables, name, axis, **options)


# (M, N): around vector widths, the row block of 256, tiles of 256 and 1024, chunks of 32 and 64.
SIZES = (
    (0, 0), (0, 7), (7, 0), (1, 1), (1, 7), (7, 1), (15, 16), (16, 15), (17, 31), (31, 33), (33, 17), (64, 65),
    (2, 600), (255, 33), (256, 32), (257, 31), (600, 15), (16, 255), (15, 256), (17, 257),
    (3, 1023), (2, 1024), (1, 1025),
)  # fmt: skip


def draw(M: int, N: int, dtype: str, seed: int = 0) -> list[Array]:
    """Arguments of `FORMULA`: multiples of 1/4, so that equal terms are frequent and terms are exact.

    Of 1/64 if there are many columns, or the best of them would all be equal.
    """
    rng = np.random.default_rng(seed)
    parts = 4 if N < 1000 else 64
    shapes = ((M, 2), (N, 2), (N, 1), (2,))
    return [rng.integers(-2 * parts, 2 * parts + 1, shape).astype(dtype) / parts for shape in shapes]


@contextlib.contextmanager
def forced_splits(splits: int, threads: int = 2) -> Iterator[None]:
    """Columns are split into that many parts, whatever the sizes; on NumPy, into tiles of 8 x 256."""

    def parts(*sizes: object) -> int:
        return splits

    def workers() -> int:
        return threads

    with (
        mock.patch.object(launch, "split", parts),
        mock.patch.object(cuda_launch, "split", parts),
        mock.patch.object(launch, "SMALLEST_SHARED_WORK", -1),
        mock.patch.object(launch, "thread_count", workers),
        mock.patch.object(blocks, "COLUMNS", 256),
        mock.patch.object(blocks, "FEWER_COLUMNS", 256),
        mock.patch.object(blocks, "NUMBERS", 2048),
        mock.patch.object(blocks, "SMALLEST_SHARED_WORK", -1),
        mock.patch.object(blocks, "thread_count", workers),
    ):
        engine._ready_without_ranges.cache_clear()
        try:
            yield
        finally:
            engine._ready_without_ranges.cache_clear()


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
    name: str,
    dtype: str,
    axis: int | None,
    sizes: Sequence[tuple[int, int]] = SIZES,
    device: Device = "cpu",
    **options: Any,
) -> None:
    """The kernel agrees with the reference for every size, in one piece and with its columns split."""
    spec = spec_of(name, axis, **options)
    for M, N in sizes:
        arrays = draw(M, N, dtype)
        expected = reference(read(spec), arrays)
        what = f"{name} over axis {axis}, M={M}, N={N}, {dtype}"
        assert_results(engine.run(spec, arrays, device=device).arrays, expected, TOLERANCE[dtype], what)
        with forced_splits(3):
            split = engine.run(spec, arrays, device=device).arrays
        assert_results(split, expected, TOLERANCE[dtype], f"{what}, 3 splits")


SPECIAL_TERMS = (
    {0: NAN}, {-1: NAN}, {0: INF}, {-1: INF}, {0: -INF}, {-1: -INF},
    {5: INF, 600: NAN}, {300: NAN, 310: NAN}, {300: INF, 310: -INF}, {5: -INF, 600: NAN}, {5: INF, 600: INF},
    dict.fromkeys(range(700), INF), dict.fromkeys(range(700), -INF), dict.fromkeys(range(700), NAN),
)  # fmt: skip


def check_special_terms(name: str, dtype: str, **options: Any) -> None:
    """One special term among 700, two of them, nothing but special ones: value and index are NumPy's."""
    spec = spec_of(name, 1, "y", ("x = Vi(1)", "y = Vj(1)"), **options)
    x = np.zeros((1, 1), dtype)
    for special in SPECIAL_TERMS:
        y = draw(1, 700, dtype)[1][:, :1]
        y[3:5, 0] = 3, -3  # what a special term nearby may hide
        y[list(special), 0] = list(special.values())
        expected = reference(read(spec), [x, y])
        for splits in (1, 2):
            with forced_splits(splits):
                got = engine.run(spec, [x, y], device="cpu").arrays
            assert_results(got, expected, 2e-6, f"{name} with {list(special.items())[:2]}, {splits} splits")


def check_compensation(name: str, device: Device = "cpu") -> None:
    """Terms too small to change a float32 sum of 1 add up all the same, whole and with the columns split."""
    spec = spec_of(name, 1, "y", ("x = Vi(1)", "y = Vj(1)"), sum_scheme="kahan_scheme")
    x, y = np.zeros((3, 1), np.float32), np.full((3072, 1), 2.0**-26, np.float32)
    y[::512], y[256::512] = 1, -1  # one in each tile, nothing in all
    (expected,) = reference(read(spec), [x, y])
    for splits in (1, 3):
        with forced_splits(splits):
            (got,) = engine.run(spec, [x, y], device=device).arrays
        worst = float(np.abs(got / expected - 1).max())
        assert worst <= 2.0**-23, f"{name}, compensated: off by {worst:.1e}, {splits} splits"


def arguments_of_vjp(
    spec: Spec, arrays: Sequence[Array], ranges: Sequence[Array] | None = None, device: Device = "cpu"
) -> list[Array]:
    """What the vjp of a call takes: its arguments, the saved results, drawn cotangents."""
    results = engine.run(spec.forward(), arrays, device=device, ranges=ranges).arrays
    rng = np.random.default_rng(7)
    cotangents = [rng.standard_normal(r.shape).astype(r.dtype) for r in results if r.dtype.kind != "i"]
    return [*arrays, *(results[place] for place in read(spec.forward()).saved), *cotangents]


def check_gradient(
    name: str,
    axis: int | None,
    device: Device = "cpu",
    arrays: Sequence[Array] | None = None,
    ranges: Sequence[Array] | None = None,
    **options: Any,
) -> None:
    """<vjp(e), d> = <e, jvp(d)> = <e, difference quotient along d>, through saved results if any.

    Args:
        arrays: arguments of `FORMULA`, with batch axes if wished; drawn if None.
        ranges: block-sparse ranges.
    """
    spec = spec_of(name, axis, FORMULA if name == "Prod" else None, **options)
    rng = np.random.default_rng(1)
    if arrays is None:
        arrays = [rng.standard_normal(shape) for shape in ((5, 2), (6, 2), (6, 1), (2,))]
        if name == "Prod":  # one term that is 0, and two in one row, whose derivatives are other rules
            x, y, _, p = arrays
            p[:], x[0], y[2:4, 0] = 0, y[1], x[1, 0]
    operation, wrt = read(spec.forward()), (0, 1, 2, 3)
    taken = arguments_of_vjp(spec, arrays, ranges, device)
    cotangents = taken[len(arrays) + len(operation.saved) :]
    if name == "Prod":
        cotangents[1][...] = 0  # the product of the terms that are not 0, which jumps where one becomes 0
    gradients = engine.run(spec.vjp(wrt), taken, device=device, ranges=ranges).arrays
    directions = [rng.standard_normal(array.shape) for array in arrays]

    def along(place: int, direction: Array) -> float:
        def objective(step: float) -> Array:
            moved = [a + step * direction if k == place else a for k, a in enumerate(arrays)]
            numbers = [r for r in reference(operation, moved, ranges) if r.dtype.kind == "f"]
            return np.array(sum(inner(e, r) for e, r in zip(cotangents, numbers, strict=True)))

        return float(slope(objective, 1e-4))

    slopes = [along(place, direction) for place, direction in enumerate(directions)]
    for place, (expected, gradient) in enumerate(zip(slopes, gradients, strict=True)):
        got = float(np.vdot(gradient, directions[place]))
        assert abs(got - expected) <= 1e-8 * max(1, abs(expected)), (
            f"gradient of {name} over axis {axis} in argument {place}: {got}, differences give {expected}"
        )
    tangents = engine.run(spec.jvp(wrt), [*taken, *directions], device=device, ranges=ranges).arrays
    got = float(sum(inner(e, t) for e, t in zip(cotangents, tangents, strict=True)))
    assert abs(got - sum(slopes)) <= 1e-8 * max(1, abs(sum(slopes))), (
        f"derivative of {name} over axis {axis} along a direction: {got}, differences give {sum(slopes)}"
    )


def inner(cotangent: Array, result: Array) -> float:
    """Of what is finite: the reduction of nothing may be NaN or infinite, whatever the arguments."""
    return float(np.sum(np.where(np.isfinite(result), cotangent * result, 0)))
