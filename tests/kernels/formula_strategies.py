"""Declarations of operators and reductions -> random calls, as a hypothesis strategy.

A `Group` is several formulas over the same arguments, reduced together, so that one kernel computes them all. The
strategy knows no operator by name: it draws one, one of its cases, dims and integers near those of the case, and an
operand for each dim. Every formula is evaluated while it is built, so that each operand can be brought into the
domain that its operator declares, and values that no float type could hold are scaled.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from farfield_kernels.domains import POSITIVE, Case, Domain
from farfield_kernels.errors import LimitError, RuleError
from farfield_kernels.expr import Array, Axis, Expr, Operator, apply, variable
from farfield_kernels.lower import lower
from farfield_kernels.operation import Reduce, Spec, read
from farfield_kernels.operators import named_operators
from farfield_kernels.operators.differential import Differential
from farfield_kernels.reductions import REDUCTIONS, SUM
from farfield_kernels.terms import Term

from . import formula_trees as trees
from .formula_trees import Argument, Tree

MAX_DEPTH = 8
DEPTHS = (1, 2, 2, 3, 3, 3, 4, 4, 5, 6, 7, MAX_DEPTH)
DIMS = (1, 1, 2, 2, 3, 3, 4, 5, 6, 7)
SIZES = (1, 2, 3, 5, 8, 17, 33)
BATCHES: tuple[tuple[int, ...], ...] = ((), (), (), (2,), (2, 3))
NAMES = ("x", "y", "b", "p", "u_1", "X", "", "")
NUMBERS = ("1", "2", "3", "0.5", "1.5", ".25", "1e-1", "2.", "-1", "-0.75", "0")
LARGEST = 50.0  # value of a formula, before it is scaled
MAX_OPERATIONS = 150  # scalar operations of one formula: a compiler takes 3 ms for each
NEAR_ONE = Domain(0.9, 1.1)
FREQUENT = ("Sum", "Sum", "Sum", "Sum", "Sum", "LogSumExp", "Max", "SumSoftMaxWeight")  # drawn more often
TRUTHS = ("Any", "All", "Count")  # reductions of terms that are 0 or not


@dataclass(frozen=True, eq=False)
class Group:
    """Formulas that one call computes.

    Args:
        arguments: of the call, by position.
        formulas: what is reduced; of a weighted reduction the first is, and the others are the weights.
        weighted: whether there are weights.
        declarations: of the arguments.
        reduction, axis, options: of the call, see `Spec`.
        ranges: block-sparse ranges, or None.
    """

    arguments: tuple[Argument, ...]
    formulas: tuple[Tree, ...]
    declarations: tuple[str, ...]
    reduction: str
    weighted: bool
    axis: int | None
    options: dict[str, Any]
    ranges: tuple[Array, ...] | None

    @property
    def selects(self) -> bool:
        """Whether integers among the results are places of terms rather than counts."""
        return any(result.kind == "column" for result in REDUCTIONS[self.reduction].results)

    @property
    def batch(self) -> tuple[int, ...]:
        """The batch axes of the call."""
        return np.broadcast_shapes(*(a.array.shape[: a.rows_from] for a in self.arguments))

    @property
    def sizes(self) -> tuple[int, int]:
        """M and N."""
        i, j = (next(a.array.shape[-2] for a in self.arguments if a.axis == axis) for axis in ("i", "j"))
        return i, j

    @property
    def met(self) -> Array:
        """(M, N): whether a pair is among those that are reduced."""
        met = np.ones(self.sizes, bool)
        if self.ranges is not None:
            met[:] = False
            clusters, slices, columns = self.ranges[:3]
            for (first, end), begin, stop in zip(clusters, [0, *slices[:-1]], slices, strict=True):
                for left, right in columns[begin:stop]:
                    met[first:end, left:right] = True
        return met

    @property
    def joined(self) -> tuple[Tree, Tree | None]:
        """Formula and weights of the call."""
        if self.weighted:
            return self.formulas[0], _joined(self.formulas[1:])
        formula = _joined(self.formulas)
        is_scalar = REDUCTIONS[self.reduction].is_weighted
        return (trees.call("Sum", [formula]) if is_scalar and formula.dim > 1 else formula), None

    @property
    def spec(self) -> Spec:
        """The words of the call."""
        formula, weights = self.joined
        names = dict.fromkeys(name for tree in self.formulas for name in tree.names)
        text = None if weights is None else weights.text
        variables = (*self.declarations, *names)
        return Spec(formula.text, variables, self.reduction, self.axis, formula2=text, **self.options)

    @property
    def specs(self) -> list[Spec]:
        """The call and its derivatives, if it has any, with respect to all arguments."""
        spec, wrt = self.spec, range(len(self.arguments))
        operation = read(spec.forward())
        assert isinstance(operation, Reduce)
        return [spec] if operation.reduction.gradient is None else [spec, spec.vjp(wrt), spec.jvp(wrt)]


def _joined(formulas: Sequence[Tree]) -> Tree:
    if len(formulas) == 1:
        return formulas[0]
    half = len(formulas) // 2
    return trees.call("Concat", [_joined(formulas[:half]), _joined(formulas[half:])])


def draw_group(size: int, number: int) -> Group:
    """The group of `size` formulas that belongs to a seed, always the same one.

    The first that hypothesis draws is the simplest of all, later ones are often changed copies of earlier ones: the
    second is the one.
    """
    found: list[Group] = []

    @seed(number)
    @settings(
        max_examples=2,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=[*HealthCheck],
    )
    @given(groups(size))
    def collect(group: Group) -> None:
        found.append(group)

    collect()
    return found[-1]


@st.composite
def groups(draw: st.DrawFn, size: int) -> Group:
    """Calls that reduce `size` formulas."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = {"i": draw(st.sampled_from(SIZES)), "j": draw(st.sampled_from(SIZES))}
    batch = draw(st.sampled_from(BATCHES))
    axes: list[Axis] = ["i", "j", *draw(st.lists(st.sampled_from(["i", "j", "p"]), min_size=1, max_size=4))]
    names = draw(st.permutations(NAMES))
    arguments = []
    for position, axis in enumerate(axes):
        own = batch[draw(st.integers(0, len(batch))) :]
        own = tuple(1 if draw(st.booleans()) else length for length in own)
        shape = (*own, *(() if axis == "p" else (rows[axis],)), draw(st.sampled_from(DIMS)))
        array = rng.uniform(-2, 2, shape).astype(np.float32).astype(float)
        arguments.append(Argument(names[position], position, shape[-1], axis, array))
    builder = Builder(draw, arguments, rows)
    name = draw(st.sampled_from([*sorted(REDUCTIONS), *FREQUENT]))
    axis_over, rule = draw(st.sampled_from([0, 1, None])), REDUCTIONS[name].weights
    weighted = draw(st.sampled_from({"none": [False], "optional": [False, True], "needed": [True]}[rule]))
    depths = [draw(st.sampled_from(DEPTHS)) for _ in range(size)]
    formulas = [builder.formula(depth, 1 if weighted and not k else None) for k, depth in enumerate(depths)]
    return Group(
        arguments=tuple(arguments),
        formulas=tuple(builder.reducible(name, axis_over, weighted, formulas)),
        declarations=_declarations(draw, arguments),
        reduction=name,
        weighted=weighted,
        axis=axis_over,
        options=_options(draw, name),
        ranges=_ranges(draw, rows["i"], rows["j"]) if draw(st.integers(0, 3)) == 0 else None,
    )


