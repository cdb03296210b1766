"""Declarations of operators -> random formulas over given arguments.

Nothing here knows an operator by name, but for those that make dims and domains fit: an operator is drawn, one of
its cases, dims and integers near those of the case, and a formula for each dim. Every formula is evaluated while
it is built, so that each operand can be brought into the domain that its operator declares, and values that are
too large for a float are scaled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from farfield_kernels.differentiate import vjp
from farfield_kernels.domains import Case, Domain
from farfield_kernels.errors import LimitError, RuleError
from farfield_kernels.expr import Array, Expr, Operator, Var, apply, topological, variable
from farfield_kernels.lower import lower
from farfield_kernels.operators import named_operators
from farfield_kernels.operators.differential import Differential
from farfield_kernels.reductions import SUM
from farfield_kernels.scope import MAX_POSITION
from farfield_kernels.terms import Term

from . import formula_trees as trees
from .formula_trees import Argument, Tree

DIMS = (1, 1, 2, 2, 3, 3, 4, 5, 6, 7)
NUMBERS = ("1", "2", "3", "0.5", "1.5", ".25", "1e-1", "2.", "-1", "-0.75", "0")
LARGEST = 50.0  # value of a formula, before it is scaled
MAX_OPERATIONS = 200  # scalar operations of one formula and its gradient: a compiler takes 3 to 10 ms for each


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
    intermediate: list[Tree] = field(default_factory=list)

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
        if tree.children and self.seldom(12):  # `t0 = Vi(0, 3)` would declare an argument
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
        """An operator on formulas; one of these alone if the whole has no value or is long to compile."""
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

    def usable(self, make: Callable[[], Tree], operands: Sequence[Tree], without: Argument | None) -> Tree:
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
        rows, columns, *_ = case.dims  # of the Jacobian
        if rows == 1 and (operator.of == "scalar" or columns != 1):
            sizes = {columns: by.dim, 1: 1}
        else:
            sizes = {rows: self.pick((1, 2, 3)), columns: by.dim}
        if operator.of == "linear":
            formula = self.linear(min(depth - 1, 3), sizes[rows], by)
        else:
            formula = self.formula(min(depth - 1, 3), sizes[rows])
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
        near = domain.away_from_zero
        if near:
            low, high = (near, high) if low >= 0 or self.seldom(2) else (low, -near)
        if domain.grid:
            cell = np.floor((low + high) / 2 / domain.grid) + self.pick((-1, 0, 1))
            low, high = cell * domain.grid, (cell + 1) * domain.grid
        parts = tree.dim if domain.apart or domain.ascending else 1
        width = (high - low) / parts
        places = list(range(parts)) if domain.ascending else self.draw(st.permutations(range(parts)))
        wave = trees.call(self.pick(("Sin", "Tanh")), [tree])
        if low == -high and low <= -1 and parts == 1:
            return wave
        centres = trees.joined([_number(low + width * (place + 0.5)) for place in places])
        return trees.call("Add", [centres, trees.call("Mult", [_number(width / 4), wave])])


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
    """Scalar operations of a kernel that computes a formula and its gradient."""
    arguments = [node for node in topological([formula]) if isinstance(node, Var)]
    gradients = vjp([(formula, variable(MAX_POSITION, formula.dim, "p"))], arguments)
    return len(lower([Term(found, SUM, "i") for found in (formula, *gradients)], "i").values)
