"""Rewriting: each rule evaluated on both sides, folding, and what a rule may never do."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from farfield_kernels import rewrite as rewriting
from farfield_kernels.engine import run
from farfield_kernels.expr import (
    OPERATORS,
    Array,
    Const,
    Core,
    Expr,
    apply,
    broadcast,
    constant,
    topological,
    variable,
)
from farfield_kernels.operation import Spec, read
from farfield_kernels.operators import constants as constant_operators
from farfield_kernels.parse import parse_formula, parse_variables
from farfield_kernels.rewrite import COMMUTATIVE, RULES, SHAPINGS, Rule, literal, rewrite
from farfield_kernels.terms import expand
from kernels.formula_values import values

assert constant_operators  # every operator is declared

SPECIAL = (0.0, -0.0, 1.0, -1.5, 1e300, -1e-300, 5e-324, np.inf, -np.inf, np.nan)
LETTERS = ("a = Vi(1)", "b = Vi(1)", "c = Vi(1)", "d = Vj(1)", "u = Vi(3)", "v = Vi(3)")
ULPS = 4


def parse(text: str, variables: tuple[str, ...] = LETTERS) -> Expr:
    """A formula of a, b, c, of d, which is 1 and lies on the other axis, and of the vectors u and v."""
    return parse_formula(text, parse_variables(variables))


def arguments(numbers: Array) -> list[Array]:
    """Values of the letters: column k of `numbers` (points, 3) is letter k, and vectors are made of all three."""
    return [*(numbers[:, k : k + 1] for k in range(3)), np.ones((1, 1)), numbers, numbers[:, ::-1]]


SPECIAL_POINTS = arguments(np.array(list(itertools.product(SPECIAL, repeat=3))))
RANDOM_POINTS = arguments(np.random.default_rng(0).uniform(-2, 2, (100, 3)))


def at(formula: Expr, points: list[Array]) -> Array:
    """The formula at points: (points, dim)."""
    return values(formula, points, len(points[0]), 1)[:, 0]


def assert_is_safe(before: Expr, after: Expr, removes_terms: bool) -> None:
    """Finite values stay within a few ulps, with the sign of a zero; NaN of NaN data stays."""
    for points in (RANDOM_POINTS, SPECIAL_POINTS):
        left, right = at(before, points), at(after, points)
        finite = np.isfinite(left)
        assert np.isfinite(right[finite]).all()
        assert (np.abs(right[finite] - left[finite]) <= ULPS * np.spacing(np.abs(left[finite]))).all()
        used = [node.params[0] for node in topological([before]) if node.op is None and node.params[1:] == ("i",)]
        from_nan = np.isnan(left) & np.any([np.isnan(points[k]).any(-1, keepdims=True) for k in used], 0)
        if removes_terms:
            assert np.isfinite(right).all()
        else:
            assert np.isnan(right[from_nan]).all()
            # Sums of NumPy start from +0 and those of kernels from the first component.
            if not any(node.op and node.op.name in ("Sum", "Contract") for node in topological([before])):
                assert (np.signbit(left) == np.signbit(right))[finite].all()


def formula_of(rule: Rule) -> str:
    """A formula to which the rule applies."""
    return rule.example or rule.pattern


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.pattern} -> {rule.replacement}")
def test_both_sides_of_a_rule_agree(rule: Rule) -> None:
    """At random points and at zeros, denormals, infinities and NaN, but where a factor is the literal zero."""
    if rule.when is None or "Exp" in rule.pattern:
        assert_is_safe(parse(rule.pattern), parse(rule.replacement), removes_terms=rule.replacement == "0")
    example = parse(formula_of(rule))
    assert_is_safe(example, rewrite(example), removes_terms=rule.replacement == "0")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.pattern)
def test_a_rule_is_applied(rule: Rule) -> None:
    """Rewriting the pattern gives the replacement, for scalars and for vectors, and keeps the dim."""
    assert rewrite(parse(formula_of(rule))) is not parse(formula_of(rule))
    if rule.when is None:
        assert rewrite(parse(rule.pattern)) is rewrite(parse(rule.replacement))
    vectors = ("a = Vi(3)", "b = Vi(3)", "c = Vi(3)", "d = Vj(3)")
    formula = parse(formula_of(rule), vectors)
    assert rewrite(formula).dim == formula.dim


@pytest.mark.parametrize(
    "text", [example for row in SHAPINGS for example in row.examples], ids=lambda example: example
)
def test_rules_about_dims_agree_and_are_applied(text: str) -> None:
    """Every example changes, keeps its dim and its value, and has fewer components to compute or as many."""
    before = parse(text)
    after = rewrite(before)
    assert after is not before
    assert after.dim == before.dim
    assert_is_safe(before, after, removes_terms=literal(after) == 0)
    written = [sum(node.dim for node in topological([formula])) for formula in (before, after)]
    assert written[1] <= written[0]


@pytest.mark.parametrize("name", sorted(COMMUTATIVE))
def test_operands_that_a_pattern_may_swap_commute(name: str) -> None:
    """Bit for bit at every pair of special values but for the sign of a zero, which only extrema choose."""
    a, b = parse("a"), parse("b")
    left, right = at(apply(name, a, b), SPECIAL_POINTS), at(apply(name, b, a), SPECIAL_POINTS)
    assert np.array_equal(left, right, equal_nan=True)


def test_operands_are_matched_in_either_order() -> None:
    """A literal or a sign is found on both sides of a sum and of a product, below another operator too."""
    for left, right in (
        ("a*0", "0*a"),
        ("a*1", "1*a"),
        ("(-b) + a", "a - b"),
        ("a*(-b)", "-(a*b)"),
        ("Square(0 + a)", "Square(a)"),
        ("(a*3)*2", "6*a"),
    ):
        assert rewrite(parse(left)) is rewrite(parse(right))


def test_broadcasts_are_kept() -> None:
    """A rule that drops the wide operand leaves a vector of the same dim and value."""
    s, v = variable(0, 1, "i"), variable(1, 3, "i")
    arrays = [np.array([[2.0]]), np.array([[1.0, 2.0, 3.0]])]
    for formula in (apply("SumT", constant(1.0), 3) * s, s + apply("SumT", constant(0.0), 3), 0 * v, v * 0 + s):
        rewritten = rewrite(formula)
        assert rewritten.dim == 3
        assert np.array_equal(values(rewritten, arrays, 1, 1), values(formula, arrays, 1, 1))


FOLDABLE = sorted(
    name for name, operator in OPERATORS.items() if isinstance(operator, Core) and operator.dim is broadcast
)


@pytest.mark.parametrize("name", FOLDABLE)
def test_constants_are_folded(name: str) -> None:
    """An operator on literals becomes the number NumPy gives; what is not finite is left for the kernel."""
    operator = OPERATORS[name]
    for numbers in itertools.product((0.0, -0.0, 1.5, -2.0, 1e200), repeat=operator.arity):
        node = apply(name, *map(constant, numbers))
        try:
            with np.errstate(all="ignore"):
                expected = float(np.asarray(operator.reference(*(np.array([n]) for n in numbers))).item())
        except (ValueError, OverflowError):
            expected = np.inf  # what the functions of `math` refuse
        folded = rewrite(node)
        if np.isfinite(expected):
            assert isinstance(folded, Const)
            assert folded.value.hex() == expected.hex(), f"{name}{numbers}"
        else:
            assert not isinstance(folded, Const)


def test_folding_reads_literals_of_any_dim_and_integer_arguments() -> None:
    """Repeated literals fold to a repeated literal; Pow and Round fold; references out of their range do not."""
    assert rewrite(parse("2*3*a - (1-1)")) is parse("6*a")
    assert rewrite(parse("Exp(SumT(0, 3)) + SumT(1, 3)")) is apply("SumT", constant(2.0), 3)
    assert rewrite(parse("Pow(1.5, 3)")) is constant(3.375)
    assert rewrite(parse("Round(1.25, 1)")) is constant(1.2)
    assert rewrite(parse("SphericalBessel(500, 0)")) is parse("SphericalBessel(500, 0)")
    assert rewrite(parse("Polygamma(0-70.5, 1)")) is parse("Polygamma(-70.5, 1)")


def test_what_is_not_a_rule_stays() -> None:
    """Nothing that hides NaN, moves an overflow, turns the sign of a zero or rounds more than the formula does."""
    for text in (
        "a - a", "a / a", "a / 0", "0 / a", "a * b", "a + 1", "Log(0)*b", "1 / (a * 1.5)", "a + 0", "0 - a",
        "-(a - b)", "Square(Sqrt(a))", "Exp(Log(a))", "Log(Exp(a))", "a*b + a*c", "Sum(a*u)", "-u + v - u",
        "a / 3", "1e200 * (1e200 * a)", "1e-200 * (1e-200 * a)", "Exp(a) * Exp(b)", "Exp(a) * Exp(d)",
        "b * (Pow(a, 0) - 1)", "b * And(a, 0)", "Powf(a, 5)", "Powf(a, 0.5)", "Pow(a, 3)",
        "Where(a, b, c)", "2*a - 2*a", "Concat(Extract(u,1,2), a)", "Concat(Extract(u,0,1), Extract(u,2,1))",
    ):  # fmt: skip
        formula = parse(text)
        assert rewrite(formula) is (parse("v - u - u") if text == "-u + v - u" else formula), text


def random_formula(rng: np.random.Generator, size: int) -> Expr:
    """A graph of `size` operators on the letters and on literals that rules look for."""
    nodes = [parse(letter) for letter in "abcuv"] + [constant(x) for x in (0.0, -0.0, 1.0, -1.0, 2.0, 0.5)]
    nodes.append(apply("Zero", 3))
    binary = ("Add", "Subtract", "Mult", "Divide", "Maximum", "And", "Concat", "Scalprod")
    unary = ("Minus", "Square", "Abs", "Exp", "Sum")
    while size:
        chosen = [nodes[k] for k in rng.integers(max(0, len(nodes) - 30), len(nodes), 3)]
        kind = rng.integers(4)
        if kind == 0:
            node = apply(str(rng.choice(unary)), chosen[0])
        elif kind == 1:
            node = apply("SumT", apply("Sum", chosen[0]), 3)
        else:
            name = str(rng.choice(binary))
            if name not in ("Concat", "Scalprod") and len({x.dim for x in chosen[:2]} - {1}) > 1:
                chosen[:2] = [apply("Sum", x) for x in chosen[:2]]
            if name == "Scalprod" and chosen[0].dim != chosen[1].dim:
                chosen[1] = apply("SumT", apply("Sum", chosen[1]), chosen[0].dim)
            node = apply(name, *chosen[:2])
        if node.dim > 12:
            node = apply("Extract", node, int(rng.integers(3)), 3)
        nodes.append(node)
        size -= 1
    return nodes[-1]


@pytest.mark.parametrize("seed", range(60))
def test_rewriting_twice_changes_nothing_more(seed: int) -> None:
    """The rewritten formula is a fixed point: of random graphs, and of the seed's derivatives."""
    rng = np.random.default_rng(seed)
    once = rewrite(random_formula(rng, 40))
    assert rewrite(once) is once
    spec = Spec("Square(p-a)*Exp(x+y)", ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)")).vjp((0, 1, 3))
    for term in expand(read(spec.vjp((seed % 4,)))):
        once = rewrite(term.formula)
        assert rewrite(once) is once