def _declarations(draw: st.DrawFn, arguments: Sequence[Argument]) -> tuple[str, ...]:
    """In the order of the positions, which then need not be said, or in any order."""
    in_order = draw(st.booleans())
    texts = []
    for argument in arguments:
        kind, category = argument.inline[:2], "ijp".index(argument.axis)
        if argument.name and in_order:
            texts.append(f"{argument.name} = {kind}({argument.dim})")
        elif argument.name:
            texts.append(f"{argument.name}=Var({argument.position},{argument.dim},{category})")
        else:
            texts.append(argument.inline)
    return tuple(texts if in_order else draw(st.permutations(texts)))


def _options(draw: st.DrawFn, name: str) -> dict[str, Any]:
    reduction, options = REDUCTIONS[name], {}
    if reduction.takes_count:
        options["opt_arg"] = draw(st.integers(1, 4))
    if reduction.ignoring and draw(st.booleans()):
        options["nan_policy"] = "ignore"
    if reduction.compensated and draw(st.booleans()):
        options["sum_scheme"] = "kahan_scheme"
    return options


def _ranges(draw: st.DrawFn, M: int, N: int) -> tuple[Array, ...]:
    """Clusters of rows and of columns, and which of them meet; every one meets some other."""

    def clusters(rows: int) -> Array:
        cuts = sorted(draw(st.sets(st.integers(1, rows - 1), max_size=3))) if rows > 1 else []
        return np.array(list(zip([0, *cuts], [*cuts, rows], strict=True)), np.int64)

    parts = clusters(M), clusters(N)
    drawn = [draw(st.booleans()) for _ in range(len(parts[0]) * len(parts[1]))]
    keep = np.array(drawn).reshape(len(parts[0]), len(parts[1]))
    keep[~keep.any(1), 0] = True
    keep[0, ~keep.any(0)] = True
    tables: list[Array] = []
    for own, other, met in ((*parts, keep), (*parts[::-1], keep.T)):
        tables += [own, np.cumsum(met.sum(1)), other[np.nonzero(met)[1]]]
    return tuple(tables)


