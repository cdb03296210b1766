"""Expr -> Separation: a sum over columns as one pass over the columns and one over the rows.

If F(x_i, y_j) is a short sum of U(x_i) V(y_j) exp(A(x_i) + B(y_j)), then

    c_i = sum_j F(x_i, y_j) = sum U(x_i) exp(A(x_i) + m) S,   S = sum_j V(y_j) exp(B(y_j) - m),   m = max_j B(y_j)

costs M + N evaluations instead of M * N. `separate` decides by structure and writes the passes as formulas; they
run in float64 whatever the type of the data; `acceptable` looks at what they gave and says whether it may be used.

How to run it, for a Sum term with formula F that keeps the rows (axis `row_axis`, or none with `row_axis` "i"):

1. `plan = separate(F, row_axis, number of arguments, dtype of the data)`, F rewritten. None: run the plain kernel.
   `plan.saves(M, N)` false, or fewer than `LEAST_PAIRS` pairs: likewise, unless it is asked for.
2. Convert all arguments to float64. For each pass of `plan.columns` reduce over all columns, for one row:
   - `exponent` None: the Sum of `weights`;
   - else Max_SumShiftExpWeight of `exponent` (dim 1) with `weights`: the row [m, s_1, ..., s_W], m the maximum of
     the exponent, s_q = sum_j exp(exponent - m) w_q, where m stands for 0 if it is infinite. Of no columns, and of
     -inf only, it is [-inf, 0, ..., 0]. NaN in the exponent or a weight of any column makes that sum NaN.
   Neither formula reads the row axis. The result is one array of `dim` float64.
3. Append these arrays to the arguments, in order: they are the parameters (axis p) at the positions from the
   number of arguments on. Evaluate `plan.results` (c, of dim D) and `plan.refused` (of dim 1) at every row; that
   is no reduction, or a Sum over one column.
4. `acceptable(plan, column results, sum of plan.refused over the rows)`: c is the result, converted to the data's
   type (for a parameter's gradient, c summed over the rows). Otherwise run the plain kernel; M + N evaluations
   more is all that was lost.

Why this is safe. Let u = 2^-53, and K the factor of the rounding error of a sum of N terms, K u sum|terms|.

- What reads one axis alone is computed by the operations it was written with, so its rounding is the plain
  kernel's (float64 data) or far smaller (float32 data). Literals are rounded to the data's type first.
- One product per component: every sum is over the plain kernel's terms, up to a factor that all of them share, so
  the error is at most (K + e) u sum_j |F_ij|. e is what the rounding of exponents costs more than that of A + B in
  the plain kernel: A + m and B - m are rounded apart, |A + m| + |B - m| <= |A + B| + 2 |B - m|, by half an ulp;
  and A and B are themselves rounded where a sum had to be regrouped. So e = mean(m - B) + the sizes of what was
  regrouped; the mean, weighted by |V| exp(B), comes with the column pass.
- Several products cancel each other where the plain kernel rounds F_ij once: the error is at most
  (K + e) u bound_i, bound_i = sum |U| |V| exp(A + B) over products and columns. All that is known to be below
  sum_j |F_ij| is |c_i|, so every row must have |c_i| >= tau bound_i.
- The bound is made so that this is the one condition in both cases: it is |c_i| for a single product, and is
  raised by the factor 1 + e / 16. float64: tau = 1/8, so the error is at most 8 times what the plain kernel is
  known to keep within, and e at most 112. float32: tau = 2^-18, so the error is at most K 2^-35 |c_i|, which for
  K = 1024 (runs of 256 columns, then a sum of the runs, up to N = 2e5; in practice roundings average out and K is
  far smaller) is half an ulp of a float32. The plain kernel rounds the result itself by as much.
- Overflow: m is the largest exponent, so no exp of the column pass exceeds 1; exp(A + m) is applied in two halves,
  to U and to S. What overflows anyway is infinite or NaN in a column result, in c or in the bound, and is refused.
- Underflow: exp(B - m) loses terms below 2^-1022, all together at most 2^-1022 sum_j |V_j|: the sum of |V| is
  computed too, and must be below 2^960 times that of |V| exp(B - m). Several factors of one side whose product
  falls below 2^-960, none 0, mark their bound with NaN. Where U or S is below 2^-960, with its half of the exp or
  without, so that denormal terms may have lost digits, the bound is raised.
- Weights that are 0 where the exponent is largest must not set m: there the exponent is -inf. If the exp overflows
  the plain kernel has 0 * inf there, which is NaN, and the passes have the 0 that finite data stand for.
- Every factor enters c or a column result, B by the mean of m - B even where its weight is 0, so no NaN of the
  data goes unseen.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np

from .errors import RuleError
from .expr import Array, Axis, Const, Expr, Var, apply, constant, transform, variable, with_operands
from .monomials import SMALLEST, Form, Inseparable, Monomial, Part, multiply_out
from .rewrite import rewrite

MAX_RANK = 16  # weights V of all column passes together
EXPONENT_ULPS = 16.0  # an exponent's rounding may cost so many ulps before it counts against tau
TAU = {"float32": 2.0**-18, "float64": 2.0**-3}
REACH = 2.0**960
GAIN = 8  # times fewer evaluations make up for more passes and for float64
LEAST_PAIRS = 2**26  # the plain kernel takes some 15 ms for them; below, compiling the passes is not worth while


@dataclass(frozen=True, eq=False)
class ColumnPass:
    """One reduction over the columns: of `weights`, times exp of `exponent` if there is one."""

    exponent: Expr | None
    weights: Expr

    @property
    def dim(self) -> int:
        """Components of its result: the maximum of the exponent, if there is one, then one sum per weight."""
        return self.weights.dim + (self.exponent is not None)


Place = tuple[int, int]
"""A component of a column result: which pass, which component."""


@dataclass(frozen=True, eq=False)
class Separation:
    """The passes that replace a sum over columns.

    Args:
        columns: the column passes.
        results: the row formula c, of dim D.
        bounds: what |c| is held against, of dim D.
        rank: number of different products.
        reach: pairs of places: the sum of |V|, and that of |V| exp(B - m), which must not be far smaller.
        dtype: element type of the data.
    """

    columns: tuple[ColumnPass, ...]
    results: Expr
    bounds: Expr
    rank: int
    reach: tuple[tuple[Place, Place], ...]
    dtype: str

    @property
    def refused(self) -> Expr:
        """How many components of a row may not be used, of dim 1."""
        return refused(self.results, self.bounds, self.dtype)

    def saves(self, rows: int, columns: int) -> bool:
        """Whether the passes cost less than the pairs, for so many rows and columns."""
        return GAIN * (self.rank + 1) * (rows + columns) < rows * columns


def separate(formula: Expr, row_axis: Axis, arguments: int, dtype: str) -> Separation | None:
    """Write the sum over columns of a formula as passes over the columns and over the rows.

    Args:
        formula: of dim D, rewritten.
        row_axis: `i` or `j`, the axis of the rows; the sum is over the other one.
        arguments: number of arguments of the call; results of column passes are numbered from there on.
        dtype: element type of the data, float32 or float64.

    Returns:
        The passes, or None if the formula is no short sum of products.
    """
    try:
        rounded = formula if dtype == "float64" else transform(formula, _with_float32_literals)
        return _write(multiply_out(rounded, row_axis), arguments, dtype)
    except (Inseparable, RuleError):
        return None


def refused(c: Expr, bound: Expr, dtype: str) -> Expr:
    """How many components of c are not finite, or less than tau times their bound; of dim 1."""
    size = apply("Abs", c)
    finite = apply("LessOrEqual", size, float(np.finfo(np.float64).max))
    smallest = float(np.finfo(dtype).tiny)  # what the data's type rounds to 0 needs no digits
    large = apply(
        "LessOrEqual", TAU[dtype] * bound, apply("Where", apply("LessThan", size, smallest), smallest, size)
    )
    return rewrite(apply("Sum", 1.0 - finite * large))


def acceptable(separation: Separation, columns: Sequence[Array], refused: float) -> bool:
    """Whether the passes gave results that are at least as good as the plain kernel's.

    Args:
        separation: the passes.
        columns: result of each column pass, float64, of `dim` elements.
        refused: the sum of `separation.refused` over the rows.
    """
    sums = [np.ravel(result) for result in columns]
    for column_pass, result in zip(separation.columns, sums, strict=True):
        nothing = column_pass.exponent is not None and result[0] == -np.inf and not result[1:].any()
        if not nothing and not np.isfinite(result).all():
            return False
    for (total, at), (near, place) in separation.reach:
        if not sums[total][at] / REACH <= sums[near][place]:
            return False
    return refused == 0


def _with_float32_literals(node: Expr, operands: tuple[Expr, ...]) -> Expr:
    if isinstance(node, Const):
        with np.errstate(over="ignore"):
            return constant(float(np.float32(node.value)))
    return node if node.op is None else with_operands(node, operands)


# ---- which products: as few columns as a greedy cover finds --------------------------------------------------


@dataclass(frozen=True)
class _Product:
    """The product of a sum of row parts and a sum of column parts, in one component of the result."""

    component: int
    rows: tuple[Part, ...]
    columns: tuple[Part, ...]


def _cover(members: Iterable[tuple[int, Monomial]]) -> list[_Product]:
    """Products that add up to the monomials: those that share their columns, or else their rows, are one.

    Monomials are edges between what they read of rows and of columns; the vertex with most edges goes first.
    """
    edges = list(members)
    products = []
    while edges:
        degrees: dict[tuple[str, tuple[Expr, ...]], int] = {}
        for _, monomial in edges:
            for vertex in (("columns", monomial.columns), ("rows", monomial.rows)):
                degrees[vertex] = degrees.get(vertex, 0) + 1
        side, factors = max(degrees, key=lambda vertex: (degrees[vertex], vertex[0] == "columns"))
        covered = [edge for edge in edges if getattr(edge[1], side) == factors]
        edges = [edge for edge in edges if getattr(edge[1], side) != factors]
        for component in dict.fromkeys(component for component, _ in covered):
            mine = [monomial for k, monomial in covered if k == component]
            if side == "columns":
                rows = tuple((monomial.coefficient, monomial.rows) for monomial in mine)
                products.append(_Product(component, rows, ((1.0, factors),)))
            else:
                columns = tuple((monomial.coefficient, monomial.columns) for monomial in mine)
                products.append(_Product(component, ((1.0, factors),), columns))
    return products


# ---- sums of parts as formulas -------------------------------------------------------------------------------


def _multiplied(factors: Iterable[Expr]) -> Expr:
    one: Expr = constant(1.0)
    return reduce(Expr.__mul__, factors, one)


def _added(terms: Iterable[Expr]) -> Expr:
    nothing: Expr = constant(-0.0)
    return reduce(Expr.__add__, terms, nothing)


def _value(parts: Sequence[Part]) -> Expr:
    return rewrite(_added(constant(c) * _multiplied(factors) for c, factors in parts))


def _size(parts: Sequence[Part]) -> Expr:
    """Sum of the absolute values of the parts; NaN if a product of several factors is lost to underflow."""
    return rewrite(_added(constant(abs(c)) * _guarded(factors) for c, factors in parts))


def _guarded(factors: tuple[Expr, ...]) -> Expr:
    product = _multiplied(apply("Abs", factor) for factor in factors)
    if len(factors) < 2:
        return product
    partial = itertools.accumulate((apply("Abs", factor) for factor in factors), Expr.__mul__)
    small = reduce(lambda a, b: apply("Or", a, b), [apply("LessThan", part, SMALLEST) for part in partial])
    return apply("Where", reduce(lambda a, b: apply("And", a, b), [*factors, small]), _NAN, product)


def _regrouped(parts: Sequence[Part]) -> Expr:
    """How many roundings of which size a sum in an exponent has beyond those of the formula."""
    if not parts or (len(parts) == 1 and abs(parts[0][0]) == 1 and len(parts[0][1]) < 2):
        return constant(0.0)
    roundings = len(parts) + max(len(factors) for _, factors in parts)
    sizes = (abs(c) * _multiplied(apply("Abs", factor) for factor in factors) for c, factors in parts)
    return rewrite(float(roundings) * _added(sizes))


_NAN = apply("Log", constant(-1.0))
_NOTHING = apply("Log", constant(0.0))  # -inf


# ---- the passes ----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Columns:
    """The weights of one column pass as they are asked for; equal ones are one column."""

    number: int
    argument: int
    exponent: Expr | None
    weights: dict[Expr, int] = field(default_factory=dict)

    def place(self, weight: Expr) -> Place:
        at = self.weights.setdefault(weight, len(self.weights))
        return self.number, at + (self.exponent is not None)

    def written(self) -> ColumnPass:
        return ColumnPass(self.exponent, _joined(list(self.weights)))

    @property
    def dim(self) -> int:
        return len(self.weights) + (self.exponent is not None)


def _joined(scalars: list[Expr]) -> Expr:
    return reduce(lambda a, b: apply("Concat", a, b), scalars)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Places of what the row pass reads of one product: S, that of absolute values, that of exponents."""

    sum: Place
    size: Place
    shifted: Place | None


