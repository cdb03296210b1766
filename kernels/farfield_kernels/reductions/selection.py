"""Extrema, their places, and the K best terms.

NaN wins over every number, as in NumPy, and the first of equal terms is taken. With `nan_policy="ignore"` NaN
never wins. A place of -1 stands for "no column was better than the identity": for one extremum, if there were
columns, then all were infinite (or passed over) and the first is taken; for K of them, there are not so many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..expr import Array, Expr
from ..operators.vector import contract
from .kinds import Field, Fold, Pair, Reduction, Result, State, Tile, declare


def _three(
    name: str,
    docs: tuple[str, str, str],
    values: dict[str, Any],
    places: dict[str, Any],
    results: tuple[Result, Result],
    select: Callable[..., tuple[Array, Array]],
    gradient: Callable[[Pair], tuple[Expr, None]],
) -> tuple[Reduction, Reduction, Reduction]:
    """Terms, their places, and both.

    Args:
        name: of the terms.
        docs: of the three.
        values, places: the fields of a `Reduction` that computes terms alone, and of one that computes places.
        results: terms and places.
        select: computes both, in NumPy.
        gradient: with respect to the terms, at their places.
    """
    both = Reduction(
        name=f"{name}_Arg{name}",
        doc=docs[2],
        **places,
        results=results,
        reference=select,
        gradient=gradient,
        saves=(1,),
    )
    alone = Reduction(
        name=name,
        doc=docs[0],
        **values,
        results=results[:1],
        reference=lambda *args: select(*args)[:1],
        saving=both,
    )
    number = Reduction(
        name=f"Arg{name}",
        doc=docs[1],
        **places,
        results=results[1:],
        reference=lambda *args: select(*args)[1:],
    )
    return alone, number, both


def _declare_variants(variants: Callable[[bool], tuple[Reduction, Reduction, Reduction]]) -> None:
    """Declare three reductions, each with its variant that passes over NaN."""
    *ones, both = [
        replace(found, ignoring=other) for found, other in zip(variants(False), variants(True), strict=True)
    ]
    for found in ones:
        declare(found)
    declare(both, both.name.replace("_", ""))


# ---- one -----------------------------------------------------------------------------------------------------


def _extremum_of(name: str, worst: float, *, ignore: bool) -> Callable[..., tuple[Array, Array]]:
    def select(terms: Array, weights: Array | None, K: int) -> tuple[Array, Array]:
        if ignore:
            terms = np.where(np.isnan(terms), worst, terms)
        if terms.shape[1] == 0:
            shape = (terms.shape[0], terms.shape[2])
            return np.full(shape, worst), np.full(shape, -1)
        return getattr(np, name.lower())(terms, axis=1), getattr(np, f"arg{name.lower()}")(terms, axis=1)

    return select


def _fold_extremum(name: str, *, ignore: bool) -> Fold:
    larger = np.fmax if ignore else np.maximum
    smaller = np.fmin if ignore else np.minimum
    best = larger if name == "Max" else smaller
    return lambda state, tile: (best(state[0], best.reduce(tile.terms, 1)),)


def _fold_place(name: str, worst: float, *, ignore: bool) -> Fold:
    beats: Any = np.greater if name == "Max" else np.less

    def fold(state: State, tile: Tile) -> State:
        m, k = state
        terms = np.where(np.isnan(tile.terms), worst, tile.terms) if ignore else tile.terms
        place = getattr(terms, f"arg{name.lower()}")(1)
        found = np.take_along_axis(terms, place[:, None], 1)[:, 0]
        is_better = beats(found, m) | (np.isnan(found) & ~np.isnan(m))
        return np.where(is_better, found, m), np.where(is_better, tile.columns[place], k)

    return fold


def _is_equal(a: str, b: str) -> str:
    return f"({a} == {b} || ({a} != {a} && {b} != {b}))"


def _at_selected(pair: Pair) -> tuple[Expr, None]:
    return pair.cotangents[0] * pair.selected(pair.saved[0]), None


def _declare_extremum(name: str, adjective: str, better: str, identity: str, worst: float) -> None:
    value, place = Field("m", identity), Field("k", "KI(-1)", kind="column")
    of_value = Result("$m")
    of_place = Result("$k < 0 && terms > 0 ? 0 : $k", kind="column")

    def variants(ignore: bool) -> tuple[Reduction, Reduction, Reduction]:
        select = _extremum_of(name, worst, ignore=ignore)
        or_nan, or_nan2, or_first_nan2 = (
            ("", "", "") if ignore else (" | ($t != $t)", " || $m2 != $m2", " || ($m2 != $m2 && $m == $m)")
        )
        # NaN too is not at least as bad; where it is there already, it stays.
        of_two = "larger_or_nan" if better == ">" else "smaller_or_nan"
        wins = f"($t {better} $m)" if ignore else f"!($t {'<=' if better == '>' else '>='} $m) & ($m == $m)"
        values: dict[str, Any] = {
            "state": (value,),
            "step": f"$m = ($t {better} $m){or_nan} ? $t : $m;",
            "cuda_step": f"$m = {'f' + name.lower() if ignore else of_two}($m, $t);",
            "is_exact": True,
            "nests": True,
            "merge": f"if ($m2 {better} $m{or_nan2}) $m = $m2;",
            "fold": _fold_extremum(name, ignore=ignore),
        }
        places: dict[str, Any] = {
            "state": (value, place),
            "step": f"const auto w = {wins}; $m = w ? $t : $m; $k = w ? KI($c) : $k;",
            "is_exact": True,
            "merge": f"if ($m2 {better} $m{or_first_nan2}) {{ $m = $m2; $k = $k2; }}",
            "merge_pairs": (
                f"if ($m2 {better} $m{or_first_nan2} || ({_is_equal('$m2', '$m')} && $k2 >= 0 && $k2 < $k)) "
                "{ $m = $m2; $k = $k2; }"
            ),
            "fold": _fold_place(name, worst, ignore=ignore),
        }
        docs = (
            f"{adjective} term; {worst} of nothing",
            f"column number of the {adjective} term, the first on ties; -1 of nothing",
            f"the {adjective} term and its column number",
        )
        return _three(name, docs, values, places, (of_value, of_place), select, _at_selected)

    _declare_variants(variants)


_declare_extremum("Max", "largest", ">", "K(-INF)", -np.inf)
_declare_extremum("Min", "smallest", "<", "K(INF)", np.inf)


# ---- the K best ----------------------------------------------------------------------------------------------
# The state is sorted, best first. A term is placed by shifting those it beats; most terms beat none.


def _best_of(worst: float, *, ignore: bool) -> Callable[..., tuple[Array, Array]]:
    is_min = worst > 0

    def select(terms: Array, weights: Array | None, K: int) -> tuple[Array, Array]:
        rows, cols, dim = terms.shape
        nan = np.isnan(terms)
        last = nan if is_min or ignore else ~nan
        order = np.lexsort((np.where(nan, 0.0, terms if is_min else -terms), last), axis=1)[:, :K]
        values = np.full((rows, K, dim), worst)
        places = np.full((rows, K, dim), -1)
        values[:, :cols] = np.take_along_axis(terms, order, 1)
        places[:, :cols] = order
        if ignore:
            passed = np.isnan(values)
            values[passed], places[passed] = worst, -1
        return values.reshape(rows, K * dim), places.reshape(rows, K * dim)

    return select


def _fold_best(worst: float, *, ignore: bool) -> Fold:
    """Only terms that may take a place are sorted: once there are K of them, few are left."""
    is_min = worst > 0

    def fold(state: State, tile: Tile) -> State:
        values, places = state
        cols = tile.terms.shape[1]
        first, count = 0, cols if (places[:, -1] >= 0).all() else 4 * values.shape[1]
        while first < cols:
            part = slice(first, first + count)
            values, places = _merged(values, places, tile.terms[:, part], tile.columns[part])
            first, count = first + count, 2 * count
        return values, places

    def _merged(values: Array, places: Array, terms: Array, columns: Array) -> tuple[Array, Array]:
        last = values[:, -1:].astype(terms.dtype)
        beats = ~(terms >= last if is_min else terms <= last) | (places[:, -1:] < 0)
        if ignore:
            beats &= terms == terms
        rows, cols = np.divmod(np.flatnonzero(beats), max(1, terms.shape[1]))
        counts = np.bincount(rows, minlength=len(terms))
        at = values.shape[1] + np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        wider = ((0, 0), (0, int(counts.max(initial=0))))
        all_values = np.pad(values, wider, constant_values=worst)
        all_places = np.pad(places, wider, constant_values=-1)
        all_values[rows, at], all_places[rows, at] = terms[rows, cols], columns[cols]
        nan = np.isnan(all_values)
        numbers = np.where(nan, 0.0, all_values if is_min else -all_values)
        order = np.lexsort((numbers, nan if is_min else ~nan, all_places < 0), axis=1)[:, : values.shape[1]]
        return np.take_along_axis(all_values, order, 1), np.take_along_axis(all_places, order, 1)

    return fold


def _at_best(pair: Pair) -> tuple[Expr, None]:
    """Each of the K cotangents of a component goes where its term was."""
    dim, hits = pair.term.dim, pair.selected(pair.saved[0])
    return contract(pair.cotangents[0], hits, (0, 1), (0, 1), (1,), (pair.K, dim)), None


def _beats(term: str, value: str, place: str, *, better: str, ignore: bool) -> str:
    """A term takes an empty place, and one that is worse; of NaN, the first."""
    if ignore:
        return f"({term} {better} {value}) | (({place} < 0) & ({term} == {term}))"
    worse, other = (value, term) if better == "<" else (term, value)
    return f"({term} {better} {value}) | ({place} < 0) | (({worse} != {worse}) & ({other} == {other}))"


def _insert(beats: str) -> str:
    """Shift the entries that the term beats, and take the place of the first."""
    return (
        "for (int q = 0; q < $K; q++) { const V y = $v[q]; const I before = $k[q]; "
        f"const auto w = {beats}; $v[q] = w ? x : y; $k[q] = w ? place : before; "
        "x = w ? y : x; place = w ? before : place; }"
    )


def _step_best(beats_last: str, beats: str, *, is_min: bool) -> str:
    return (
        "const V t = $t; V x = t; I place = KI($c); "
        "if (any(($k[$K - 1] < 0) | (t != t) | ($v[$K - 1] != $v[$K - 1]))) "
        f"{{ if (any({beats_last})) "
        f"{_insert(beats)} }} "
        f"else {_insert('!(y <= t)' if is_min else 't > y')}"
    )


def _merge_best(beats_last: str, beats: str) -> str:
    return (
        "for (int u = 0; u < $K; u++) { const double t = $v2[u]; double x = t, place = $k2[u]; "
        f"if (place < 0 || !({beats_last})) break; "
        "for (int q = 0; q < $K; q++) { const double y = $v[q], before = $k[q]; "
        f"if ({beats}) "
        "{ $v[q] = x; $k[q] = place; x = y; place = before; } } }"
    )


def _merge_pairs_best(beats_last: str, beats: str) -> str:
    """Terms of one list stay in its order: each has its place behind the one before."""
    return (
        "for (int u = 0, next = 0; u < $K && next < $K; u++) "
        "{ const double t = $v2[u]; double x = t, place = $k2[u]; "
        f"if (place < 0 || !({beats_last} || "
        f"({_is_equal('t', '$v[$K - 1]')} && place < $k[$K - 1]))) break; "
        "int at = $K; for (int q = 0; q < $K; q++) { const double y = $v[q], before = $k[q]; "
        f"if (q >= next && (at < q || {beats} || ({_is_equal('t', 'y')} && $k2[u] < before))) "
        "{ at = at < q ? at : q; $v[q] = x; $k[q] = place; x = y; place = before; } } next = at + 1; }"
    )


def _declare_best(name: str, adjective: str, better: str, identity: str, worst: float) -> None:
    is_min = worst > 0
    state = (Field("v", identity, each="K"), Field("k", "KI(-1)", kind="column", each="K"))
    of_values = Result("$v[q]", each="K")
    of_places = Result("$k[q]", kind="column", each="K")

    def variants(ignore: bool) -> tuple[Reduction, Reduction, Reduction]:
        select = _best_of(worst, ignore=ignore)
        beats_last = _beats("t", "$v[$K - 1]", "$k[$K - 1]", better=better, ignore=ignore)
        beats = _beats("t", "y", "before", better=better, ignore=ignore)
        text: dict[str, Any] = {
            "state": state,
            "scheme": "selection",
            "is_exact": True,
            "candidate": f"any($k < 0) | any_exceeds({'$v, $t' if is_min else '$t, $v'})",
            "step": _step_best(beats_last, beats, is_min=is_min),
            "merge": _merge_best(beats_last, beats),
            "merge_pairs": _merge_pairs_best(beats_last, beats),
            "fold": _fold_best(worst, ignore=ignore),
        }
        docs = (
            f"the K {adjective} terms, in order; {worst} where there are fewer",
            f"column numbers of the K {adjective} terms, the first on ties; -1 where there are fewer",
            f"the K {adjective} terms and their column numbers",
        )
        return _three(name, docs, text, text, (of_values, of_places), select, _at_best)

    _declare_variants(variants)


_declare_best("KMin", "smallest", "<", "K(INF)", np.inf)
_declare_best("KMax", "largest", ">", "K(-INF)", -np.inf)
