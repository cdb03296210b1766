"""Rewriting: each rule evaluated on both sides, folding, and what a rule may never do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from farfield_kernels.engine import run
from farfield_kernels.expr import Array, Const, Expr, apply, constant, variable
from farfield_kernels.operation import Spec
from farfield_kernels.parse import parse_formula, parse_variables
from farfield_kernels.reference import _evaluate
from farfield_kernels.rewrite import FOLDED, RULES, Rule, rewrite

SPECIAL = (0.0, -0.0, 1.0, -1.5, 1e300, -1e-300, np.inf, -np.inf, np.nan)
LETTERS = ("a = Vi(1)", "b = Vi(1)", "c = Vi(1)")


def parse(text: str, variables: tuple[str, ...] = LETTERS) -> Expr:
    """A formula of a, b, c."""
    return parse_formula(text, parse_variables(variables))


def values(formula: Expr, arrays: list[Array]) -> Array:
    """The formula by NumPy, one row per row of the arrays."""
    with np.errstate(all="ignore"):
        result = _evaluate(formula, arrays, "i", range(len(arrays[0])), 1)
    return np.broadcast_to(result, (len(arrays[0]), 1, formula.dim))[:, 0]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.pattern} -> {rule.replacement}")
def test_both_sides_of_a_rule_agree(rule: Rule) -> None:
    """At random points exactly; at zeros, infinities and NaN too, but where a factor is the literal zero."""
    pattern, replacement = parse(rule.pattern), parse(rule.replacement)
    random = [np.random.default_rng(k).uniform(-2, 2, (100, 1)) for k in range(3)]
    assert np.array_equal(values(pattern, random), values(replacement, random))
    special = [np.array(column)[:, None] for column in zip(*itertools.product(SPECIAL, repeat=3), strict=True)]
    left, right = values(pattern, special), values(replacement, special)
    if rule.replacement == "0":
        finite = np.isfinite(left)
        assert np.array_equal(left[finite], right[finite])
        assert np.isfinite(right).all()
    else:
        assert np.array_equal(left, right, equal_nan=True)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.pattern)
def test_a_rule_is_applied(rule: Rule) -> None:
    """Rewriting the pattern gives the replacement, for scalars and for vectors, and keeps the dim."""
    assert rewrite(parse(rule.pattern)) is rewrite(parse(rule.replacement))
    vectors = ("a = Vi(3)", "b = Vi(3)", "c = Vi(3)")
    assert rewrite(parse(rule.pattern, vectors)).dim == 3


def test_broadcasts_are_kept() -> None:
    """A rule that drops the wide operand leaves a vector of the same dim and value."""
    s, v = variable(0, 1, "i"), variable(1, 3, "i")
    arrays = [np.array([[2.0]]), np.array([[1.0, 2.0, 3.0]])]
    for formula in (apply("SumT", constant(1.0), 3) * s, s + apply("SumT", constant(0.0), 3), 0 * v, v * 0 + s):
        rewritten = rewrite(formula)
        assert rewritten.dim == 3
        assert np.array_equal(values(rewritten, arrays), values(formula, arrays))


def test_constants_are_folded() -> None:
    """Operators on constants become the number NumPy gives; what overflows is left for the kernel to compute."""
    points = (0.0, -0.0, 1.5, -2.0, 1e200)
    for name in FOLDED:
        arity = apply(name, *[constant(1.0)] * (1 if name in ("Minus", "Square") else 2)).op.arity  # type: ignore[union-attr]
        for numbers in itertools.product(points, repeat=arity):
            node = apply(name, *map(constant, numbers))
            assert node.op is not None
            with np.errstate(all="ignore"):
                expected = float(node.op.reference(*map(np.float64, numbers)))
            folded = rewrite(node)
            if np.isfinite(expected):
                assert isinstance(folded, Const)
                assert folded.value.hex() == expected.hex(), f"{name}{numbers}"
            else:
                assert folded is node
    assert rewrite(parse("2*3*a - (1-1)")) is parse("6*a")


def test_what_is_not_a_rule_stays() -> None:
    """Neither a - a nor a / a is simplified: both would hide a NaN of the data."""
    for text in ("a - a", "a / a", "a / 0", "a * b", "a + 1", "Log(0)*b", "1 / (a * 1.5)"):
        assert rewrite(parse(text)) is parse(text)


def test_rewriting_twice_changes_nothing_more() -> None:
    """A rewritten formula is a fixed point."""
    for text in ("-(-(a+0))*1 + 0*b", "(-a)*(-b) - (-c)", "(0 - a) * (1 * b) / 1", "Exp(0 + a*(-b))*(2*3)"):
        once = rewrite(parse(text))
        assert rewrite(once) is once


@pytest.mark.parametrize(
    ("text", "value"), [("1/(0-a)", 0.0), ("1/(a+0)", -0.0), ("1/(0+a)", -0.0), ("1/(a-0)", -0.0)]
)
def test_the_sign_of_zero_survives(text: str, value: float) -> None:
    """As in NumPy, -0 + 0 is +0 and so is 0 - 0: its inverse tells."""
    spec = Spec(text, ("a = Vi(1)",))
    (found,) = run(spec, [np.array([[value]])]).arrays
    with np.errstate(all="ignore"):
        assert found[0, 0] == eval(text, {"a": np.float64(value)})