Exponents = tuple[tuple[Part, ...], tuple[Part, ...]]


def _write(forms: list[Form], arguments: int, dtype: str) -> Separation:
    groups: dict[Exponents, list[tuple[int, Monomial]]] = {}
    for component, form in enumerate(forms):
        for monomial in form:
            exponents = (monomial.row_exponent, monomial.column_exponent)
            groups.setdefault(exponents, []).append((component, monomial))
    covers = {exponents: _cover(members) for exponents, members in groups.items()}
    distinct = {(exponents, p.columns) for exponents, products in covers.items() for p in products}
    if not 1 <= len(distinct) <= MAX_RANK:
        raise Inseparable

    exponents_of_passes = [exponents for exponents in covers if any(exponents)]
    passes = [
        _Columns(number, arguments + number, _exponent(exponents[1], covers[exponents]))
        for number, exponents in enumerate(exponents_of_passes)
    ]
    by_exponents = dict(zip(exponents_of_passes, passes, strict=True))
    plain = _Columns(len(passes), arguments + len(passes), None)
    reach = []
    read: list[tuple[_Product, Exponents, _Sums, _Columns]] = []
    for exponents, products in covers.items():
        columns = by_exponents.get(exponents, plain)
        for product in products:
            sums = _sums(product, exponents[1], columns)
            read.append((product, exponents, sums, columns))
            size = _size(product.columns)
            if any(exponents) and not isinstance(size, Const):
                reach.append((plain.place(size), sums.size))
    if plain.weights:
        passes.append(plain)
    results, bounds = _rows(read, passes, len(forms))
    written = tuple(columns.written() for columns in passes)
    return Separation(written, results, bounds, len(distinct), tuple(dict.fromkeys(reach)), dtype)


