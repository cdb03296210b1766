"""One declaration per reduction: state, identity, step, merge, finish, gradient, reference.

Terms t_ij are folded over the reduced axis in two steps that every back end shares: short runs of columns go
into a *lane state* in registers, in the kernel's type; a lane state is then merged into a *wide state* of
doubles. The same merge combines column splits, so blocks, workers and hosts can be combined too.

In `step`, `$t` is the term, `$c` its column number within the tile (an integer), and `$name` a state field.
In `merge`, `$name` is the wide state of earlier columns and `$name2` that of later ones; both are doubles.
In `finish`, `cols` is the number of columns reduced. `K(...)` makes a constant of the kernel's type, and `INF`
is infinity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import RuleError
from ..expr import Array, Axis, Expr, apply, index


@dataclass(frozen=True)
class Field:
    """One number of the state, per component of the formula."""

    name: str
    identity: str
    is_index: bool = False


@dataclass(frozen=True)
class Result:
    """One array that the reduction returns."""

    finish: str
    is_index: bool = False


Gradient = Callable[[Expr, Expr | None, Expr, Axis], Expr]
"""(formula, saved result, cotangent, reduced axis) -> cotangent of the formula at one pair (i, j)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reduction:
    """What a reduction declares.

    Args:
        name: as users write it.
        doc: one line.
        scheme: `fold` runs `step` per term; `shifted sum` adds exp(t - running maximum) and is emitted in blocks
            that find the maximum first, so that each term costs one exp.
        state: the fields that `step` and `merge` update.
        reference: NumPy float64 meaning, terms (M, N, D) -> one (M, D) array per result.
        gradient: see `Gradient`; None if no result depends smoothly on the terms.
        saves: which result the gradient needs, if any.
        saving: the reduction to run instead when a gradient will be wanted, if this one does not return that.
    """

    name: str
    doc: str
    scheme: Literal["fold", "shifted sum"]
    state: tuple[Field, ...]
    step: str
    merge: str
    results: tuple[Result, ...]
    reference: Callable[[Array], tuple[Array, ...]]
    gradient: Gradient | None = None
    saves: int | None = None
    saving: str | None = None


REDUCTIONS: dict[str, Reduction] = {}


def declare(reduction: Reduction) -> None:
    """Add a reduction to the language."""
    if reduction.name in REDUCTIONS:
        raise ValueError(f"reduction {reduction.name} is declared twice")
    REDUCTIONS[reduction.name] = reduction


# ---- sums ----------------------------------------------------------------------------------------------------

declare(
    Reduction(
        name="Sum",
        doc="sum of the terms; 0 of nothing",
        scheme="fold",
        state=(Field("s", "K(0)"),),
        step="$s = $s + $t;",
        merge="$s += $s2;",
        results=(Result("$s"),),
        reference=lambda terms: (terms.sum(1),),
        gradient=lambda f, saved, e, over: e,
    )
)


def _logsumexp_gradient(f: Expr, saved: Expr | None, e: Expr, over: Axis) -> Expr:
    assert saved is not None
    return e * apply("Exp", f - saved)


declare(
    Reduction(
        name="LogSumExp",
        doc="log of the sum of exp of the terms, computed without overflow; -inf of nothing",
        scheme="shifted sum",
        state=(Field("m", "K(-INF)"), Field("s", "K(0)")),
        step="$s = $s + exp($t - $h);",
        # $h is the maximum so far, or 0 where that is infinite, as inf - inf would be NaN.
        merge="const double h = finite_or_zero($m > $m2 ? $m : $m2); "
        "$s = $s * exp($m - h) + $s2 * exp($m2 - h); $m = $m > $m2 ? $m : $m2;",
        results=(Result("finite_or_zero($m) + log($s)"),),
        reference=lambda terms: (np.logaddexp.reduce(terms, axis=1),),
        gradient=_logsumexp_gradient,
        saves=0,
    )
)


# ---- selection -----------------------------------------------------------------------------------------------
# NaN wins over every number, as in NumPy, and the first of equal terms is taken. An index of -1 stands for "no
# column was better than the identity": if there were columns, then all were infinite and the first is taken.


def _selected(f: Expr, saved: Expr | None, e: Expr, over: Axis) -> Expr:
    """The cotangent at the selected column, 0 elsewhere; `saved` holds both halves of its number."""
    assert saved is not None
    at_high = apply("Equal", apply("Extract", saved, 0, f.dim), index(over, "high"))
    at_low = apply("Equal", apply("Extract", saved, f.dim, f.dim), index(over, "low"))
    return e * (at_high * at_low)


def _declare_extremum(name: str, adjective: str, better: str, identity: str, choose: str) -> None:
    worst = identity.replace("K(", "").replace(")", "")

    def select(terms: Array) -> tuple[Array, Array]:
        if terms.shape[1] == 0:
            shape = (terms.shape[0], terms.shape[2])
            return np.full(shape, float(worst.replace("INF", "inf"))), np.full(shape, -1)
        return getattr(np, name.lower())(terms, axis=1), getattr(np, f"arg{name.lower()}")(terms, axis=1)

    value = Field("m", identity)
    place = Field("k", "KI(-1)", is_index=True)
    value_step = f"$m = ($t {better} $m) | ($t != $t) ? $t : $m;"
    place_step = (
        f"const auto w = ($t {better} $m) | (($t != $t) & ($m == $m)); $m = w ? $t : $m; $k = w ? $c : $k;"
    )
    value_merge = f"if ($m2 {better} $m || $m2 != $m2) $m = $m2;"
    place_merge = f"if ($m2 {better} $m || ($m2 != $m2 && $m == $m)) {{ $m = $m2; $k = $k2; }}"
    value_result = Result("$m")
    place_result = Result("$k < 0 && cols > 0 ? 0 : $k", is_index=True)
    pair = f"{name}_Arg{name}"

    declare(
        Reduction(
            name=name,
            doc=f"{adjective} term; {choose} of nothing",
            scheme="fold",
            state=(value,),
            step=value_step,
            merge=value_merge,
            results=(value_result,),
            reference=lambda terms: select(terms)[:1],
            saving=pair,
        )
    )
    declare(
        Reduction(
            name=f"Arg{name}",
            doc=f"column number of the {adjective} term, the first on ties; -1 of nothing",
            scheme="fold",
            state=(value, place),
            step=place_step,
            merge=place_merge,
            results=(place_result,),
            reference=lambda terms: select(terms)[1:],
        )
    )
    declare(
        Reduction(
            name=pair,
            doc=f"the {adjective} term and its column number",
            scheme="fold",
            state=(value, place),
            step=place_step,
            merge=place_merge,
            results=(value_result, place_result),
            reference=select,
            gradient=_selected,
            saves=1,
        )
    )


_declare_extremum("Max", "largest", ">", "K(-INF)", "-inf")
_declare_extremum("Min", "smallest", "<", "K(INF)", "inf")


def find(name: str) -> Reduction:
    """The reduction of that name, or of its `_Reduction` spelling.

    Raises:
        RuleError: no such reduction.
    """
    reduction = REDUCTIONS.get(name.removesuffix("_Reduction"))
    if reduction is None:
        raise RuleError(f"the reductions are {', '.join(sorted(REDUCTIONS))}")
    return reduction
