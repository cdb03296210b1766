"""Expr -> sums of monomials: a formula over rows and columns, multiplied out as far as the two can be told apart.

A monomial is a number times factors that are free of the columns, times factors that are free of the rows, times
the exp of a sum of parts of either kind. A subtree that reads one axis alone is one factor and is never opened: it
gets no cancellation that it does not have already, and is computed by the operations it was written with.

What is multiplied out is read off the operators: sums, products, powers, quotients by one side, choices by one
side, the exp of a sum, and every vector operator whose scalar program is sums and products.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .expr import Axis, Expr, apply, topological
from .rewrite import literal, simplify

Part = tuple[float, tuple[Expr, ...]]
"""A number times a product of scalar factors."""

MAX_WIDTH = 64  # components of one node that is multiplied out
MAX_MONOMIALS = 64  # of one component; more never fit into the few columns that pay
MAX_STEPS = 20_000  # sums and products of components, so that analysis takes milliseconds
MAX_POWER = 4

SMALLEST = 2.0**-960  # a product below it may have lost digits to underflow


class Inseparable(Exception):
    """The formula is no short sum of monomials."""


@dataclass(frozen=True)
class Monomial:
    """`coefficient * product(rows) * product(columns) * exp(sum(row_exponent) + sum(column_exponent))`."""

    coefficient: float
    rows: tuple[Expr, ...] = ()
    columns: tuple[Expr, ...] = ()
    row_exponent: tuple[Part, ...] = ()
    column_exponent: tuple[Part, ...] = ()


Form = tuple[Monomial, ...]
"""The sum of monomials that one component is."""


def multiply_out(formula: Expr, row_axis: Axis) -> list[Form]:
    """The components of a formula as sums of monomials.

    Args:
        formula: of dim D.
        row_axis: the axis of the rows; the other one is that of the columns.

    Returns:
        D forms.

    Raises:
        Inseparable: some operator joins rows and columns otherwise, or there are too many monomials.
    """
    return _Expansion(row_axis).forms(formula)


class _Expansion:
    def __init__(self, row_axis: Axis) -> None:
        self.row_axis = row_axis
        self.column_axis: Axis = "i" if row_axis == "j" else "j"
        self.known: dict[Expr, list[Form]] = {}
        self.ordinals: dict[Expr, int] = {}
        self.steps = 0

    def forms(self, root: Expr) -> list[Form]:
        if self.is_one_sided(root):
            return self.leaves(root)
        for node in topological([root]):
            if not self.is_one_sided(node):
                self.known[node] = self.open(node)
        return self.known[root]

    def is_one_sided(self, node: Expr) -> bool:
        return not {self.row_axis, self.column_axis} <= node.axes

    def of_operand(self, node: Expr) -> list[Form]:
        return self.leaves(node) if self.is_one_sided(node) else self.known[node]

    def leaves(self, node: Expr) -> list[Form]:
        if node.dim > MAX_WIDTH:
            raise Inseparable
        return [self.leaf(simplify(apply("Extract", node, k, 1))) for k in range(node.dim)]

    def leaf(self, scalar: Expr) -> Form:
        number = literal(scalar)
        if number is not None:
            return _constant(number)
        self.ordinals.setdefault(scalar, len(self.ordinals))
        if self.column_axis in scalar.axes:
            return (Monomial(1.0, columns=(scalar,)),)
        return (Monomial(1.0, rows=(scalar,)),)

    def open(self, node: Expr) -> list[Form]:
        """The forms of a node that reads both axes, from those of its operands."""
        assert node.op is not None
        if node.dim > MAX_WIDTH:
            raise Inseparable
        if node.op.name in ("Where", "IfElse", "Divide"):
            return self.one_sided_operand(node)
        operands = [self.of_operand(operand) for operand in node.operands]
        rule = _COMPONENTWISE.get(node.op.name)
        if rule is None:
            return self.by_scalar_program(node, operands)
        return [rule(self, *(forms[k % len(forms)] for forms in operands), *node.params) for k in range(node.dim)]

    def one_sided_operand(self, node: Expr) -> list[Form]:
        """Quotients by one side, and choices by one side: products with 1 and 0."""
        assert node.op is not None
        name = node.op.name
        decider = node.operands[1 if name == "Divide" else 0]
        if not self.is_one_sided(decider):
            raise Inseparable
        if name == "Divide":
            inverse = self.leaves(apply("Inv", decider))
            dividend = self.of_operand(node.operands[0])
            return [self.times(dividend[k % len(dividend)], inverse[k % len(inverse)]) for k in range(node.dim)]
        chosen = [self.leaves(apply(name, decider, *masks)) for masks in ((1, 0), (0, 1))]
        results: list[Form] = [()] * node.dim
        for masks, operand in zip(chosen, node.operands[1:], strict=True):
            forms = self.of_operand(operand)
            for k in range(node.dim):
                results[k] = self.plus(results[k], self.times(forms[k % len(forms)], masks[k % len(masks)]))
        return results

    def by_scalar_program(self, node: Expr, operands: list[list[Form]]) -> list[Form]:
        """Run the lowering that the operator declares on forms instead of scalars."""
        assert node.op is not None
        table: list[Form] = []

        def number(form: Form) -> int:
            table.append(form)
            return len(table) - 1

        def emit(code: str, *places: int) -> int:
            step = _SCALAR_PROGRAM.get(code)
            if step is None:
                raise Inseparable
            return number(step(self, *(table[place] for place in places)))

        scalars = [[number(form) for form in forms] for forms in operands]
        return [table[place] for place in node.op.lower(emit, scalars, node.dim, node.params)]

    # ---- the algebra of forms --------------------------------------------------------------------------------

    def plus(self, a: Form, b: Form) -> Form:
        return self.collect((*a, *b))

    def minus(self, a: Form) -> Form:
        return tuple(_scaled(monomial, -1.0) for monomial in a)

    def times(self, a: Form, b: Form) -> Form:
        return self.collect([self.product(left, right) for left, right in itertools.product(a, b)])

    def product(self, a: Monomial, b: Monomial) -> Monomial:
        return Monomial(
            a.coefficient * b.coefficient,
            self.sorted(a.rows + b.rows),
            self.sorted(a.columns + b.columns),
            self.sorted_parts(a.row_exponent + b.row_exponent),
            self.sorted_parts(a.column_exponent + b.column_exponent),
        )

    def sorted(self, factors: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(sorted(factors, key=self.ordinals.__getitem__))

    def sorted_parts(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        return tuple(sorted(parts, key=lambda part: ([self.ordinals[x] for x in part[1]], part[0])))

    def collect(self, monomials: Sequence[Monomial]) -> Form:
        """Equal products are added, but not those of opposite signs: inf - inf is NaN and must stay."""
        self.steps += 1 + len(monomials)
        totals: dict[tuple[Monomial, bool], float] = {}
        for monomial in monomials:
            if not SMALLEST < abs(monomial.coefficient) < math.inf:
                raise Inseparable
            key = (_scaled(monomial, 0.0), monomial.coefficient > 0)
            totals[key] = totals.get(key, 0.0) + monomial.coefficient
        if len(totals) > MAX_MONOMIALS or self.steps > MAX_STEPS:
            raise Inseparable
        return tuple(
            Monomial(total, of.rows, of.columns, of.row_exponent, of.column_exponent)
            for (of, _), total in totals.items()
        )

    def power(self, a: Form, exponent: int) -> Form:
        if not 0 <= exponent <= MAX_POWER:
            raise Inseparable
        result = _constant(1.0)
        for _ in range(exponent):
            result = self.times(result, a)
        return result

    def exp(self, a: Form) -> Form:
        rows: list[Part] = []
        columns: list[Part] = []
        for term in a:
            if term.row_exponent or term.column_exponent:
                raise Inseparable
            if not term.columns:
                rows.append((term.coefficient, term.rows))
            elif all(self.row_axis not in factor.axes for factor in term.rows):
                columns.append((term.coefficient, self.sorted(term.rows + term.columns)))
            else:
                raise Inseparable
        return (
            Monomial(
                1.0,
                row_exponent=self.sorted_parts(tuple(rows)),
                column_exponent=self.sorted_parts(tuple(columns)),
            ),
        )


def _constant(number: float) -> Form:
    """A factor written as the literal zero removes its term."""
    return (Monomial(number),) if number else ()


def _scaled(monomial: Monomial, by: float) -> Monomial:
    return Monomial(
        monomial.coefficient * by if by else 0.0,
        monomial.rows,
        monomial.columns,
        monomial.row_exponent,
        monomial.column_exponent,
    )


_COMPONENTWISE: dict[str, Callable[..., Form]] = {
    "Add": _Expansion.plus,
    "Subtract": lambda to, a, b: to.plus(a, to.minus(b)),
    "Minus": _Expansion.minus,
    "Mult": _Expansion.times,
    "Square": lambda to, a: to.times(a, a),
    "Pow": _Expansion.power,
    "Exp": _Expansion.exp,
}

_SCALAR_PROGRAM: dict[str, Callable[..., Form]] = {
    "K(0)": lambda to: (),
    "$a + $b": _Expansion.plus,
    "$a * $b": _Expansion.times,
    "$a * $b + $c": lambda to, a, b, c: to.plus(to.times(a, b), c),
}
