"""Expr -> Expr: the same value for less work.

A rule is a row: two formulas in which a, b, c stand for anything. A rule may not turn a finite value into NaN or
infinity nor hide a NaN of the data, except that a factor written as the literal zero removes its term; the tests
evaluate both sides of every row at random points. Rules are applied bottom up, once, to new nodes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .errors import RuleError
from .expr import Const, Expr, Index, Var, apply, constant, transform, with_operands
from .parse import parse_formula, parse_variables


@dataclass(frozen=True)
class Rule:
    """`pattern` may be replaced by `replacement`; both are formulas over a, b, c."""

    pattern: str
    replacement: str


RULES = (
    Rule("0 * a", "0"),
    Rule("a * 0", "0"),
    Rule("a - 0", "a"),
    Rule("1 * a", "a"),
    Rule("a * 1", "a"),
    Rule("a / 1", "a"),
    Rule("-(-a)", "a"),
    Rule("a + (-b)", "a - b"),
    Rule("a - (-b)", "a + b"),
    Rule("(-a) * (-b)", "a * b"),
    Rule("(-a) * b", "-(a * b)"),
    Rule("a * (-b)", "-(a * b)"),
)

FOLDED: dict[str, Callable[..., float]] = {
    "Add": lambda a, b: a + b,
    "Subtract": lambda a, b: a - b,
    "Mult": lambda a, b: a * b,
    "Minus": lambda a: -a,
    "Square": lambda a: a * a,
}
"""Operators computed at once when all operands are constants and the result is finite."""


def rewrite(root: Expr) -> Expr:
    """Apply constant folding and the rules to a formula. The dim is kept."""
    return transform(root, _rebuild)


def _rebuild(node: Expr, operands: tuple[Expr, ...]) -> Expr:
    return node if node.op is None else simplify(with_operands(node, operands))


def simplify(node: Expr) -> Expr:
    """`node` after folding and at most a few rules at its root; its operands are simple already."""
    folded = _fold(node)
    if folded is not None:
        return folded
    for pattern, replacement in _compiled_rules():
        assert node.op is not None
        if pattern.op is node.op:
            bound: dict[int, Expr] = {}
            if _match(pattern, node, bound):
                return _widen(_substitute(replacement, bound), node.dim)
    return node


def _widen(node: Expr, dim: int) -> Expr:
    """A replacement that lost the broadcast of what it replaces gets it back."""
    return node if node.dim == dim else apply("SumT", node, dim)


def _fold(node: Expr) -> Expr | None:
    assert node.op is not None
    fold = FOLDED.get(node.op.name)
    if fold is None or not all(isinstance(operand, Const) for operand in node.operands):
        return None
    with np.errstate(all="ignore"):
        value = fold(*(operand.value for operand in node.operands if isinstance(operand, Const)))
    try:
        return constant(value)
    except RuleError:
        return None


@functools.cache
def _compiled_rules() -> tuple[tuple[Expr, Expr], ...]:
    letters = parse_variables(("a = Pm(1)", "b = Pm(1)", "c = Pm(1)"))
    return tuple(
        (parse_formula(rule.pattern, letters), parse_formula(rule.replacement, letters)) for rule in RULES
    )


def _match(pattern: Expr, node: Expr, bound: dict[int, Expr]) -> bool:
    if isinstance(pattern, Var):
        return bound.setdefault(pattern.position, node) is node
    if isinstance(pattern, Const):
        # A zero or one that was repeated to dim d is still written as a literal.
        while node.op is not None and node.op.name == "SumT":
            node = node.operands[0]
        return isinstance(node, Const) and node.value == pattern.value
    if isinstance(pattern, Index) or pattern.op is not node.op or pattern.params != node.params:
        return False
    return all(_match(p, n, bound) for p, n in zip(pattern.operands, node.operands, strict=True))


def _substitute(replacement: Expr, bound: dict[int, Expr]) -> Expr:
    def rebuild(node: Expr, operands: tuple[Expr, ...]) -> Expr:
        if isinstance(node, Var):
            return bound[node.position]
        return node if node.op is None else simplify(with_operands(node, operands))

    return transform(replacement, rebuild)
