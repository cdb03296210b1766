"""Sums, products, counts and moments of the terms."""

from __future__ import annotations

import numpy as np

from ..expr import Array, Expr, apply
from ..functions_numpy import finite_or_zero
from .kinds import Field, Pair, Reduction, Result, State, Tile, declare


def _where(truth: Expr, a: Expr | float, b: Expr | float) -> Expr:
    return apply("Where", truth, a, b)


# ---- sum -----------------------------------------------------------------------------------------------------


def _total(tile: Tile) -> Array:
    return np.asarray(tile.terms.sum(1, dtype=np.float64))


def _added(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b, and what rounding takes from it (Two-Sum, https://doi.org/10.1007/PL00009321)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def _fold_compensated(state: State, tile: Tile) -> State:
    s, e = state
    rest = tile.terms.astype(np.float64)
    while rest.shape[1] > 1:
        half = rest.shape[1] // 2
        totals, lost = _added(rest[:, :half], rest[:, half : 2 * half])
        e = e - finite_or_zero(lost).sum(1)
        rest = np.concatenate([totals, rest[:, 2 * half :]], 1)
    total, lost = _added(s, rest[:, 0])
    return total, e - finite_or_zero(lost)


def _fold_sum(state: State, tile: Tile) -> State:
    return (state[0] + _total(tile),)


SUM_DOC = "sum of the terms; 0 of nothing"

COMPENSATED_SUM = Reduction(
    name="Sum",
    doc=SUM_DOC,
    state=(Field("s", "K(0)"), Field("e", "K(0)")),
    # Kahan's summation; an infinite sum has no error to carry along.
    step="const V y = $t - $e; const V u = $s + y; $e = finite_or_zero((u - $s) - y); $s = u;",
    merge="const double y = ($s2 - $e2) - $e; const double u = $s + y; $e = finite_or_zero((u - $s) - y); $s = u;",
    results=(Result("$s - $e"),),
    reference=lambda terms, weights, K: (terms.sum(1),),
    fold=_fold_compensated,
    gradient=lambda pair: (pair.cotangents[0], None),
)

SUM = declare(
    Reduction(
        name="Sum",
        doc=SUM_DOC,
        state=(Field("s", "K(0)"),),
        step="$s = $s + $t;",
        merge="$s += $s2;",
        nests=True,
        by_chunks=True,
        results=(Result("$s"),),
        reference=lambda terms, weights, K: (terms.sum(1),),
        fold=_fold_sum,
        gradient=lambda pair: (pair.cotangents[0], None),
        compensated=COMPENSATED_SUM,
    )
)


# ---- moments -------------------------------------------------------------------------------------------------
# The count of terms may differ from row to row, where only parts of a row are reduced: gradients read it back.

COUNT_RESULT = Result("terms", kind="count")
SUM_STATE = {
    "state": (Field("s", "K(0)"),),
    "step": "$s = $s + $t;",
    "merge": "$s += $s2;",
    "by_chunks": True,
    "fold": _fold_sum,
}


def _mean(terms: Array) -> Array:
    return np.asarray(terms.sum(1) / terms.shape[1])


def _lengths(terms: Array) -> Array:
    return np.full((terms.shape[0], terms.shape[2]), terms.shape[1])


MEAN_AND_COUNT = Reduction(
    name="Mean",
    doc="the mean of the terms and their number",
    **SUM_STATE,  # type: ignore[arg-type]
    results=(Result("$s / terms"), COUNT_RESULT),
    reference=lambda terms, weights, K: (_mean(terms), _lengths(terms)),
    gradient=lambda pair: (pair.cotangents[0] / pair.number(pair.saved[0]), None),
    saves=(1,),
)

declare(
    Reduction(
        name="Mean",
        doc="mean of the terms; NaN of nothing",
        **SUM_STATE,  # type: ignore[arg-type]
        results=(Result("$s / terms"),),
        reference=lambda terms, weights, K: (_mean(terms),),
        saving=MEAN_AND_COUNT,
    )
)


def _fold_moments(state: State, tile: Tile) -> State:
    n, a, v = state
    terms = tile.terms.astype(np.float64)
    first, count = terms[:, :1], terms.shape[1]
    mean = first[:, 0] + (terms - first).mean(1)  # exact where all terms are equal
    squares = np.square(terms - mean[:, None]).sum(1)
    total, d = n + count, mean - a
    return total, a + d * (count / total), v + squares + d * d * (n * (count / total))


# Welford's update, and the merge of Chan, Golub and LeVeque: https://doi.org/10.2307/2683386
MOMENTS = {
    "state": (Field("n", "K(0)"), Field("a", "K(0)"), Field("v", "K(0)")),
    # Of squares alone, so that no rounding brings it below 0: where $t is a product, $t - $a may be fused with it.
    "step": "const V d = $t - $a; $n = K($c + 1); const V q = d / $n; $a = $a + q; $v = $v + d * q * ($n - K(1));",
    "merge": "const double n = $n + $n2, d = $a2 - $a; "
    "if ($n2 > 0) { $a += d * ($n2 / n); $v += $v2 + d * d * ($n * ($n2 / n)); $n = n; }",
    "fold": _fold_moments,
}


def _variance(terms: Array) -> Array:
    return np.asarray(((terms - _mean(terms)[:, None, :]) ** 2).sum(1) / terms.shape[1])


def _var_gradient(pair: Pair) -> tuple[Expr, None]:
    mean, count = pair.saved
    of_variance, of_mean = pair.cotangents
    return (2.0 * of_variance * (pair.term - mean) + of_mean) / pair.number(count), None


def _std_gradient(pair: Pair) -> tuple[Expr, None]:
    deviation, mean, count = pair.saved
    of_deviation, of_mean = pair.cotangents
    zero = apply("Equal", deviation, 0.0)
    slope = _where(zero, 0.0, of_deviation * (pair.term - mean) / _where(zero, 1.0, deviation))
    return (slope + of_mean) / pair.number(count), None


MEAN_RESULT = Result("$a / (terms > 0)")  # NaN of nothing
VAR_RESULT = Result("$v / terms + ($a - $a)")  # NaN where the mean is infinite
STD_RESULT = Result("sqrt($v / terms + ($a - $a))")

VAR_AND_MEAN = Reduction(
    name="Var",
    doc="variance, mean and number of the terms",
    **MOMENTS,  # type: ignore[arg-type]
    results=(VAR_RESULT, MEAN_RESULT, COUNT_RESULT),
    reference=lambda terms, weights, K: (_variance(terms), _mean(terms), _lengths(terms)),
    gradient=_var_gradient,
    saves=(1, 2),
)

declare(
    Reduction(
        name="Var",
        doc="variance of the terms, divided by their number as in NumPy; NaN of nothing",
        **MOMENTS,  # type: ignore[arg-type]
        results=(VAR_RESULT,),
        reference=lambda terms, weights, K: (_variance(terms),),
        saving=VAR_AND_MEAN,
    )
)

STD_AND_MEAN = Reduction(
    name="Std",
    doc="standard deviation, mean and number of the terms",
    **MOMENTS,  # type: ignore[arg-type]
    results=(STD_RESULT, MEAN_RESULT, COUNT_RESULT),
    reference=lambda terms, weights, K: (np.sqrt(_variance(terms)), _mean(terms), _lengths(terms)),
    gradient=_std_gradient,
    saves=(0, 1, 2),
)

declare(
    Reduction(
        name="Std",
        doc="standard deviation of the terms, the square root of Var; its derivative at 0 is 0",
        **MOMENTS,  # type: ignore[arg-type]
        results=(STD_RESULT,),
        reference=lambda terms, weights, K: (np.sqrt(_variance(terms)),),
        saving=STD_AND_MEAN,
    )
)


# ---- product -------------------------------------------------------------------------------------------------


def _prod_parts(terms: Array) -> tuple[Array, Array, Array]:
    zero = terms == 0
    return terms.prod(1), np.where(zero, 1.0, terms).prod(1), zero.sum(1)


def _prod_gradient(pair: Pair) -> tuple[Expr, None]:
    """The product of the other terms: they are all but one if this one is 0."""
    others, zeros = pair.saved
    of_product, of_others = pair.cotangents
    count = pair.number(zeros)
    is_zero = apply("Equal", pair.term, 0.0)
    from_others = others / _where(is_zero, 1.0, pair.term)
    among_numbers = (_where(apply("Equal", count, 0.0), of_product, 0.0) + of_others) * from_others
    alone_zero = _where(apply("Equal", count, 1.0), of_product * others, 0.0)
    return _where(is_zero, alone_zero, among_numbers), None


def _fold_product(state: State, tile: Tile) -> State:
    p, z = state
    zero = tile.terms == 0
    return p * np.where(zero, 1, tile.terms).prod(1, dtype=np.float64), z + np.count_nonzero(zero, 1)


PROD_STATE = {
    "state": (Field("p", "K(1)"), Field("z", "KI(0)", kind="count")),
    "step": "const auto w = $t == K(0); $p = w ? $p : $p * $t; $z = w ? $z + KI(1) : $z;",
    "merge": "$p *= $p2; $z += $z2;",
    "fold": _fold_product,
}
PROD_RESULT = Result("$z > 0 ? $p - $p : $p")  # 0, or NaN if a factor was NaN or the product infinite

PROD_AND_PARTS = Reduction(
    name="Prod",
    doc="product of the terms, product of those that are not 0, and how many are 0",
    **PROD_STATE,  # type: ignore[arg-type]
    results=(PROD_RESULT, Result("$p"), Result("$z", kind="count")),
    reference=lambda terms, weights, K: _prod_parts(terms),
    gradient=_prod_gradient,
    saves=(1, 2),
)

declare(
    Reduction(
        name="Prod",
        doc="product of the terms; 1 of nothing",
        **PROD_STATE,  # type: ignore[arg-type]
        results=(PROD_RESULT,),
        reference=lambda terms, weights, K: _prod_parts(terms)[:1],
        saving=PROD_AND_PARTS,
    )
)


# ---- truths --------------------------------------------------------------------------------------------------
# A term is true unless it is 0; NaN is true, as in NumPy.

declare(
    Reduction(
        name="Count",
        doc="number of terms that are not 0",
        state=(Field("n", "KI(0)", kind="count"),),
        step="$n = $t != K(0) ? $n + KI(1) : $n;",
        is_exact=True,
        merge="$n += $n2;",
        results=(Result("$n", kind="count"),),
        reference=lambda terms, weights, K: (np.count_nonzero(terms, 1),),
        fold=lambda state, tile: (state[0] + np.count_nonzero(tile.terms, 1),),
    )
)

declare(
    Reduction(
        name="Any",
        doc="1 if some term is not 0, else 0; 0 of nothing",
        state=(Field("m", "K(0)"),),
        step="$m = $t != K(0) ? K(1) : $m;",
        is_exact=True,
        merge="if ($m2 > 0) $m = 1;",
        nests=True,
        results=(Result("$m"),),
        reference=lambda terms, weights, K: (np.asarray(1.0 * terms.any(1)),),
        fold=lambda state, tile: (np.maximum(state[0], tile.terms.any(1)),),
        gradient=lambda pair: (None, None),
    )
)

declare(
    Reduction(
        name="All",
        doc="1 if no term is 0, else 0; 1 of nothing",
        state=(Field("m", "K(1)"),),
        step="$m = $t == K(0) ? K(0) : $m;",
        is_exact=True,
        merge="if ($m2 == 0) $m = 0;",
        nests=True,
        results=(Result("$m"),),
        reference=lambda terms, weights, K: (np.asarray(1.0 * terms.all(1)),),
        fold=lambda state, tile: (np.minimum(state[0], tile.terms.all(1)),),
        gradient=lambda pair: (None, None),
    )
)