# ---- formulas ------------------------------------------------------------------------------------------------


@functools.cache
def operator_names() -> list[str]:
    """All that a formula may call."""
    return sorted(named_operators())


@dataclass
class Builder:
    """Formulas over some arguments, of which each may use intermediate formulas of those before it."""

    draw: st.DrawFn
    arguments: Sequence[Argument]
    rows: dict[str, int]

    def __post_init__(self) -> None:
        self.intermediate: list[Tree] = []

    def pick(self, choices: Sequence[Any]) -> Any:
        """One of them."""
        return self.draw(st.sampled_from(choices))

    def seldom(self, one_in: int) -> bool:
        """True once in a while."""
        return self.draw(st.integers(1, one_in)) == one_in

    def formula(self, depth: int, dim: int | None = None, without: Argument | None = None) -> Tree:
        """A formula of at most `depth` operators within one another, but for those that make dims and domains fit.

        Args:
            dim: what it must have; None for any.
            without: an argument that it must not use.
        """
        tree = self.operator(depth, dim, without) if depth else self.leaf(dim, without)
        if depth and self.seldom(12):
            tree = trees.named(f"t{len(self.intermediate)}", tree)
            self.intermediate.append(tree)
        return tree if dim is None else self.fitted(tree, dim, without)

    def leaf(self, dim: int | None, without: Argument | None = None) -> Tree:
        """An argument, an intermediate formula, a number, or the number of the row or the column."""
        if dim in (None, 1) and self.seldom(4):
            if self.seldom(4):
                name, axis = self.pick([("I", "i"), ("J", "j")])
                return trees.row_or_column(name, self.rows[axis])
            return trees.literal(self.pick(NUMBERS))
        found = [argument for argument in self.arguments if argument is not without]
        ready = [tree for tree in self.intermediate if without is None or not tree.uses(without)]
        found = [argument for argument in found if argument.dim == dim] or found
        if ready and self.seldom(4):
            return self.pick(ready)
        return self.argument(self.pick(found))

    def argument(self, argument: Argument) -> Tree:
        """By name, or inline."""
        if argument.name and not self.seldom(8):
            return trees.leaf(argument)
        category = "ijp".index(argument.axis)
        return trees.leaf(
            argument, self.pick([argument.inline, f"Var({argument.position},{argument.dim},{category})"])
        )

    def fitted(self, tree: Tree, dim: int, without: Argument | None = None) -> Tree:
        """A formula of dim `dim` made of a formula of any dim."""
        while tree.dim < dim:
            if tree.dim == 1 and self.seldom(2):
                return trees.call("SumT", [tree], [dim])
            other = self.leaf(None, without)
            join = "TensorProd" if tree.dim * other.dim <= dim and other.dim > 1 else "Concat"
            tree = trees.call(join, [tree, other])
        if tree.dim > dim:
            tree = trees.call("Extract", [tree], [self.draw(st.integers(0, tree.dim - dim)), dim])
        return tree

    def operator(self, depth: int, dim: int | None, without: Argument | None) -> Tree:
        """An operator on formulas; one of these alone where the whole has no value or takes too long to compile."""
        name = self.pick(operator_names())
        operator = named_operators()[name]
        if isinstance(operator, Differential):
            return self.derivative(operator, depth, without)
        if not operator.cases:
            return trees.row_or_column(name, self.rows["i" if name == "I" else "j"])
        case = self.near(operator, self.pick(operator.cases), dim)
        deep = self.draw(st.integers(0, max(0, operator.arity - 1)))
        operands = []
        for place, wanted in enumerate(case.dims):
            below = depth - 1 if place == deep else min(depth - 1, self.pick((0, 0, 1, 2)))
            operands.append(self.inside(operator.domain_of(place), self.formula(below, wanted, without)))
        infix = not self.seldom(4)
        return self.usable(lambda: trees.call(name, operands, case.integers, infix=infix), operands, without)

    def usable(self, make: Any, operands: Sequence[Tree], without: Argument | None) -> Tree:
        """What `make` gives, scaled if it is large; else the first operand."""
        spare = operands[0] if operands else self.leaf(None, without)
        try:
            tree = make()
            largest = float(np.abs(tree.value).max(initial=0))
            if not np.isfinite(largest) or largest > 1e4 * LARGEST or operations(tree.expr) > MAX_OPERATIONS:
                return spare
        except (RuleError, LimitError):
            return spare
        if largest > LARGEST:
            tree = trees.call("Mult", [trees.literal(f"{LARGEST / 5 / largest:.0e}"), tree])
        return tree

    def near(self, operator: Operator, case: Case, dim: int | None) -> Case:
        """A case with other dims and integers, if they are right too."""
        choices = (*DIMS, *(argument.dim for argument in self.arguments for _ in range(3)))
        sizes = {size: self.pick(choices) for size in sorted({*case.dims} - {1})}
        if dim is not None and len(sizes) == 1 and not self.seldom(4):
            sizes = dict.fromkeys(sizes, dim)
        integers = list(case.integers)
        for place, integer in enumerate(integers):
            known = [other.integers[place] for other in operator.cases if len(other.integers) > place]
            if isinstance(integer, int):
                integers[place] = self.draw(st.integers(min(known), max(known)))
        changed = Case(tuple(sizes.get(size, size) for size in case.dims), tuple(integers))
        try:
            apply(operator.name, *_placeholders(changed.dims), *changed.integers)
        except RuleError:
            return case
        return changed

    # -- derivatives

    def derivative(self, operator: Differential, depth: int, without: Argument | None) -> Tree:
        """The derivative of a formula by an argument."""
        by = self.pick(self.arguments)
        case = self.pick(operator.cases)
        sizes = {case.dims[0]: self.pick((1, 2, 3)), case.dims[1]: by.dim}
        if operator.of == "linear":
            formula = self.linear(min(depth - 1, 3), sizes[case.dims[0]], by)
        else:
            formula = self.formula(min(depth - 1, 3), sizes[case.dims[0]])
        others = [self.formula(self.pick((0, 0, 1)), sizes.get(dim, dim)) for dim in case.dims[2:]]
        spare = [tree for tree in (formula, *others) if without is None or not tree.uses(without)]
        if by is without or len(spare) <= len(others) or not formula.is_exact:
            return self.leaf(None, without)
        if not _is_smooth(formula, by, 2 if operator.of == "scalar" else 1):
            return self.leaf(None, without)
        return self.usable(lambda: trees.derivative(operator.name, formula, by, others), spare, without)

    def linear(self, depth: int, dim: int, by: Argument) -> Tree:
        """A formula that is linear in an argument."""
        if depth <= 0:
            return self.fitted_linear(trees.leaf(by), dim)
        form = self.pick(("Mult", "Add", "Subtract", "Divide", "Minus"))
        inner = self.linear(depth - 1, dim, by)
        if form == "Minus":
            return trees.call("Minus", [inner])
        if form in ("Add", "Subtract"):
            return trees.call(form, [inner, self.linear(depth - 2, dim, by)])
        other = self.formula(min(depth - 1, 2), 1, by)
        operands = [inner, self.inside(named_operators()["Divide"].domain_of(1), other)]
        return self.usable(lambda: trees.call(form, operands), operands, by)

    def fitted_linear(self, tree: Tree, dim: int) -> Tree:
        """An argument brought to a dim by linear operators."""
        while tree.dim < dim:
            tree = trees.call("Concat", [tree, tree])
        if tree.dim > dim == 1 and self.seldom(2):
            return trees.call("Sum", [tree])
        return tree if tree.dim == dim else trees.call("Extract", [tree], [0, dim])

    # -- domains

    def inside(self, domain: Domain, tree: Tree) -> Tree:
        """The formula if its values lie in a domain, else a centre and a small part of its sine."""
        if is_inside(domain, tree.value):
            return tree
        low, high = domain.low, domain.high
        if domain.away_from_zero:
            low, high = (domain.away_from_zero, high) if low >= 0 or self.seldom(2) else (low, -domain.away_from_zero)
        if domain.grid:
            cell = np.floor((low + high) / 2 / domain.grid) + self.pick((-1, 0, 1))
            low, high = cell * domain.grid, (cell + 1) * domain.grid
        parts = tree.dim if domain.apart or domain.ascending else 1
        width = (high - low) / parts
        places = list(range(parts)) if domain.ascending else self.draw(st.permutations(range(parts)))
        wave = trees.call(self.pick(("Sin", "Tanh")), [tree])
        if low == -high and low <= -1 and parts == 1:
            return wave
        centres = _joined([_number(low + width * (place + 0.5)) for place in places])
        return trees.call("Add", [centres, trees.call("Mult", [_number(width / 4), wave])])

    def reducible(self, name: str, axis: int | None, weighted: bool, formulas: Sequence[Tree]) -> list[Tree]:
        """Formulas that a reduction can take without overflow or logarithms of negative numbers."""
        first, *rest = formulas
        if name in TRUTHS:
            return [trees.call("LessThan", [tree, self.formula(0, 1)]) for tree in formulas]
        if weighted:
            good = [k for k, tree in enumerate(rest) if self._reduces(name, axis, first, tree)]
            return [first, *(tree if k in good else self.inside(POSITIVE, tree) for k, tree in enumerate(rest))]
        return [tree if self._reduces(name, axis, tree) else self.inside(NEAR_ONE, tree) for tree in formulas]

    def _reduces(self, name: str, axis: int | None, formula: Tree, weights: Tree | None = None) -> bool:
        """Whether all numbers of the reduction are moderate."""
        reduction = REDUCTIONS[name]
        reduction = reduction.weighted or reduction if weights else reduction
        given = [tree for tree in (formula, weights) if tree is not None]
        batch = np.broadcast_shapes(*(tree.value.shape[:-3] for tree in given))
        terms = [
            np.broadcast_to(tree.value, (*batch, self.rows["i"], self.rows["j"], tree.dim)).swapaxes(
                -3, -2 if axis == 0 else -3
            )
            for tree in given
        ]
        flat = [values.reshape(-1, *values.shape[-2:]) for values in terms]
        if axis is None:
            flat = [values.reshape(-1, self.rows["i"] * self.rows["j"], values.shape[-1]) for values in terms]
        with np.errstate(all="ignore"):
            found = (reduction.saving or reduction).reference(flat[0], flat[1] if weights else None, 1)
        return all(bool(np.all(np.abs(numbers) < 1e4)) for numbers in found)