def test_each_node_is_simplified_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work grows with the number of nodes, however much they share."""
    calls = 0
    original = rewriting.simplify

    def counted(node: Expr) -> Expr:
        nonlocal calls
        calls += 1
        return original(node)

    monkeypatch.setattr(rewriting, "simplify", counted)
    formula = parse("a")
    for k in range(450):
        formula = -(formula * (-1 - formula)) * constant(1.0 + k)
    count = len(list(topological([formula])))
    rewrite(formula)
    assert count > 1700
    assert calls < 8 * count


def test_deep_selections_are_rewritten_without_recursion() -> None:
    """A component of a thousand nested Concats is found."""
    letters = [variable(k, 1, "i") for k in range(900)]
    joined = letters[0]
    for letter in letters[1:]:
        joined = apply("Concat", joined, letter)
    assert rewrite(apply("Extract", joined, 1, 1)) is letters[1]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1/(0-a)", 0.0), ("1/(a+0)", -0.0), ("1/(0+a)", -0.0), ("1/(a-0)", -0.0), ("1/(a-(-0))", -0.0)],
)
def test_the_sign_of_zero_survives(text: str, value: float) -> None:
    """As in NumPy, -0 + 0 is +0 and so is 0 - 0: its inverse tells."""
    spec = Spec(text, ("a = Vi(1)",))
    (found,) = run(spec, [np.array([[value]])]).arrays
    with np.errstate(all="ignore"):
        assert found[0, 0] == eval(text.replace("(-0)", "(-0.0)"), {"a": np.float64(value)})


@pytest.mark.parametrize(
    "wrong",
    [
        Rule("a + 0", "a"),
        Rule("a - a", "0 * a"),
        Rule("a * b + a * c", "a * (b + c)"),
        Rule("Square(Sqrt(a))", "a"),
        Rule("0 / a", "0 * a"),
        Rule("Log(Exp(a))", "a"),
        Rule("-(a - b)", "b - a"),
        Rule("Exp(a) * Exp(b)", "Exp(a - b)"),
    ],
    ids=lambda rule: rule.pattern,
)
def test_an_unsafe_rule_is_noticed(wrong: Rule) -> None:
    """The check of both sides fails for identities that hold of real numbers alone."""
    with pytest.raises(AssertionError):
        test_both_sides_of_a_rule_agree(replace(wrong, when=None))
