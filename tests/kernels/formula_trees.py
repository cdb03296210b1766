"""Formula trees -> text, graph and values, each made without the others.

What the parser reads from the text must be the graph, and what the graph computes must be the values. A tree's
graph comes from `apply`, its values from the NumPy reference of each operator as it is named, derived operators
included. Text follows the precedence of the language with no parenthesis more than needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from farfield_kernels.expr import (
    OPERATORS,
    Array,
    Axis,
    Const,
    Expr,
    apply,
    constant,
    index,
    topological,
    variable,
)
from farfield_kernels.grammar import constant_value
from farfield_kernels.operators.differential import Differential

COMPARISON, SCALPROD, SUM, PRODUCT, UNARY, POWER, ATOM = range(1, 8)
SIGNS = {"Add": ("+", SUM), "Subtract": ("-", SUM), "Mult": ("*", PRODUCT), "Divide": ("/", PRODUCT)}
SIGNS |= {"Scalprod": ("|", SCALPROD), "Equal": ("==", COMPARISON), "NotEqual": ("!=", COMPARISON)}
SIGNS |= {"LessThan": ("<", COMPARISON), "LessOrEqual": ("<=", COMPARISON)}
EXPONENTS = {"Square": "2", "Sqrt": "0.5", "Rsqrt": "-0.5"}
STEP = 1e-3  # of the differences that stand for derivatives within formulas

Moved = Mapping[int, Array]


@dataclass(frozen=True, eq=False)
class Argument:
    """One argument of a call and its numbers.

    Args:
        name: as declared; empty if it is only written inline.
        array: (*batch, rows, dim) float64 that float32 holds exactly; no rows for a parameter.
    """

    name: str
    position: int
    dim: int
    axis: Axis
    array: Array

    @property
    def inline(self) -> str:
        """As it is written where it has no name."""
        return f"{ {'i': 'Vi', 'j': 'Vj', 'p': 'Pm'}[self.axis] }({self.position}, {self.dim})"

    @property
    def rows_from(self) -> int:
        """How many batch axes the array has; its own axes follow."""
        return self.array.ndim - (1 if self.axis == "p" else 2)

    @property
    def at_pairs(self) -> Array:
        """(*batch, M or 1, N or 1, dim): its numbers at every pair (i, j)."""
        if self.axis == "p":
            return self.array[..., None, None, :]
        return self.array[..., :, None, :] if self.axis == "i" else self.array[..., None, :, :]


@dataclass(frozen=True, eq=False)
class Tree:
    """One formula.

    Args:
        text: as written.
        strength: the precedence of what binds weakest in `text`.
        expr: the graph that the text means.
        compute: values at all pairs, (*batch, M or 1, N or 1, dim), given arguments that have moved.
        children: formulas within this one, for the search for the smallest one that fails.
        names: declarations of intermediate formulas that `text` uses, innermost first.
        is_exact: whether values follow from references alone, not from differences.
    """

    text: str
    strength: int
    expr: Expr
    compute: Callable[[Moved], Array]
    children: tuple[Tree, ...] = ()
    names: tuple[str, ...] = ()
    is_exact: bool = True
    value: Array = field(init=False)

    def __post_init__(self) -> None:
        with np.errstate(all="ignore"):
            object.__setattr__(self, "value", np.asarray(self.compute({}), float))

    @property
    def dim(self) -> int:
        """Components per pair."""
        return self.expr.dim

    def within(self, least: int) -> str:
        """The text, in parentheses if something in it binds weaker than `least`."""
        return self.text if self.strength >= least else f"({self.text})"

    def uses(self, argument: Argument) -> bool:
        """Whether the formula depends on an argument."""
        return any(node is variable_of(argument) for node in topological([self.expr]))


def variable_of(argument: Argument) -> Expr:
    """The node of an argument."""
    return variable(argument.position, argument.dim, argument.axis)


def leaf(argument: Argument, text: str | None = None) -> Tree:
    """An argument by its name, or as `text` writes it."""

    def compute(moved: Moved) -> Array:
        if argument.position not in moved:
            return argument.at_pairs
        return dataclasses.replace(argument, array=moved[argument.position]).at_pairs

    return Tree(text or argument.name or argument.inline, ATOM, variable_of(argument), compute)


def literal(text: str) -> Tree:
    """A number."""
    number = float(text)
    strength = UNARY if text.startswith("-") else ATOM
    return Tree(text, strength, constant(number), lambda moved: np.full((1, 1, 1), number))


def row_or_column(name: str, count: int) -> Tree:
    """`I()` or `J()`."""
    axis: Axis = "i" if name == "I" else "j"
    numbers = np.arange(float(count))[:, None]
    shown = numbers[:, None, :] if axis == "i" else numbers[None, :, :]
    expr = apply("Add", index(axis, "high") * 2**20, index(axis, "low"))
    return Tree(f"{name}()", ATOM, expr, lambda moved: shown)


def named(name: str, tree: Tree) -> Tree:
    """An intermediate formula, declared as `name = ...` and then called by that name."""
    names = (*tree.names, f"{name} = {tree.text}")
    return dataclasses.replace(tree, text=name, strength=ATOM, names=names, children=(tree,))


def call(name: str, operands: Sequence[Tree], integers: Sequence[Any] = (), *, infix: bool = True) -> Tree:
    """An operator on formulas.

    Args:
        name: a declared operator.
        operands, integers: its arguments.
        infix: written with a sign where the language has one.

    Raises:
        RuleError: dims or integers that do not fit.
    """
    operator = OPERATORS[name]
    expr = apply(name, *(operand.expr for operand in operands), *integers)
    if isinstance(operator, Differential):
        raise TypeError(f"{name} takes a variable: see `derivative`")

    def compute(moved: Moved) -> Array:
        values = [operand.compute(moved) if moved else operand.value for operand in operands]
        value = np.asarray(operator.reference(*values, *integers), float)
        return value if value.ndim >= 3 else value.reshape(1, 1, -1)

    text, strength = written(name, operands, integers, infix=infix)
    return Tree(text, strength, expr, compute, tuple(operands), _names(operands), _exact(operands))


def joined(formulas: Sequence[Tree]) -> Tree:
    """All of them as one vector."""
    if len(formulas) == 1:
        return formulas[0]
    half = len(formulas) // 2
    return call("Concat", [joined(formulas[:half]), joined(formulas[half:])])


def derivative(name: str, formula: Tree, by: Argument, others: Sequence[Tree]) -> Tree:
    """A derivative within a formula; its Jacobian comes from differences of `formula`.

    Raises:
        RuleError: dims that do not fit, or a formula that is not linear where it must be.
    """
    operator = OPERATORS[name]
    assert isinstance(operator, Differential)
    operands = [formula, leaf(by), *others]
    expr = apply(name, *(operand.expr for operand in operands))
    order = 2 if operator.of == "scalar" else 1

    def compute(moved: Moved) -> Array:
        matrices = jacobian(formula, by, moved, order)
        return np.asarray(operator.reference(matrices, *(other.compute(moved) for other in others)), float)

    text, strength = written(name, operands, (), infix=False)
    return Tree(text, strength, expr, compute, (formula, *others), _names(operands), is_exact=False)


def _names(operands: Sequence[Tree]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for operand in operands for name in operand.names))


def _exact(operands: Sequence[Tree]) -> bool:
    return all(operand.is_exact for operand in operands)


def jacobian(formula: Tree, by: Argument, moved: Moved, order: int = 1, step: float = STEP) -> Array:
    """By differences of fourth order at every pair: (..., D, dim of `by`), or the Hessian of a scalar."""
    start = moved.get(by.position, by.array)

    def first(moved: Moved) -> Array:
        return jacobian(formula, by, moved, 1, step)[..., 0, :]

    function, size = (formula.compute, step) if order == 1 else (first, 4 * step)

    def slope(k: int) -> Array:
        def at(steps: int) -> Array:
            return function({**moved, by.position: start + steps * size * np.eye(by.dim)[k]})

        return np.asarray((8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * size))

    return np.stack([slope(k) for k in range(by.dim)], -1)


# ---- text ----------------------------------------------------------------------------------------------------


def written(name: str, operands: Sequence[Tree], integers: Sequence[Any], *, infix: bool) -> tuple[str, int]:
    """The text of a call and how strongly it binds."""
    signed = _signed(name, operands, integers) if infix else None
    if signed is not None:
        return signed
    arguments = [operand.within(COMPARISON) for operand in operands] + [_integers(n) for n in integers]
    return f"{name}({', '.join(arguments)})", ATOM


def _integers(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _signed(name: str, operands: Sequence[Tree], integers: Sequence[Any]) -> tuple[str, int] | None:
    """With a sign, if the language has one that means just this."""
    if name in SIGNS:
        sign, strength = SIGNS[name]
        a, b = operands
        # Comparisons do not chain; everything else groups to the left.
        left = strength + (strength == COMPARISON)
        return f"{a.within(left)} {sign} {b.within(strength + 1)}", strength
    first = operands[0] if operands else None
    if first is None or isinstance(first.expr, Const):
        return None
    if name == "Minus":
        return f"-{first.within(UNARY)}", UNARY
    if name in EXPONENTS:
        return f"{first.within(ATOM)}**{EXPONENTS[name]}", POWER
    if name == "Pow" and integers[0] != 2:
        return f"{first.within(ATOM)}**{integers[0]}", POWER
    if name == "Powf" and constant_value(operands[1].expr) is None:
        return f"{first.within(ATOM)}**{operands[1].within(UNARY)}", POWER
    return None
