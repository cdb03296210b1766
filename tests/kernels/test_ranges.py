"""Block-sparse ranges: every reduction over parts of the columns, its gradients, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from farfield_kernels import engine
from farfield_kernels.errors import ArgumentError, DtypeError, FarfieldError, ShapeError
from farfield_kernels.expr import Array
from farfield_kernels.operation import Spec, read
from farfield_kernels.reductions import REDUCTIONS
from farfield_kernels.reference import reference
from kernels.range_cases import CASES, FEW, FEW_BLOCKS, SIZES, WIDE, WIDE_BLOCKS, blocks, six_arrays
from kernels.reduction_checks import (
    VARIANT_IDS,
    VARIANTS,
    assert_results,
    check_gradient,
    draw,
    forced_splits,
    spec_of,
)

pytestmark = pytest.mark.usefixtures("path")  # compiled, and on NumPy
M, N = SIZES
NAMES = sorted(REDUCTIONS)
DIFFERENTIABLE = [name for name in NAMES if REDUCTIONS[name].gradient or REDUCTIONS[name].saving]


def check_values(spec: Spec, arrays: list[Array], ranges: list[Array], tolerance: float, what: str) -> None:
    """The engine gives the oracle's values, with the columns in one piece and split."""
    expected = reference(read(spec), arrays, ranges)
    assert_results(engine.run(spec, arrays, device="cpu", ranges=ranges).arrays, expected, tolerance, what)
    with forced_splits(3):
        split = engine.run(spec, arrays, device="cpu", ranges=ranges).arrays
    assert_results(split, expected, tolerance, f"{what}, 3 splits")


@pytest.mark.parametrize(("axis", "dtype"), [(1, "float32"), (0, "float64")])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=VARIANT_IDS)
def test_every_reduction_over_ranges(name: str, options: dict[str, Any], axis: int, dtype: str) -> None:
    """Clusters in any order, empty ones, rows in none, ranges that overlap, none at all, more than a tile."""
    spec = spec_of(name, axis, **options)
    tolerance = 2e-6 if dtype == "float32" else 1e-13
    for case in (*CASES, "overlapping"):
        check_values(spec, draw(*SIZES, dtype), blocks(case), tolerance, f"{name}, {case}")
    check_values(spec, draw(*WIDE, dtype), six_arrays(WIDE_BLOCKS, WIDE[1]), tolerance, f"{name}, wide")


@pytest.mark.parametrize("name", NAMES)
def test_ranges_where_both_axes_are_reduced(name: str) -> None:
    """axis=None reduces the pairs of the ranges; places are numbers of pairs."""
    for case in (*CASES, "overlapping"):
        check_values(spec_of(name, None), draw(*SIZES, "float64"), blocks(case), 1e-13, f"{name}, {case}")


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_over_ranges_are_derivatives(name: str, axis: int | None) -> None:
    """By variables of both axes and by a parameter, and along directions: the derivative of the oracle."""
    rng = np.random.default_rng(3)
    rows, cols = FEW
    arrays = [rng.standard_normal(shape) for shape in ((rows, 2), (cols, 2), (cols, 1), (2,))]
    check_gradient(name, axis, arrays=arrays, ranges=six_arrays(FEW_BLOCKS, cols))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_where_columns_are_met_twice(name: str) -> None:
    """They count twice in a sum; the gradient of a selected term would too, wrongly, and is refused."""
    rows, cols = FEW
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(shape) for shape in ((rows, 2), (cols, 2), (cols, 1), (2,))]
    ranges = six_arrays([((0, 5), [(3, 9), (0, 5)]), ((5, 8), [(2, 4), (2, 4), (6, 9)])], cols)
    saved = REDUCTIONS[name].saving or REDUCTIONS[name]
    if any(result.kind == "column" for result in saved.results):
        with pytest.raises(
            ArgumentError, match=r"cluster 0 of ranges_i meets columns twice, in \[0, 5\] and \[3, 9\]"
        ):
            check_gradient(name, 1, arrays=arrays, ranges=ranges)
    else:
        check_gradient(name, 1, arrays=arrays, ranges=ranges)


def test_rows_in_no_cluster_meet_nothing() -> None:
    """They get the reduction of nothing, and no gradient."""
    expected = {
        "Sum": 0.0,
        "LogSumExp": -np.inf,
        "Max": -np.inf,
        "Min": np.inf,
        "Prod": 1.0,
        "All": 1.0,
        "Any": 0.0,
    }
    arrays = draw(*SIZES, "float64")
    left_out = [10, 11, *range(12, 24)]
    for name, value in expected.items():
        (found,) = engine.run(spec_of(name), arrays, device="cpu", ranges=blocks()).arrays
        assert (found[left_out] == value).all(), name
    gradient = engine.run(spec_of("Sum").vjp((0,)), [*arrays, np.ones((M, 2))], device="cpu", ranges=blocks())
    assert (gradient.arrays[0][left_out] == 0).all()
    assert (gradient.arrays[0][:10] != 0).any()


def test_ranges_of_a_reduced_call_without_rows_or_columns() -> None:
    """Empty clusters are all that fits, and shapes are right."""
    for rows, cols in ((0, 5), (5, 0), (0, 0)):
        ranges = six_arrays([((0, rows), [(0, cols)])], cols)
        (found,) = engine.run(spec_of("Sum"), draw(rows, cols, "float64"), device="cpu", ranges=ranges).arrays
        assert found.tolist() == np.zeros((rows, 2)).tolist()


