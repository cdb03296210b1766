"""Functions of curves and time series: B-splines, and the soft alignment of two series."""

from __future__ import annotations

import numpy as np

from ..domains import REAL, Array, Case, Domain
from ..errors import RuleError
from ..expr import Expr, apply
from .comparison import where
from .kinds import derived

# ---- B-splines -----------------------------------------------------------------------------------------------
# The recursion of de Boor on whole vectors of splines. Knots may be repeated: the splines between equal knots are
# 0, and no quotient has the denominator 0, so derivatives are finite too.
# Source: C. de Boor, A Practical Guide to Splines, chapter IX.


def _bspline(knots: Expr, x: Expr, k: int) -> Expr:
    if x.dim != 1:
        raise RuleError(f"splines are functions of a scalar, the dim of b is {x.dim}")
    if k < 0 or knots.dim < k + 2:
        raise RuleError(f"splines of degree {k} need at least {max(k, 0) + 2} knots and a degree >= 0")
    K = knots.dim
    left, right = apply("Extract", knots, 0, K - 1), apply("Extract", knots, 1, K - 1)
    inside = apply("And", apply("LessOrEqual", left, x), apply("LessThan", x, right))
    splines = where(apply("Equal", x, x), inside, x)
    for degree in range(1, k + 1):
        count = K - degree
        first, last = apply("Extract", knots, 0, count), apply("Extract", knots, degree, count)
        distinct = apply("LessThan", first, last)
        rising = where(distinct, (x - first) / where(distinct, last - first, 1), 0)
        falling = 1 - apply("Extract", rising, 1, count - 1)
        splines = apply("Extract", rising, 0, count - 1) * apply("Extract", splines, 0, count - 1) + (
            falling * apply("Extract", splines, 1, count - 1)
        )
    return splines


def _spline(t: Array, x: Array, i: int, k: int) -> Array:
    """Spline number i of degree k, by the definition."""
    if k == 0:
        return np.where((t[..., i] <= x) & (x < t[..., i + 1]), 1.0, 0.0)
    total = np.zeros(np.broadcast_shapes(t.shape[:-1], x.shape))
    for start, sign in ((i, 1), (i + 1, -1)):
        low, high = t[..., start], t[..., start + k]
        part = np.where(low < high, (x - low if sign > 0 else high - x) / np.where(low < high, high - low, 1), 0)
        total = total + part * _spline(t, x, start, k - 1)
    return total


def _bspline_reference(knots: Array, x: Array, k: int) -> Array:
    return np.stack([_spline(knots, x[..., 0], i, k) for i in range(knots.shape[-1] - k - 1)], -1)


derived(
    "BSpline",
    "the B-splines of degree k on the knots a, in ascending order, at the scalar b; 0 at the last knot and beyond",
    _bspline,
    integers=("k",),
    reference=_bspline_reference,
    domain=(Domain(-2.0, 2.0, apart=True, ascending=True), REAL),
    cases=(Case((4, 1), (0,)), Case((5, 1), (1,)), Case((6, 1), (2,)), Case((6, 1), (3,)), Case((8, 1), (3,))),
)


# ---- soft dynamic time warping -------------------------------------------------------------------------------
# r[i, j] = (x_i - y_j)**2 + softmin(r[i-1, j-1], r[i-1, j], r[i, j-1]), all cells of one antidiagonal at once.
# Source: M. Cuturi, M. Blondel, Soft-DTW: a Differentiable Loss Function for Time-Series, 2017.


def _soft_dtw(x: Expr, y: Expr, gamma: Expr) -> Expr:
    if gamma.dim != 1:
        raise RuleError(f"gamma is a scalar, its dim is {gamma.dim}")
    n, m = x.dim, y.dim
    backward = y
    if m > 1:
        backward = apply("Elem", y, m - 1)
        for j in reversed(range(m - 1)):
            backward = apply("Concat", backward, apply("Elem", y, j))
    previous: tuple[int, Expr] | None = None  # first row of the antidiagonal, and its cells, row by row
    before: tuple[int, Expr] | None = None
    for t in range(n + m - 1):
        low, high = max(0, t - m + 1), min(n - 1, t)
        count = high - low + 1
        # Cell (i, t - i) meets component m - 1 - t + i of y read backwards.
        cost = apply(
            "Square", apply("Extract", x, low, count) - apply("Extract", backward, m - 1 - t + low, count)
        )
        cells = cost if previous is None else cost + _arrivals(t, low, high, previous, before, gamma)
        before, previous = previous, (low, cells)
    assert previous is not None
    return previous[1]


def _arrivals(
    t: int, low: int, high: int, previous: tuple[int, Expr], before: tuple[int, Expr] | None, gamma: Expr
) -> Expr:
    """The soft minimum over the predecessors of cells low..high of antidiagonal t; one alone at the borders."""

    def rows(diagonal: tuple[int, Expr], first: int, count: int) -> Expr:
        start, cells = diagonal
        return apply("Extract", cells, first - start, count)

    parts = []
    if low == 0:
        parts.append(rows(previous, 0, 1))
    first, last = max(low, 1), min(high, t - 1)
    if first <= last:
        assert before is not None
        count = last - first + 1
        total: Expr | None = None
        for diagonal, start in ((before, first - 1), (previous, first - 1), (previous, first)):
            power = -(rows(diagonal, start, count) / gamma)
            total = power if total is None else apply("LogAddExp", total, power)
        assert total is not None
        parts.append(-(gamma * total))
    if high == t:
        parts.append(rows(previous, t - 1, 1))
    joined, *rest = parts
    for part in rest:
        joined = apply("Concat", joined, part)
    return joined


def _soft_dtw_reference(x: Array, y: Array, gamma: Array) -> Array:
    n, m = x.shape[-1], y.shape[-1]
    shape = np.broadcast_shapes(x.shape[:-1], y.shape[:-1], gamma.shape[:-1])
    r = np.full((n + 1, m + 1, *shape), np.inf)
    r[0, 0] = 0
    for i in range(n):
        for j in range(m):
            known = np.stack([r[i, j], r[i, j + 1], r[i + 1, j]])
            least = known.min(0)
            soft = least - gamma[..., 0] * np.log(np.exp((least - known) / gamma[..., 0]).sum(0))
            r[i + 1, j + 1] = (x[..., i] - y[..., j]) ** 2 + soft
    return np.asarray(r[n, m][..., None])


derived(
    "SoftDTW_SqDist",
    "soft alignment cost of the series a and b, of squared distances, smoothed by the scalar c",
    _soft_dtw,
    reference=_soft_dtw_reference,
    domain=(REAL, REAL, Domain(0.5, 2.0)),
    cases=(Case((4, 3, 1)), Case((1, 3, 1)), Case((3, 1, 1)), Case((2, 4, 1)), Case((1, 1, 1))),
)
