"""Sums of exponentials, plain and weighted, computed without overflow: log-sum-exp, softmax, and their parts.

The running maximum is carried along and exponentials are taken relative to it ("online softmax",
https://arxiv.org/abs/1805.02867). In the texts `h` is that maximum, or 0 where it is infinite, as inf - inf would
be NaN.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..expr import Array, Expr, apply, constant
from ..functions_numpy import finite_or_zero
from .kinds import Field, Pair, Reduction, Result, State, Tile, declare

MAXIMUM = Field("m", "K(-INF)")
_SHIFTS = (
    "const double h = finite_or_zero($m > $m2 ? $m : $m2), a = exp($m - h), b = exp($m2 - h); "
    "$m = $m > $m2 ? $m : $m2; "
)


def _fold(state: State, tile: Tile) -> State:
    """Sums relative to the larger maximum, weighted if there are weights, and its place if that is a field."""
    m, s, *places = state
    best = np.fmax.reduce(tile.terms, 1)
    largest = np.fmax(m, best)
    h = finite_or_zero(largest)
    if places:
        first = (tile.terms == best[:, None]).argmax(1)
        places = [np.where(best > m, tile.columns[first], places[0])]
    powers = np.subtract(tile.terms, h[:, None].astype(tile.terms.dtype), out=tile.terms)
    np.exp(powers, out=powers)
    scale = np.exp(m - h)
    if tile.weights is not None:
        return largest, s * scale[:, None] + tile.weighted(powers), *places
    return largest, s * scale + powers.sum(1), *places


PLAIN: dict[str, Any] = {
    "scheme": "shifted sum",
    "state": (MAXIMUM, Field("s", "K(0)")),
    "step_each": "$s = $s + $e;",
    "merge": _SHIFTS + "$s = $s * a + $s2 * b;",
    "fold": _fold,
}
WEIGHTED: dict[str, Any] = {
    "scheme": "shifted sum",
    "state": (MAXIMUM, Field("s", "K(0)", each="W")),
    "step_each": "$s = $s + $e * $w;",
    "merge": _SHIFTS + "for (int q = 0; q < $W; q++) $s[q] = $s[q] * a + $s2[q] * b;",
    "fold": _fold,
    "weights": "needed",
}


def _parts(terms: Array, weights: Array | None) -> tuple[Array, Array]:
    """Maximum (M, D), NaN passed over, and sum of exp(t - maximum), weighted if there are weights."""
    largest = np.fmax.reduce(terms, 1, initial=-np.inf)
    powers = np.exp(terms - finite_or_zero(largest)[:, None, :])
    return largest, (powers if weights is None else powers * weights).sum(1)


def _logsumexp(terms: Array, weights: Array | None) -> Array:
    largest, total = _parts(terms, weights)
    return finite_or_zero(largest) + np.log(total)


# ---- log-sum-exp ---------------------------------------------------------------------------------------------


def _weighted_log_gradient(pair: Pair) -> tuple[Expr, Expr]:
    """Of log sum_j exp(f_j) g_j. Where a weight is 0 its power may be infinite, and counts for nothing."""
    power = apply("Exp", pair.term - pair.saved[0])
    share = apply("Where", apply("Equal", pair.second, 0.0), 0.0, power * pair.second)
    e = pair.cotangents[0]
    return apply("Sum", e * share), e * power


WEIGHTED_LOG = Reduction(
    name="LogSumExpWeight",
    doc="log of the sum of exp(formula) times each weight, computed without overflow",
    **WEIGHTED,
    results=(Result("finite_or_zero($m) + log($s[q])", each="W"),),
    reference=lambda terms, weights, K: (_logsumexp(terms, weights),),
    gradient=_weighted_log_gradient,
    saves=(0,),
)
declare(WEIGHTED_LOG)

declare(
    Reduction(
        name="LogSumExp",
        doc="log of the sum of exp of the terms, computed without overflow; -inf of nothing",
        **PLAIN,
        nests=True,
        results=(Result("finite_or_zero($m) + log($s)"),),
        reference=lambda terms, weights, K: (_logsumexp(terms, None),),
        gradient=lambda pair: (pair.cotangents[0] * apply("Exp", pair.term - pair.saved[0]), None),
        saves=(0,),
        weights="optional",
        weighted=WEIGHTED_LOG,
    )
)


# ---- softmax -------------------------------------------------------------------------------------------------


def _with_one(weights: Expr | None) -> Expr:
    assert weights is not None
    return apply("Concat", constant(1.0), weights)


def _softmax(terms: Array, weights: Array | None, K: int) -> tuple[Array, Array]:
    assert weights is not None
    sums = _parts(terms, weights)[1]
    return sums[:, 1:] / sums[:, :1], _logsumexp(terms, None)


def _softmax_gradient(pair: Pair) -> tuple[Expr, Expr]:
    mean, log = pair.saved
    of_mean, of_log = pair.cotangents
    share = apply("Exp", pair.term - log)
    return share * (apply("Scalprod", of_mean, pair.second - mean) + of_log), of_mean * share


SOFTMAX_STATE = WEIGHTED | {
    "merge": _SHIFTS + "for (int q = 0; q < $W; q++) $s[q] = $s[q] * a + $s2[q] * b;",
    "prepare": _with_one,
}
SOFTMAX_RESULT = Result("$s[q + 1] / $s[0]", each="W", skip=1)

SOFTMAX_AND_LOG = Reduction(
    name="SumSoftMaxWeight",
    doc="softmax-weighted mean of the weights, and log-sum-exp of the terms",
    **SOFTMAX_STATE,
    results=(SOFTMAX_RESULT, Result("finite_or_zero($m) + log($s[0])")),
    reference=_softmax,
    gradient=_softmax_gradient,
    saves=(0, 1),
)

declare(
    Reduction(
        name="SumSoftMaxWeight",
        doc="sum of exp(formula) times each weight, divided by the sum of exp(formula); NaN of nothing",
        **SOFTMAX_STATE,
        results=(SOFTMAX_RESULT,),
        reference=lambda terms, weights, K: _softmax(terms, weights, K)[:1],
        saving=SOFTMAX_AND_LOG,
    ),
    "SoftMax",
)


# ---- maximum and shifted sum ---------------------------------------------------------------------------------


def _shifted(terms: Array, weights: Array | None) -> tuple[Array, Array]:
    largest, total = _parts(terms, weights)
    numbers = np.where(np.isnan(terms), -np.inf, terms)
    place = numbers.argmax(1) if terms.shape[1] else np.full(largest.shape, -1)
    return np.concatenate([largest, total], -1), place


def _shifted_gradient(pair: Pair) -> tuple[Expr, Expr | None]:
    """The maximum moves with the selected term, and takes the sum along."""
    both, place = pair.saved
    e = pair.cotangents[0]
    maximum, total = apply("Extract", both, 0, 1), apply("Extract", both, 1, both.dim - 1)
    of_maximum, of_total = apply("Extract", e, 0, 1), apply("Extract", e, 1, e.dim - 1)
    power = apply("Exp", pair.term - maximum)
    at_maximum = pair.selected(place) * (of_maximum - apply("Scalprod", of_total, total))
    if pair.weights is None:
        return at_maximum + of_total * power, None
    return at_maximum + apply("Scalprod", of_total, pair.weights) * power, of_total * power


_PLACE_STEP = (
    "const auto w = $t > $m; const V n = w ? $t : $m; const V h = finite_or_zero(n); "
    "const V a = exp($m - h); const V e = exp($t - h); $m = n; $k = w ? KI($c) : $k; "
)
_PLACE_MERGE = "if ($m2 > $m) $k = $k2; "
_PLACE_MERGE_PAIRS = "if ($m2 > $m || ($m2 == $m && $k2 >= 0 && $k2 < $k)) $k = $k2; "
_PLACE = Field("k", "KI(-1)", kind="column")
_PLACE_RESULT = Result("$k < 0 && terms > 0 ? 0 : $k", kind="column")


def _declare_shifted(name: str, doc: str, base: dict[str, Any], step_each: str, result: Result) -> Reduction:
    # With the place of the maximum: online, as the blocks of a shifted sum do not say where it is.
    with_place = base | {
        "scheme": "fold",
        "state": (*base["state"], _PLACE),
        "step": _PLACE_STEP,
        "step_each": step_each,
        "merge": _PLACE_MERGE + base["merge"],
        "merge_pairs": _PLACE_MERGE_PAIRS + base["merge"],
    }
    saving = Reduction(
        name=name,
        doc=f"{doc}, and the place of the maximum",
        **with_place,
        results=(result, _PLACE_RESULT),
        reference=lambda terms, weights, K: _shifted(terms, weights),
        gradient=_shifted_gradient,
        saves=(0, 1),
    )
    return Reduction(
        name=name,
        doc=doc,
        **base,
        results=(result,),
        reference=lambda terms, weights, K: _shifted(terms, weights)[:1],
        saving=saving,
    )


WEIGHTED_PARTS = declare(
    _declare_shifted(
        "Max_SumShiftExpWeight",
        "the maximum m of the formula, and the sum of exp(formula - m) times each weight",
        WEIGHTED,
        "$s = $s * a + e * $w;",
        Result("$s[q]", each="W", head="$m"),
    )
)

declare(
    replace(
        _declare_shifted(
            "Max_SumShiftExp",
            "the maximum m of the terms, and the sum of exp(term - m)",
            WEIGHTED | {"prepare": lambda weights: constant(1.0), "weights": "optional"},
            "$s = $s * a + e * $w;",
            Result("$s[q]", each="W", head="$m"),
        ),
        weighted=WEIGHTED_PARTS,
    )
)
