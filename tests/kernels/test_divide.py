"""Calls in pieces: together they are the call, whichever way it is cut, and each is about as large as was said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from farfield_kernels import divide as module
from farfield_kernels import engine
from farfield_kernels.arguments import Sizes, check_arguments, numpy_dtype, result_shapes
from farfield_kernels.divide import SHARES, SMALLEST, Division, divide
from farfield_kernels.expr import Array
from farfield_kernels.operation import Spec, read
from farfield_kernels.reductions import REDUCTIONS
from farfield_kernels.reference import reference
from farfield_kernels.terms import expand
from kernels.batch_cases import BATCHES, drawn
from kernels.reduction_checks import VARIANT_IDS, VARIANTS, arguments_of_vjp, assert_results, draw, spec_of

pytestmark = pytest.mark.usefixtures("path")  # compiled, and on NumPy

GAUSS = Spec("Exp(-p*SqDist(x,y))*b", ("x = Vi(3)", "y = Vj(3)", "b = Vj(2)", "p = Pm(1)"), separation="off")
DIFFERENTIABLE = [name for name in sorted(REDUCTIONS) if REDUCTIONS[name].gradient or REDUCTIONS[name].saving]
WRT = (0, 1, 2, 3)
MANY, FEW = (300, 40), (3, 1200)  # rows; columns


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So that few rows or columns are cut."""
    monkeypatch.setattr(module, "LEAST_ROWS", 8)
    monkeypatch.setattr(module, "LEAST_COLUMNS", 32)
    monkeypatch.setattr(module, "block_rows", lambda schedule: 8)
    divide.cache_clear()
    yield
    divide.cache_clear()


def gauss_arrays(M: int, N: int, dtype: str = "float32") -> list[Array]:
    """Its arguments."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in ((M, 3), (N, 3), (N, 2))] + [np.ones(1, dtype)]


def division_of(spec: Spec, arrays: list[Array], workers: int = 2) -> Division | None:
    """How a call is cut."""
    sizes = check_arguments(read(spec), [a.dtype.name for a in arrays], [a.shape for a in arrays])
    return divide(spec, sizes, workers)


def computed(spec: Spec, arrays: list[Array], division: Division) -> list[Array]:
    """The results, piece by piece; what no piece wrote is NaN, or -99."""
    operation = read(spec)
    sizes = check_arguments(operation, [a.dtype.name for a in arrays], [a.shape for a in arrays])
    dtypes = [slot.dtype(sizes.dtype) for slot in operation.results]
    shapes = result_shapes(operation, sizes)
    results = [
        np.full(shape, -99 if dtype == "int64" else np.nan, dtype)
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    parts: dict[int, list[Array]] = {place: [] for place in division.merges}
    for piece in division.pieces:
        inputs = [a[piece.first : piece.end] if k in piece.cut else a for k, a in enumerate(arrays)]
        outs = []
        for place in piece.results:
            if place in piece.merged:
                outs.append(np.full(shapes[place], np.nan))
                parts[place].append(outs[-1])
            else:
                outs.append(results[place][piece.first : piece.end] if piece.cut else results[place])
        engine.run(piece.spec, inputs, device="cpu", out=outs)
    for place, found in parts.items():
        division.merge(place, found, results[place])
    return results


def check(spec: Spec, arrays: list[Array], tolerance: float, what: str) -> Division | None:
    """The pieces of a call together agree with the reference."""
    division = division_of(spec, arrays)
    if division is not None:
        assert sum(piece.share for piece in division.pieces) == pytest.approx(1)
        assert_results(computed(spec, arrays, division), reference(read(spec), arrays), tolerance, what)
    return division


def axes_cut(division: Division | None, spec: Spec) -> set[str]:
    """Along which axes a call is cut."""
    slots = read(spec).arguments
    return {slots[place].axis for piece in division.pieces for place in piece.cut} if division else set()


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("axis", [1, 0, None])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=VARIANT_IDS)
def test_every_reduction_in_pieces(name: str, options: dict[str, Any], axis: int | None) -> None:
    """By rows all that keep an axis, by columns those that nest; the others stay whole."""
    spec = spec_of(name, axis, **options | {"separation": "off"})
    keep, over = ("i", "j") if axis == 1 else ("j", "i")
    for sizes in (MANY, FEW):
        M, N = sizes if axis != 0 else sizes[::-1]
        division = check(spec, draw(M, N, "float32"), 2e-6, f"{name}, {M} x {N}")
        cut = axes_cut(division, spec)
        (reduction,) = {term.reduction for term in expand(read(spec))}
        if axis is None:
            assert cut == ({"i" if sizes is MANY else "j"} if reduction.nests else set())
        else:
            assert cut == ({keep} if sizes is MANY or not reduction.nests else {over})


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_every_gradient_in_pieces(name: str, dtype: str) -> None:
    """Of all arguments at once: each side by its own rows, the parameter's from sums of pieces."""
    spec = spec_of(name, 1)
    for M, N in (MANY, FEW, (60, 80)):
        arrays = arguments_of_vjp(spec, draw(M, N, dtype))
        check(spec.vjp(WRT), arrays, 2e-4 if dtype == "float32" else 1e-11, f"{name}, {M} x {N}")