def _exponent(parts: tuple[Part, ...], products: list[_Product]) -> Expr:
    """B, but -inf where no weight counts."""
    B = _value(parts)
    weights = dict.fromkeys(_value(product.columns) for product in products)
    if any(isinstance(weight, Const) for weight in weights):
        return B
    counts = reduce(lambda a, b: apply("Or", a, b), weights)
    return rewrite(apply("Where", counts, B, _NOTHING))


def _sums(product: _Product, exponent: tuple[Part, ...], columns: _Columns) -> _Sums:
    value, size = _value(product.columns), _size(product.columns)
    if columns.exponent is None:
        return _Sums(columns.place(value), columns.place(size), None)
    shifted = rewrite(size * (_value(exponent) - _regrouped(exponent)))
    return _Sums(columns.place(value), columns.place(size), columns.place(shifted))


def _rows(
    read: list[tuple[_Product, Exponents, _Sums, _Columns]], passes: list[_Columns], components: int
) -> tuple[Expr, Expr]:
    """The formulas of the row pass: results and bounds."""
    arrays: list[Var] = [variable(columns.argument, columns.dim, "p") for columns in passes]

    def at(place: Place) -> Expr:
        return apply("Extract", arrays[place[0]], place[1], 1)

    results, bounds = [], []
    for component in range(components):
        mine = [entry for entry in read if entry[0].component == component]
        values: list[Expr] = []
        sizes: list[Expr] = []
        for product, (A, _), sums, columns in mine:
            U, U_size, S, S_size = _value(product.rows), _size(product.rows), at(sums.sum), at(sums.size)
            half: Expr = constant(1.0)
            raised: Expr = constant(1.0)
            if sums.shifted is not None:
                m = at((columns.number, 0))
                nothing = _value(A) - _value(A)  # 0 or NaN: without weights m is -inf
                half = apply("Exp", apply("Where", S_size, 0.5 * (_value(A) + m), nothing))
                distance = apply("Where", S_size, m - at(sums.shifted) / S_size, nothing)
                raised = 1 + (distance + _regrouped(A)) / EXPONENT_ULPS
            values.append((U * half) * (S * half))
            is_single = len(mine) == len(product.rows) == len(product.columns) == 1
            size = apply("Abs", values[0]) if is_single else (U_size * half) * (S_size * half)
            lost = _lost(U_size, half, S_size * half) + _lost(S_size, half, U_size * half)
            sizes.append(size * raised + lost)
        results.append(_added(values) if values else constant(0.0))
        bounds.append(_added(sizes) if sizes else constant(0.0))
    return rewrite(_joined(results)), rewrite(_joined(bounds))


def _lost(factor: Expr, half: Expr, other: Expr) -> Expr:
    """What underflow of `factor * half` may do to its product with `other`; NaN stays."""
    product = factor * half
    whole = apply("And", apply("LessThan", SMALLEST, factor), apply("LessThan", SMALLEST, product))
    return apply("Where", whole, 0, apply("Where", factor, (product + SMALLEST * (1 + half)) * other, 0))
