"""Expr -> Expr: the same value for less work.

A rule is a row: two formulas in which a, b, c stand for anything, or a function where dims and integers matter.
Rules are applied bottom up, once, to new nodes; what a rule gives is simple again, so rewriting twice changes
nothing more.

A rule may not turn a finite value into NaN or infinity, hide a NaN of the data, turn the sign of a zero or cost
more than a few ulps, except that a factor written as the literal zero removes its term. The tests hold every row
to that at random and at special points. It excludes, although they are true of real numbers:

- `a + 0 -> a`: -0 + 0 is +0. What holds is `a + (-0) -> a`, `a - 0 -> a`, and `a + 0 -> a` where a is never -0.
- `a - a -> 0`, `a / a -> 1`, `0 / a -> 0`, `Exp(Log(a)) -> a`, `Square(Sqrt(a)) -> a`: they hide NaN.
- `Pow(a, 0) -> 1`, `And(a, 0) -> 0`: as data they turn the product with NaN into NaN, as literals they do not.
- `a*b + a*c -> a*(b + c)`: b + c may overflow where a is small enough for both products to be finite.
- `Sum(a*b) -> a*Sum(b)` for scalar a, and taking a factor out of the sum over columns: the products may be finite
  where the sum of the b is not. `separate` does that, and looks at the data first.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .errors import RuleError
from .expr import Const, Expr, Var, apply, broadcast, constant, transform, with_operands
from .parse import Variable, parse_formula, parse_variables

COMMUTATIVE = frozenset({"Add", "Mult", "Maximum", "Minimum", "And", "Or"})
"""A pattern matches the operands of these in either order."""

MODERATE = 2.0**60  # two literals between its inverse and it have a product that every float type holds


@dataclass(frozen=True)
class Rule:
    """`pattern` may be replaced by `replacement`; both are formulas over a, b, c.

    Args:
        pattern, replacement: each letter stands for one formula, of any dim.
        when: what the letters must be besides, in the order a, b, c; None if anything.
        example: a formula the rule applies to, where the pattern itself is none.
    """

    pattern: str
    replacement: str
    when: Callable[..., bool] | None = None
    example: str = ""


def literal(node: Expr) -> float | None:
    """The number of a literal, repeated to whatever dim, or None."""
    while node.op is not None and node.op.name == "SumT":
        node = node.operands[0]
    return node.value if isinstance(node, Const) else None


def _is_moderate(number: float | None) -> bool:
    return number is not None and 1 / MODERATE <= abs(number) <= MODERATE


def _is_power_of_two(number: float | None) -> bool:
    return _is_moderate(number) and abs(math.frexp(number or 1.0)[0]) == 0.5


def _are_per_pair(*nodes: Expr) -> bool:
    return all({"i", "j"} <= node.axes for node in nodes)


RULES = (
    # Literal zeros and ones.
    Rule("0 * a", "0"),
    Rule("(-0) * a", "0"),
    Rule("a - 0", "a"),
    Rule("a + (-0)", "a"),
    Rule("Exp(a) + 0", "Exp(a)"),
    Rule("Abs(a) + 0", "Abs(a)"),
    Rule("Square(a) + 0", "Square(a)"),
    Rule("Exp(a + 0)", "Exp(a)"),
    Rule("Abs(a + 0)", "Abs(a)"),
    Rule("Square(a + 0)", "Square(a)"),
    Rule("1 * a", "a"),
    Rule("(-1) * a", "-a"),
    Rule("a / 1", "a"),
    Rule("a / (-1)", "-a"),
    # Signs.
    Rule("-(-a)", "a"),
    Rule("a + (-b)", "a - b"),
    Rule("a - (-b)", "a + b"),
    Rule("(-a) * (-b)", "a * b"),
    Rule("(-a) * b", "-(a * b)"),
    Rule("a * (-b)", "-(a * b)"),
    Rule("(-a) / (-b)", "a / b"),
    Rule("(-a) / b", "-(a / b)"),
    Rule("a / (-b)", "-(a / b)"),
    Rule("Square(-a)", "Square(a)"),
    Rule("Abs(-a)", "Abs(a)"),
    Rule("Abs(Abs(a))", "Abs(a)"),
    Rule("Abs(Square(a))", "Square(a)"),
    Rule("Square(Abs(a))", "Square(a)"),
    # Equal operands, and choices that are none.
    Rule("a + a", "2 * a"),
    Rule("a * a", "Square(a)"),
    Rule("Maximum(a, a)", "a"),
    Rule("Minimum(a, a)", "a"),
    Rule("Where(a, b, b)", "b"),
    Rule("Where(a, 0, 0)", "0"),
    Rule("IfElse(a, b, b)", "b"),
    Rule("IfElse(a, 0, 0)", "0"),
    Rule("Where(a, b, c)", "b", lambda a, b, c: literal(a) not in (None, 0.0), "Where(2, b, c)"),
    Rule("Where(a, b, c)", "c", lambda a, b, c: literal(a) == 0.0, "Where(0, b, c)"),
    # Literal factors. A power of two divides exactly as its inverse multiplies.
    Rule("-(a * b)", "(-a) * b", lambda a, b: literal(a) is not None, "-(3 * b)"),
    Rule("a / b", "a * Inv(b)", lambda a, b: _is_power_of_two(literal(b)), "a / 4"),
    Rule(
        "a * (b * c)",
        "(a * b) * c",
        lambda a, b, c: _is_moderate(literal(a)) and _is_moderate(literal(b)),
        "3 * (c * 0.7)",
    ),
    # Powers. Pow multiplies: from these exponents to a**n are at most four roundings.
    *(Rule(f"Powf(a, {n})", f"Pow(a, {n})") for n in (-2, -1, 0, 1, 2, 3, 4)),
    Rule("Pow(a, 1)", "a"),
    Rule("Pow(a, 2)", "Square(a)"),
    Rule("Pow(a, -1)", "Inv(a)"),
    # One exp for two. The product is finite only if a + b is: inf * 0 is NaN, and exp(a) * exp(b) overflows where
    # exp(a + b) does, while each factor may overflow or underflow alone. Rounding a + b costs |a + b| / 2 ulps,
    # more than a product does; but a and b were computed per pair and rounded too, which cost |a| / 2 and |b| / 2
    # already. Of one side alone they might be data, exact, and their exps need not be computed per pair.
    Rule("Exp(a) * Exp(b)", "Exp(a + b)", _are_per_pair, "Exp(a * d) * Exp(b - d)"),
    Rule("Exp(a) / Exp(b)", "Exp(a - b)", _are_per_pair, "Exp(a * d) / Exp(b - d)"),
)


@dataclass(frozen=True)
class Shaping:
    """A rule that reads dims and integers: `rewrite` gives the replacement of a node, or None.

    Args:
        operator: the root of the nodes it applies to; "" for every operator on each component alone.
        identity: what it does, as formulas.
        rewrite: node -> the replacement, or None; the operands are simple.
        examples: formulas that change, over scalars a and b and vectors u and v of dim 3.
    """

    operator: str
    identity: str
    rewrite: Callable[[Expr], Expr | None]
    examples: tuple[str, ...]


def _repeated(node: Expr) -> Expr | None:
    """The scalar that a vector repeats."""
    if node.dim == 1:
        return node
    return node.operands[0] if node.op is not None and node.op.name == "SumT" else None


def _is(node: Expr, name: str) -> bool:
    return node.op is not None and node.op.name == name


def _repeat(node: Expr, dim: int) -> Expr:
    return node if node.dim == dim else apply("SumT", node, dim)


def _sum(node: Expr) -> Expr | None:
    (a,) = node.operands
    scalar = _repeated(a)
    return None if scalar is None else simplify(a.dim * scalar)


def _extract(node: Expr) -> Expr | None:
    (a,), (start, dim) = node.operands, node.params
    # A loop, as operands may be nested a thousand deep.
    while dim != a.dim:
        scalar = _repeated(a)
        if scalar is not None:
            return _repeat(scalar, dim)
        if _is(a, "Extract"):
            start, a = start + a.params[0], a.operands[0]
        elif _is(a, "Concat") and start + dim <= a.operands[0].dim:
            a = a.operands[0]
        elif _is(a, "Concat") and start >= a.operands[0].dim:
            start, a = start - a.operands[0].dim, a.operands[1]
        elif _is(a, "ExtractT") and a.params[0] <= start and start + dim <= a.params[0] + a.operands[0].dim:
            start, a = start - a.params[0], a.operands[0]
        elif _is(a, "ExtractT") and (start + dim <= a.params[0] or start >= a.params[0] + a.operands[0].dim):
            return _repeat(constant(0.0), dim)
        else:
            return None if a is node.operands[0] else apply("Extract", a, start, dim)
    return a


def _pad(node: Expr) -> Expr | None:
    (a,) = node.operands
    if a.dim == node.dim:
        return a
    return _repeat(constant(0.0), node.dim) if _is_zero(a) else None


def _is_zero(node: Expr) -> bool:
    number = literal(node)
    return number is not None and number.hex() == "0x0.0p+0"


def _concat(node: Expr) -> Expr | None:
    a, b = node.operands
    scalar = _repeated(a)
    if scalar is not None and scalar is _repeated(b):
        return _repeat(scalar, node.dim)
    if _is(a, "Extract") and _is(b, "Extract") and a.operands[0] is b.operands[0]:
        start = a.params[0]
        if start + a.dim == b.params[0]:
            return simplify(apply("Extract", a.operands[0], start, node.dim))
    return None


def _contract(node: Expr) -> Expr | None:
    a, b = node.operands
    if 0.0 in (literal(a), literal(b)):
        return _repeat(constant(0.0), node.dim)
    return simplify(a * b) if a.dim == b.dim == node.dim == 1 else None


def _componentwise(node: Expr) -> Expr | None:
    scalars = [_repeated(operand) for operand in node.operands]
    wide = any(scalar is None for scalar in scalars)
    if node.dim == 1 or not any(_is(operand, "SumT") for operand in node.operands):
        return None
    assert node.op is not None
    operands = [x if s is None else s for x, s in zip(node.operands, scalars, strict=True)]
    narrow = simplify(apply(node.op.name, *operands, params=node.params))
    return narrow if wide else _repeat(narrow, node.dim)


SHAPINGS = (
    Shaping("Sum", "Sum(SumT(a, d)) = d * a, Sum(a) = a", _sum, ("Sum(SumT(a, 3))", "Sum(a * b)", "Sum(Zero(3))")),
    Shaping("SumT", "SumT(a, 1) = a", lambda node: node.operands[0] if node.dim == 1 else None, ("SumT(a, 1)",)),
    Shaping(
        "Extract",
        "Extract of SumT, Extract, Concat or ExtractT = what it takes from their operand; of all components: a",
        _extract,
        (
            "Extract(u, 0, 3)",
            "Extract(SumT(a, 5), 2, 2)",
            "Extract(Extract(u, 1, 2), 1, 1)",
            "Extract(Concat(u, v), 1, 2)",
            "Extract(Concat(a, v), 2, 2)",
            "Extract(ExtractT(u, 2, 9), 3, 2)",
            "Extract(ExtractT(u, 2, 9), 0, 2)",
            "Extract(ExtractT(u, 2, 9), 5, 4)",
        ),
    ),
    Shaping(
        "ExtractT",
        "ExtractT(a, 0, dim) = a, ExtractT(0, start, d) = 0",
        _pad,
        ("ExtractT(u, 0, 3)", "ExtractT(Zero(2), 1, 4)"),
    ),
    Shaping(
        "Concat",
        "Concat(SumT(a, m), SumT(a, n)) = SumT(a, m + n); adjacent Extracts join",
        _concat,
        ("Concat(a, a)", "Concat(Zero(2), 0)", "Concat(Extract(u, 0, 1), Extract(u, 1, 2))"),
    ),
    Shaping("Contract", "0 | a = 0; of scalars: a * b", _contract, ("u | Zero(3)", "Zero(2) | Zero(2)", "a | b")),
    Shaping(
        "",
        "f(SumT(a, d), v) = f(a, v), f(SumT(a, d), SumT(b, d)) = SumT(f(a, b), d)",
        _componentwise,
        ("u * SumT(a, 3)", "Exp(SumT(a * b, 3))", "Where(SumT(a, 3), u, SumT(b, 3))"),
    ),
)


def rewrite(root: Expr) -> Expr:
    """Apply constant folding and the rules to a formula. The dim is kept."""
    return transform(root, _rebuild)


def _rebuild(node: Expr, operands: tuple[Expr, ...]) -> Expr:
    return node if node.op is None else simplify(with_operands(node, operands))


def simplify(node: Expr) -> Expr:
    """`node` after folding and at most a few rules at its root; its operands are simple already."""
    if node.op is None:
        return node
    folded = _fold(node)
    if folded is not None:
        return folded
    shapings = _shapings()
    for shaping in shapings.get(node.op.name, shapings[""] if node.op.dim is broadcast else ()):
        shaped = shaping.rewrite(node)
        if shaped is not None:
            return shaped
    # As written first, by all rules: a product that is used elsewhere too should keep its order.
    for operands in _orders(node):
        for rule, pattern in _compiled_rules().get(node.op.name, ()):
            for bound in () if pattern.params != node.params else _all_bindings(pattern.operands, operands, {}):
                if rule.when is None or rule.when(*(bound[letter] for letter in sorted(bound))):
                    return _repeat(_substitute(_compiled(rule.replacement), bound), node.dim)
    return node


def _orders(node: Expr) -> tuple[tuple[Expr, ...], ...]:
    assert node.op is not None
    if node.op.name in COMMUTATIVE and node.operands[0] is not node.operands[1]:
        return node.operands, node.operands[::-1]
    return (node.operands,)


def _fold(node: Expr) -> Expr | None:
    """The literal that an operator on literals gives by its declaration's own reference, if that is finite."""
    assert node.op is not None
    numbers = [literal(operand) for operand in node.operands]
    if not numbers or any(number is None for number in numbers):
        return None
    if node.op.dim is not broadcast:
        # The reference of a family such as Polygamma holds where its tests draw operands from.
        domains = [node.op.domain_of(place) for place in range(len(numbers))]
        inside = all(d.low <= (x or 0.0) <= d.high for d, x in zip(domains, numbers, strict=True))
        if not inside or any(operand.dim != 1 for operand in node.operands):
            return None
    try:
        with np.errstate(all="ignore"):
            value = np.asarray(node.op.reference(*(np.array([number]) for number in numbers), *node.params))
        return _repeat(constant(value.item()), node.dim) if value.size == 1 else None
    except (ArithmeticError, ValueError, RuleError):
        # Not finite; the functions of `math` say so by raising.
        return None