def _number(value: float) -> Tree:
    return trees.literal(f"{value:.3g}")


def _placeholders(dims: Sequence[int]) -> list[Expr]:
    return [variable(place, dim, "p") for place, dim in enumerate(dims)]


def is_inside(domain: Domain, value: Array) -> bool:
    """Whether values lie in a domain, at the points of this call; narrow domains are meant exactly."""
    width = domain.high - domain.low
    reach = 4 if 2 <= width <= 6 else 1
    low, high = domain.low * (reach if domain.low == -domain.high else 1), domain.high * reach
    cell = value / domain.grid if domain.grid else np.array(0.5)
    gaps = np.array(1.0)
    if domain.apart or domain.ascending:
        gaps = np.diff(value if domain.ascending else np.sort(value, -1), axis=-1)
    return (
        bool(np.all((low <= value) & (value <= high) & (np.abs(value) >= 0.5 * domain.away_from_zero)))
        and bool(np.all(np.abs(cell - np.rint(cell)) >= 1e-4))
        and bool(np.all(gaps >= 1e-3))
    )


def _is_smooth(formula: Tree, by: Argument, order: int) -> bool:
    """Whether differences of a formula by an argument can be trusted: smaller steps change nothing."""
    with np.errstate(all="ignore"):
        coarse = trees.jacobian(formula, by, {}, order)
        fine = trees.jacobian(formula, by, {}, order, trees.STEP / 2)
    return bool(np.all(np.abs(coarse - fine) <= 1e-7 * max(1, float(np.abs(fine).max(initial=0)))))


def operations(formula: Expr) -> int:
    """Scalar operations of a kernel that sums a formula."""
    return len(lower([Term(formula, SUM, "i")], "i").values)