def test_integers_of_any_width_and_layout_are_taken() -> None:
    """int32, and arrays that are not contiguous, give what int64 gives."""
    arrays = draw(*SIZES, "float64")
    (expected,) = engine.run(spec_of("Sum"), arrays, device="cpu", ranges=blocks()).arrays
    narrow = [array.astype(np.int32) for array in blocks()]
    strided = [np.asfortranarray(array) for array in blocks()]
    for ranges in (narrow, strided):
        (found,) = engine.run(spec_of("Sum"), arrays, device="cpu", ranges=ranges).arrays
        assert np.array_equal(found, expected)


def _with(place: int, array: object) -> list[Any]:
    """The right arrays, one of them changed."""
    ranges: list[Any] = blocks()
    ranges[place] = array
    return ranges


RANGES_I, SLICES_I, COLUMNS_J, RANGES_J, SLICES_J, COLUMNS_I = blocks()
OTHER = six_arrays([((0, 10), [(0, 40)]), ((25, 40), [(10, 45)]), ((24, 25), [(49, 50)])], N)

# What is wrong -> the arrays, the class, words of the message, the field.
WRONG: dict[str, tuple[list[Any], type[FarfieldError], str, str]] = {
    "five arrays": (blocks()[:5], ArgumentError, "ranges are 6 arrays", "ranges"),
    "a list": (_with(0, RANGES_I.tolist()), ArgumentError, "ranges_i is a list", "ranges.ranges_i"),
    "None": (_with(4, None), ArgumentError, "slices_j is a NoneType", "ranges.slices_j"),
    "floats": (_with(2, COLUMNS_J * 1.0), DtypeError, "redranges_j is float64, int64", "ranges.redranges_j"),
    "unsigned": (_with(1, SLICES_I.astype("uint64")), DtypeError, "slices_i is uint64", "ranges.slices_i"),
    "truths": (_with(1, SLICES_I > 0), DtypeError, "slices_i is bool", "ranges.slices_i"),
    "flat": (_with(0, RANGES_I.ravel()), ShapeError, "ranges_i has shape (10,), (count, 2)", "ranges.ranges_i"),
    "three columns": (_with(3, np.zeros((2, 3), int)), ShapeError, "ranges_j has shape (2, 3)", "ranges.ranges_j"),
    "wide slices": (_with(4, SLICES_J[:, None]), ShapeError, "slices_j has shape", "ranges.slices_j"),
    "too few slices": (
        _with(1, SLICES_I[:-1]),
        ShapeError,
        "slices_i has 4 entries, ranges_i 5",
        "ranges.slices_i",
    ),
    "decreasing": (
        _with(1, SLICES_I[::-1].copy()),
        ArgumentError,
        "slices_i must not decrease",
        "ranges.slices_i",
    ),
    "negative slices": (_with(1, SLICES_I - 2), ArgumentError, "slices_i must not decrease", "ranges.slices_i"),
    "slices too far": (_with(1, SLICES_I + 1), ArgumentError, "end at most at 6", "ranges.slices_i"),
    "rows too far": (
        _with(0, RANGES_I + np.array([0, 1])),
        ArgumentError,
        "ranges_i[0] is [25, 41]: 0 <= first <= end <= 40",
        "ranges.ranges_i",
    ),
    "a negative row": (
        _with(0, RANGES_I - np.array([1, 0])),
        ArgumentError,
        "ranges_i[1] is [-1, 10]",
        "ranges.ranges_i",
    ),
    "columns too far": (
        _with(2, COLUMNS_J + np.array([0, 10])),
        ArgumentError,
        "redranges_j[0] is",
        "ranges.redranges_j",
    ),
    "turned round": (
        _with(2, COLUMNS_J[:, ::-1]),
        ArgumentError,
        "redranges_j[0] is [45, 10]",
        "ranges.redranges_j",
    ),
    "far too far": (_with(2, COLUMNS_J + 2**62), ArgumentError, "redranges_j[0] is", "ranges.redranges_j"),
    "rows twice": (
        six_arrays([((0, 10), [(0, 5)]), ((9, 12), [(0, 5)])], N),
        ArgumentError,
        "ranges_i overlap: [0, 10] and [9, 12]",
        "ranges.ranges_i",
    ),
    "other pairs": (
        [*blocks()[:3], *blocks("everything")[3:]],
        ArgumentError,
        "the first three transposed",
        "ranges",
    ),
    "as many other pairs": ([*blocks()[:3], *OTHER[3:]], ArgumentError, "the first three transposed", "ranges"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ranges_are_refused(name: str) -> None:
    """Each row has its class, message and field, in the engine and in the oracle; the right arrays are taken."""
    ranges, kind, message, field = WRONG[name]
    arrays = draw(*SIZES, "float64")
    for call in (
        lambda: engine.run(spec_of("Sum"), arrays, device="cpu", ranges=ranges),
        lambda: reference(read(spec_of("Sum")), arrays, ranges),
    ):
        with pytest.raises(FarfieldError) as caught:
            call()
        assert (type(caught.value), caught.value.field) == (kind, field)
        assert message in str(caught.value)
    engine.run(spec_of("Sum"), arrays, device="cpu", ranges=blocks())