@pytest.mark.usefixtures("small_pieces")
def test_gradients_of_gradients_in_pieces() -> None:
    """The subset of arguments is that of the last order; a tangent is cut like any result."""
    arrays = gauss_arrays(300, 280, "float64")
    first = arguments_of_vjp(GAUSS, arrays)
    second = GAUSS.vjp((0, 1)).vjp((1, 3, 4))
    rng = np.random.default_rng(3)
    division = check(second, [*first, *(rng.standard_normal(a.shape) for a in arrays[:2])], 1e-11, "second order")
    assert axes_cut(division, second) == {"i", "j"}
    tangent = GAUSS.jvp((0, 1))
    division = check(tangent, [*first, *(rng.standard_normal(a.shape) for a in arrays[:2])], 1e-11, "tangent")
    assert axes_cut(division, tangent) == {"i"}


@pytest.mark.parametrize("what", BATCHES)
def test_batches_in_pieces(what: str) -> None:
    """Along the first axis, where all results have it; a gradient that is summed over it stays whole."""
    spec = spec_of("Sum", 1)
    arrays = drawn(BATCHES[what], 5, 7)
    check(spec, arrays, 1e-13, what)
    division = check(spec.vjp(WRT), [*arrays, *cotangents_of(spec, arrays)], 1e-12, what)
    if what == "all the same":
        assert division is not None
        assert all(piece.cut == frozenset(range(5)) for piece in division.pieces)


def cotangents_of(spec: Spec, arrays: list[Array]) -> list[Array]:
    """One per result."""
    return arguments_of_vjp(spec, arrays)[len(arrays) :]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_parts_that_cancel_lose_nothing(dtype: str) -> None:
    """Columns are summed in float64 until all are there, as they are in one go."""
    spec = Spec("x*y", ("x = Vi(1)", "y = Vj(1)"), separation="off")
    y = np.repeat([10_240.0, 1.0, -10_240.0], [2047, 1, 2047])[:, None]
    arrays = [a.astype(numpy_dtype(dtype)) for a in (np.array([[1.0], [3.0]]), y)]
    division = division_of(spec, arrays)
    assert division is not None
    assert all(piece.merged == {0} for piece in division.pieces)
    np.testing.assert_array_equal(computed(spec, arrays, division)[0].astype(float), [[1], [3]])


def test_a_division_is_fine_at_its_end() -> None:
    """Every worker's even share is made of large pieces and of small ones, which come last."""
    assert sum(1 / part for part in SHARES) == 1
    for workers in (2, 3, 8):
        division = division_of(GAUSS, gauss_arrays(100_000, 10), workers)
        assert division is not None
        shares = [piece.share for piece in division.pieces]
        assert len(shares) == len(SHARES) * workers
        assert shares == sorted(shares, reverse=True)
        np.testing.assert_allclose(shares[-workers:], 1 / (SMALLEST * workers), rtol=0.1)
        np.testing.assert_allclose(shares[0], 1 / (2 * workers), rtol=0.1)


@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        (Spec("x*y", ("x = Vi(1)", "y = Vj(1)")), (100_000, 100_000)),  # it separates
        (Spec("x*y", ("x = Vi(1)", "y = Vj(1)"), "Prod"), (1, 1_000_000)),
        (Spec("x*y", ("x = Vi(1)", "y = Vj(1)"), sum_scheme="kahan_scheme"), (1, 1_000_000)),
        (Spec("x", ("x = Vi(1)", "y = Vj(1)")).vjp((0, 1)), (100_000, 100_000)),  # one gradient is 0
    ],
)
def test_what_stays_whole(spec: Spec, sizes: tuple[int, int]) -> None:
    """Sums of finite rank, few rows whose results cannot be merged, calls with results that nothing computes."""
    slots = read(spec).arguments
    assert divide(spec, Sizes("float32", *sizes, (), ((),) * len(slots)), 2) is None


def test_one_worker_gets_no_pieces() -> None:
    """It computes the whole."""
    assert division_of(GAUSS, gauss_arrays(100_000, 10), 1) is None