@functools.cache
def _shapings() -> dict[str, tuple[Shaping, ...]]:
    return {row.operator: tuple(r for r in SHAPINGS if r.operator == row.operator) for row in SHAPINGS}


@functools.cache
def _compiled_rules() -> dict[str, tuple[tuple[Rule, Expr], ...]]:
    """The rules and their patterns, by the operator at the root of the pattern."""
    compiled: dict[str, tuple[tuple[Rule, Expr], ...]] = {}
    for rule in RULES:
        pattern = _compiled(rule.pattern)
        assert pattern.op is not None
        compiled[pattern.op.name] = (*compiled.get(pattern.op.name, ()), (rule, pattern))
    return compiled


@functools.cache
def _compiled(text: str) -> Expr:
    """One side of a rule; a replacement is read when it is first needed."""
    return transform(parse_formula(text, _letters()), _with_literals)


@functools.cache
def _letters() -> tuple[Variable, ...]:
    return parse_variables(("a = Pm(1)", "b = Pm(1)", "c = Pm(1)"))


def _with_literals(node: Expr, operands: tuple[Expr, ...]) -> Expr:
    """Patterns are not rewritten, but -1 is a literal in them too."""
    if node.op is None:
        return node
    rebuilt = with_operands(node, operands)
    return _fold(rebuilt) or rebuilt


