"""What a reduction declares.

Terms t_ij are folded over the reduced axis in two steps that every back end shares: short runs of columns go
into a *lane state* in registers, in the kernel's type; a lane state is then merged into a *wide state* of
doubles. The same merge combines column splits and, where both axes are reduced, rows, so blocks, workers and
hosts can be combined too.

Each component of the formula has a state of its own. A weighted reduction takes a second formula of W components;
its formula is a scalar, and its one state has a field per weight.

The texts name the state's fields by `$`. In `step`, `$t` is the term and `$c` its column number within the tile,
an integer; a field with an entry per selected term (`each="K"`) is an array there, and in `candidate` the last one
of the entries. `step_each` runs for each
weight `$w`, its field `$s` being one of the W; in a shifted sum `$e` is exp(term - `$h`), with `$h` the maximum so
far (0 where that is infinite). In `merge`, `$s` is the wide state of earlier columns and `$s2` that of later ones,
all doubles, fields with entries being arrays. In `finish`, `q` is the entry and `terms` the number of terms
reduced. `$K` and `$W` are numbers. `K(...)` makes a constant of the kernel's type, `KI(...)` one of its integers,
`INF` is infinity; `any(...)` says whether a condition holds in some lane, and `any_exceeds(a, b)` whether a <= b
fails in some lane.

Where there is no compiler, `fold` stands for `step`, `step_each` and `merge`: it takes a whole tile of terms into
the wide state by NumPy. `identity` and `finish` are read as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..expr import INDEX_SHIFT, Array, Axis, Expr, apply, index
from ..functions_numpy import SUMMED, sums_of_products

Each = Literal["", "K", "W"]
Kind = Literal["number", "column", "count"]
WeightRule = Literal["none", "optional", "needed"]


@dataclass(frozen=True)
class Field:
    """One number of the state, or one per selected term (`each="K"`) or weight (`each="W"`).

    Args:
        identity: its value before the first term.
        kind: a floating-point number, the column number of a term, or a count of terms.
    """

    name: str
    identity: str
    kind: Kind = "number"
    each: Each = ""

    @property
    def is_integer(self) -> bool:
        """Held in integer lanes."""
        return self.kind != "number"


@dataclass(frozen=True)
class Result:
    """One array that the reduction returns: per component of the formula one number, or one per entry.

    Args:
        finish: the number.
        kind: a floating-point number, the column number of a term, or a count of terms; the last two are
            returned as int64 and have no derivative.
        each: whether there is one number per selected term or per weight.
        head: one more number that comes before the entries.
        skip: the first so many weights have no entry.
    """

    finish: str
    kind: Kind = "number"
    each: Each = ""
    head: str | None = None
    skip: int = 0

    @property
    def is_index(self) -> bool:
        """Returned as int64."""
        return self.kind != "number"

    def width(self, dim: int, K: int, W: int) -> int:
        """Numbers per row, for a formula of dim `dim`."""
        entries = {"": dim, "K": K * dim, "W": W - self.skip}[self.each]
        return entries + (self.head is not None)

    def tail(self, dim: int, K: int, W: int) -> tuple[int, ...]:
        """Shape of one row of the array: one axis, or K and the dim if there are both."""
        return (K, dim) if self.each == "K" and dim > 1 else (self.width(dim, K, W),)


@dataclass(frozen=True, eq=False)
class Pair:
    """What a gradient rule sees: formulas at one pair (i, j).

    Args:
        term, weights: the reduced formula and the second one.
        saved: the saved results, a vector each; indices as floats, their high halves before their low halves,
            and where both axes are reduced the row's halves before the column's.
        cotangents: one vector per result with a derivative.
        over: the reduced axis, None for both.
        K: how many terms are selected.
    """

    term: Expr
    weights: Expr | None
    saved: tuple[Expr, ...]
    cotangents: tuple[Expr, ...]
    over: Axis | None
    K: int

    @property
    def second(self) -> Expr:
        """The weights of a reduction that needs them."""
        assert self.weights is not None
        return self.weights

    def selected(self, saved: Expr) -> Expr:
        """1 where this pair is the one that `saved` names, else 0; per component."""
        axes: tuple[Axis, ...] = (self.over,) if self.over else ("i", "j")
        halves: tuple[Literal["high", "low"], ...] = ("high", "low")
        width = saved.dim // (2 * len(axes))
        hits = [
            apply("Equal", apply("Extract", saved, (2 * place + low) * width, width), index(axis, half))
            for place, axis in enumerate(axes)
            for low, half in enumerate(halves)
        ]
        found = hits[0]
        for hit in hits[1:]:
            found = found * hit
        return found

    def number(self, saved: Expr) -> Expr:
        """The saved count as a floating-point number."""
        width = saved.dim // 2
        high, low = (apply("Extract", saved, place * width, width) for place in (0, 1))
        return high * 2.0**INDEX_SHIFT + low


@dataclass(frozen=True, eq=False)
class Tile:
    """What a fold takes in: the terms of some rows and columns.

    Args:
        terms: (rows, cols), in the kernel's type; the fold may write to them.
        columns: (cols,) int64: the numbers of the columns, in the order in which they are met.
        weights: (W, rows or 1, cols), of a weighted reduction.
    """

    terms: Array
    columns: Array
    weights: Array | None = None

    def weighted(self, factors: Array) -> Array:
        """(rows, W): the sums over the columns of the factors, (rows, cols), times each weight."""
        assert self.weights is not None
        if self.weights.shape[1] == 1:
            return sums_of_products(factors, self.weights[:, 0].T)
        parts = [slice(k, k + SUMMED) for k in range(0, factors.shape[1], SUMMED)]
        sums = [np.einsum("rc,wrc->rw", factors[:, part], self.weights[..., part]) for part in parts]
        return np.asarray(np.sum(sums, 0, dtype=np.float64))


State = tuple[Array, ...]
"""The wide state of one component: per field (rows,) or (rows, entries), float64, or int64 unless a number."""

Fold = Callable[[State, Tile], State]

Gradient = Callable[[Pair], tuple[Expr | None, Expr | None]]
"""Cotangents of the formula and of the weights at one pair; None where zero."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reduction:
    """What a reduction declares.

    Args:
        name: as users write it.
        doc: one line.
        scheme: `fold` runs `step` per term; `shifted sum` adds exp(t - running maximum) and is emitted in blocks
            that find the maximum first, so that each term costs one exp. Its state is `m` and one field more.
            `selection` takes a number K of terms to select: its state is sorted, best first, and the entries of
            a tile begin as the last one of the wide state, which only better terms replace. `step` runs for the
            terms of which `candidate` holds.
        state: the fields that `step` and `merge` update.
        by_chunks: whether a few terms are taken in by a state of their own, which `merge` then takes in: the
            errors of sums grow with the number of additions one after another.
        is_exact: whether `step` and `merge` round nothing: states need not be merged tile by tile.
        merge_pairs: `merge` for states of any pairs in any order, whose places are numbers of pairs: of equal
            terms that with the smallest is taken. Empty if `merge` takes any order.
        nests: whether the results of parts of the terms, reduced as terms themselves, are the result of all.
        cuda_step: the step in float32 on CUDA, where an instruction does more of it than elsewhere.
        reference: NumPy float64 meaning: terms (M, N, D), weights (M, N, W) as they
            are summed or None, K -> one array per result,
            (M, its width).
        fold: the state with a tile of later terms taken in; the state of fewer rows broadcasts.
        weights: whether it takes a second formula.
        prepare: the weights that are summed, made from those of the user, if any.
        gradient: see `Gradient`; None if no result depends smoothly on the terms.
        saves: which results the gradient needs.
        saving: the reduction to run instead when a gradient will be wanted, if this one does not return those.
            Its first results are those of this one.
        weighted: the reduction that a second formula makes of this one.
        ignoring: the reduction that passes over NaN instead of letting it win.
        compensated: the reduction that carries the rounding errors along.
    """

    name: str
    doc: str
    scheme: Literal["fold", "shifted sum", "selection"] = "fold"
    state: tuple[Field, ...]
    step: str = ""
    cuda_step: str = ""
    is_exact: bool = False
    nests: bool = False
    candidate: str = ""
    step_each: str = ""
    merge: str
    merge_pairs: str = ""
    by_chunks: bool = False
    results: tuple[Result, ...]
    reference: Callable[[Array, Array | None, int], tuple[Array, ...]]
    fold: Fold
    weights: WeightRule = "none"
    prepare: Callable[[Expr | None], Expr] | None = None
    gradient: Gradient | None = None
    saves: tuple[int, ...] = ()
    saving: Reduction | None = None
    weighted: Reduction | None = None
    ignoring: Reduction | None = None
    compensated: Reduction | None = None

    @property
    def takes_count(self) -> bool:
        """Whether it takes a number K."""
        return self.scheme == "selection"

    @property
    def is_weighted(self) -> bool:
        """Whether the state has a field per weight."""
        return any(field.each == "W" for field in self.state)


REDUCTIONS: dict[str, Reduction] = {}
"""Every reduction by name, filled by the modules of this package."""

SPELLINGS: dict[str, str] = {}
"""Other names of reductions."""


def declare(reduction: Reduction, *spellings: str) -> Reduction:
    """Add a reduction to the language, with other spellings of its name."""
    for name in (reduction.name, *spellings):
        if name in REDUCTIONS or name in SPELLINGS:
            raise ValueError(f"reduction {name} is declared twice")
    REDUCTIONS[reduction.name] = reduction
    SPELLINGS.update(dict.fromkeys(spellings, reduction.name))
    return reduction
