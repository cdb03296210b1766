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
SELECTED = 3  # terms that KMin and its kind select

# Where the usual formula would be out of a reduction's domain: scalars to exponentiate, factors of 1 and -1.
FORMULAS = {"Prod": "IfElse((x - y) * b + p, 1, -1)"} | {
    name: "((x|y) * b + Elem(p,0)) / 16" for name, found in REDUCTIONS.items() if found.is_weighted
}
WEIGHTS = "Square(x - y) + Exp(b / 2) + 1"

# Reduction and the options that make a variant of it.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in sorted(REDUCTIONS)),
    *((name, {"nan_policy": "ignore"}) for name in sorted(REDUCTIONS) if REDUCTIONS[name].ignoring),
    *((name, {"sum_scheme": "kahan_scheme"}) for name in sorted(REDUCTIONS) if REDUCTIONS[name].compensated),
]
VARIANT_IDS = [" ".join([name, *options.values()]) for name, options in VARIANTS]


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
    if reduction.weights == "needed":
        options["formula2"] = WEIGHTS if formula is None else formula
    return Spec(formula or FORMULAS.get(name, FORMULA), variables, name, axis, **options)


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


def arguments_of_vjp(
    spec: Spec, arrays: Sequence[Array], ranges: Sequence[Array] | None = None, device: Device = "cpu"
) -> list[Array]:
    """What the vjp of a call takes: its arguments, the saved results, drawn cotangents."""
    results = engine.run(spec.forward(), arrays, device=device, ranges=ranges).arrays
    rng = np.random.default_rng(7)
    cotangents = [rng.standard_normal(r.shape).astype(r.dtype) for r in results if r.dtype.kind == "f"]
    return [*arrays, *(results[place] for place in read(spec.forward()).saved), *cotangents]


def check_gradient(name: str, axis: int | None, device: Device = "cpu", **options: Any) -> None:
    """<vjp(e), d> = <e, jvp(d)> = <e, difference quotient along d>, through saved results if any."""
    spec = spec_of(name, axis, FORMULA if name == "Prod" else None, **options)
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(shape) for shape in ((5, 2), (6, 2), (6, 1), (2,))]
    operation, wrt = read(spec.forward()), (0, 1, 2, 3)
    taken = arguments_of_vjp(spec, arrays, device=device)
    cotangents = taken[len(arrays) + len(operation.saved) :]
    gradients = engine.run(spec.vjp(wrt), taken, device=device).arrays
    directions = [rng.standard_normal(array.shape) for array in arrays]

    def along(place: int, direction: Array) -> float:
        def objective(step: float) -> Array:
            moved = [a + step * direction if k == place else a for k, a in enumerate(arrays)]
            numbers = [r for r in reference(operation, moved) if r.dtype.kind == "f"]
            return np.array(sum(np.vdot(e, r) for e, r in zip(cotangents, numbers, strict=True)))

        return float(slope(objective, 1e-4))

    slopes = [along(place, direction) for place, direction in enumerate(directions)]
    for place, (expected, gradient) in enumerate(zip(slopes, gradients, strict=True)):
        got = float(np.vdot(gradient, directions[place]))
        assert abs(got - expected) <= 1e-8 * max(1, abs(expected)), (
            f"gradient of {name} over axis {axis} in argument {place}: {got}, differences give {expected}"
        )
    tangents = engine.run(spec.jvp(wrt), [*taken, *directions], device=device).arrays
    got = float(sum(np.vdot(e, t) for e, t in zip(cotangents, tangents, strict=True)))
    assert abs(got - sum(slopes)) <= 1e-8 * max(1, abs(sum(slopes))), (
        f"derivative of {name} over axis {axis} along a direction: {got}, differences give {sum(slopes)}"
    )