def _bindings(pattern: Expr, node: Expr, bound: dict[int, Expr]) -> Iterator[dict[int, Expr]]:
    """Every way in which `node` is the pattern: `bound`, and what more letters stand for, by their positions."""
    if isinstance(pattern, Var):
        before = bound.get(pattern.position)
        if before is None or before is node:
            yield {**bound, pattern.position: node}
    elif isinstance(pattern, Const):
        number = literal(node)
        if number is not None and number.hex() == pattern.value.hex():
            yield bound
    elif pattern.op is node.op and pattern.params == node.params:
        for operands in _orders(node):
            yield from _all_bindings(pattern.operands, operands, bound)


def _all_bindings(
    patterns: tuple[Expr, ...], nodes: tuple[Expr, ...], bound: dict[int, Expr]
) -> Iterator[dict[int, Expr]]:
    if not patterns:
        yield bound
    else:
        for first in _bindings(patterns[0], nodes[0], bound):
            yield from _all_bindings(patterns[1:], nodes[1:], first)


def _substitute(replacement: Expr, bound: dict[int, Expr]) -> Expr:
    def rebuild(node: Expr, operands: tuple[Expr, ...]) -> Expr:
        if isinstance(node, Var):
            return bound[node.position]
        return node if node.op is None else simplify(with_operands(node, operands))

    return transform(replacement, rebuild)
