"""Text, names -> Expr: precedence, lists, derivatives, and wrong formulas with their message and place."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield_kernels.errors import FormulaError
from farfield_kernels.expr import Expr, topological
from farfield_kernels.operation import Spec, read
from farfield_kernels.operators import named_operators
from farfield_kernels.parse import parse_formula, parse_variables
from farfield_kernels.reference import reference
from farfield_kernels.scope import KINDS

VARIABLES = ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)", "A = Pm(6)")


def parse(text: str, variables: tuple[str, ...] = VARIABLES) -> Expr:
    """The graph of a formula over `VARIABLES`."""
    return parse_formula(text, parse_variables(variables))


# ---- meaning -------------------------------------------------------------------------------------------------


class Number:
    """A scalar for which Python's own parser gives a formula its meaning; `|` and `==` are scalar operators."""

    def __init__(self, value: float) -> None:
        self.value = float(value)

    def __eq__(self, other: object) -> Number:  # type: ignore[override]
        return Number(self.value == _value(other))

    __hash__ = None  # type: ignore[assignment]

    def __neg__(self) -> Number:
        return Number(-self.value)


def _value(number: Any) -> float:
    return number.value if isinstance(number, Number) else float(number)


def _binary(meaning: Callable[[float, float], float], turned: bool) -> Callable[[Number, Any], Number]:
    if turned:
        return lambda self, other: Number(meaning(_value(other), self.value))
    return lambda self, other: Number(meaning(self.value, _value(other)))


_MEANINGS = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "truediv": operator.truediv}
_MEANINGS |= {"pow": operator.pow, "or": operator.mul, "ne": operator.ne}
_MEANINGS |= {"lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge}
for _name, _meaning in _MEANINGS.items():
    setattr(Number, f"__{_name}__", _binary(_meaning, turned=False))
    setattr(Number, f"__r{_name}__", _binary(_meaning, turned=True))


PRECEDENCE = (
    "u + v * w", "(u + v) * w", "u - v - w", "u / v / w", "u / v * w", "u * v / w", "u - (v - w)",
    "-u ** 2", "(-u) ** 2", "-u * v", "u * -v", "u - -v", "--u", "-(-u)", "- u + v", "u ** -1", "u ** -2 * v",
    "2 * u ** 2", "-2 ** 2 * u", "u | v + w", "u + v | w", "u | v * w", "-u | v", "(u | v) + w",
    "u | v | w", "1.5 * u", "1e-3 * u", ".5 * u", "2. * u", "1E2 * u", "u * 3 == 3 * u", "u + v == w",
    "u == v | w", "u*v+w*u-v/w", " ( u+v ) ", "\n u\t+\n v ", "u + 2 * (v - 3 * (w + u / 4))", "u ** 0.5 * w",
    "u ** -0.5", "u ** 0", "u ** 1", "u ** 70", "u ** 0.3", "u ** v", "u ** v ** w", "-u ** v", "2 ** u",
    "2 ** -u * v", "u < v", "u > v", "u <= v", "u >= v", "u != v", "u + v < w | 2", "(u < v) + (v < w)",
    "-u < v * w", "u * (u > w) + w * (u <= w)", "u | v >= w | u",
)  # fmt: skip


def test_formulas_mean_what_python_reads() -> None:
    """Precedence and associativity are Python's: the same text evaluated by Python on scalars gives the same."""
    variables = ("u = Pm(1)", "v = Pm(1)", "w = Pm(1)")
    arrays = [np.array([number]) for number in (0.7, 1.3, 0.4)]
    names = {name: Number(array[0]) for name, array in zip("uvw", arrays, strict=True)}
    for text in PRECEDENCE:
        expected = eval(" ".join(text.split()), {}, names)
        (got,) = reference(read(Spec(text, variables)), arrays)
        assert got.item() == pytest.approx(expected.value, rel=1e-14), text


def test_one_formula_has_one_graph() -> None:
    """Spellings of one formula are the same node; other formulas are other nodes."""
    same = [
        ("x + y", "Add(x, y)"), ("x - y", "Subtract(x, y)"), ("x*y", "Mult(x, y)"), ("x/y", "Divide(x, y)"),
        ("-x", "Minus(x)"), ("x**2", "Square(x)"), ("x**3", "Pow(x, 3)"), ("x**0.5", "Sqrt(x)"),
        ("x**-0.5", "Rsqrt(x)"), ("x | y", "Scalprod(x, y)"), ("x == y", "Equal(x, y)"), ("IntCst(2)*x", "2*x"),
        ("Elem(x, 1)", "Extract(x, 1, 1)"), ("-2 * x", "(-2) * x"), ("Sum(Square(x - y))", "SqDist(x,y)"),
        ("x != y", "NotEqual(x, y)"), ("x < y", "LessThan(x, y)"), ("x <= y", "LessOrEqual(x, y)"),
        ("x > y", "LessThan(y, x)"), ("x >= y", "LessOrEqual(y, x)"), ("x ** y", "Powf(x, y)"),
        ("x ** 0.3", "Powf(x, 0.3)"), ("2 ** x", "Powf(2, x)"), ("ClampInt(x, 0, 1)", "Clamp(x, 0, 1)"),
    ]  # fmt: skip
    for left, right in same:
        assert parse(left) is parse(right), f"{left} and {right}"
    assert parse("x - y") is not parse("y - x")


# ---- wrong input ---------------------------------------------------------------------------------------------

# Formula, part of the message, position of the caret.
WRONG_FORMULAS = (
    ("", "the formula is empty", 0),
    ("   ", "the formula is empty", 3),
    ("x + ", "expected a variable, a number, an operator or '(', found the end", 4),
    ("x + z", "no variable is called 'z'; the variables are x, y, a, p, A", 4),
    ("xx * y", "did you mean x?", 0),
    ("Exq(x)", "no operator is called 'Exq'; did you mean Exp?", 0),
    ("Exp", "Exp is an operator: it needs arguments in parentheses", 0),
    ("Exp(x", "expected ')' or ',' in the arguments of Exp, found the end", 5),
    ("Exp(x,)", "expected a variable, a number, an operator or '(', found ')'", 6),
    ("Exp()", "takes 1 formula, got 0 arguments", 0),
    ("Exp(x, y)", "Exp: takes 1 formula, got 2 arguments", 0),
    ("Extract(x, 0)", "takes 1 formula and the integers start, d, got 2 arguments", 0),
    ("(x + y", "expected ')' to close the parenthesis, found the end", 6),
    ("x + y)", "expected an operator or the end, found ')'", 5),
    ("x y", "expected an operator or the end, found 'y'", 2),
    ("2 x", "expected an operator or the end, found 'x'", 2),
    ("x + * y", "found '*'", 4),
    ("+x", "found '+'", 0),
    ("x // 2", "found '/'", 3),
    ("x % 2", "unexpected character '%'", 2),
    ("x @ y", "unexpected character '@'", 2),
    ("x + [0]", "a list such as (2, 3) stands only where an operator takes one", 4),
    ("x + (2, 3)", "a list such as (2, 3) stands only where an operator takes one", 4),
    ("(2, 3)", "a list such as (2, 3) stands only where an operator takes one", 0),
    ("Ind(2, 3)", "a list such as (2, 3) stands only where an operator takes one", 0),
    ("-[0]", "a list such as (2, 3) stands only where an operator takes one", 1),
    ("[[2], 3]", "a list such as (2, 3) stands only where an operator takes one", 1),
    ("Exp([0])", "Exp: a formula is needed, not a list", 4),
    ("Kron(x, y, [3], [3", "expected ',' or ']' in a list, found the end", 18),
    ("Kron(x, y, [3,,], [3])", "found ','", 14),
    ("Kron(x, y, [3) , [3])", "expected ',' or ']' in a list, found ')'", 13),
    ("Kron(x, y, [3], (3) * 1)", "Kron: dimg must be a list such as [2, 3], found Mult(3, 1)", 0),
    ("Kron(x, y, [1.5], [3])", "Kron: dimf must be an integer, found 1.5", 0),
    ("Kron(x, y, [a], [3])", "Kron: dimf must be an integer, found j2", 0),
    ("Kron(x, y, [" + "1," * 13 + "], [3])", "a list has at most 12 entries", 36),
    ("Kron(x, y, [2], [3])", "Kron: dimf [2] is not the shape of 3 components", 0),
    ("Kron(x, y, [-3, -1], [3, 1])", "Kron: dimf [-3, -1] is not the shape of 3 components", 0),
    ("Kron(x, y, [3], [3, 1])", "Kron: dimf has 1 axes and dimg 2", 0),
    ("TensorDot(x, y, [3], [3], [0], [1])", "TensorDot: contg [1] names axes of 0..0, each at most once", 0),
    ("TensorDot(x, y, [3], [3], [0, 0], [0, 0])", "TensorDot: contf [0, 0] names axes of 0..0", 0),
    ("TensorDot(x, A, [3], [6], [0], [0])", "TensorDot: the contracted axes have sizes [3] and [6]", 0),
    ("TensorDot(x, y, [3], [3], [], [], [0])", "TensorDot: permute [0] is not a permutation of 0..1", 0),
    ("TensorDot(x, y, [3], [3])", "as TensorDot(a, b, [dimf], [dimg], [contf], [contg][, [permute]])", 0),
    ("BSpline(x, y, 1)", "BSpline: splines are functions of a scalar, the dim of b is 3", 0),
    ("BSpline(x, a, 2)", "BSpline: splines of degree 2 need at least 4 knots", 0),
    ("BSpline(x, a, -1)", "BSpline: splines of degree -1 need at least 2 knots and a degree >= 0", 0),
    ("SoftDTW_SqDist(x, y, A)", "SoftDTW_SqDist: gamma is a scalar, its dim is 6", 0),
    ("Gather(A, a, 4)", "Gather: a table of 6 components has no rows of 4", 0),
    ("Gather(A, a, 0)", "Gather: a table of 6 components has no rows of 0", 0),
    ("Gather(A, x, 2)", "Gather: the index is a scalar, its dim is 3", 0),
    ("Vi(3)", "in a formula Vi takes (position, dim)", 0),
    ("Var(0, 3)", "in a formula Var takes (position, dim, category)", 0),
    ("x + Vi(0, 4)", "Vi(0, 4) does not agree with x = Vi(0, 3)", 4),
    ("x + Vj(0, 3)", "Vj(0, 3) does not agree with x = Vi(0, 3)", 4),
    ("x + Var(0, 3, 3)", "category 3 is not one of 0 (i), 1 (j), 2 (parameter)", 4),
    ("Vi(5, 3)", "Vi(5, 3) is not a declared variable", 0),
    ("Vi(64, 3)", "position 64 is outside 0..63", 0),
    ("Vi(0.5, 3)", "Vi: position must be an integer, found 0.5", 3),
    ("Vi(5, 0)", "Vi: dim 0 is outside 1..65536", 0),
    ("Vi", "Vi is an operator: it needs arguments in parentheses", 0),
    ("1 + Sum_Reduction(x, 0)", "Sum_Reduction stands only as the whole formula", 4),
    ("Grad(x * y, x * 1, x)", "the derivative is with respect to a variable, not to Mult(i0, 1)", 0),
    ("Grad(x, x, A)", "Grad: the cotangent has dim 6, it must be 3 or 1", 0),
    ("Grad(x * p, p)", "Grad: with respect to a parameter the cotangent, a third formula, must be given", 0),
    ("Grad(x, (x, y), x)", "Grad: a formula is needed, not a list", 8),
    ("Grad(x)", "takes 3 formulas, as Grad(a, b[, c]), got 1 arguments", 0),
    ("Grad(p * Sum(x), x)", "Vj(4, 1) does not agree with A = Pm(4, 6)", 0),
    ("Diff(x, (x, y), (x, y, x))", "Diff: 2 variables have 3 directions", 0),
    ("Diff(x, (x, x), (x, x))", "Diff: each variable is listed once, and at least one is", 0),
    ("Diff(x, (), ())", "Diff: each variable is listed once, and at least one is", 0),
    ("Diff(x, x, A)", "Diff: the direction has dim 6, it must be 3 or 1", 0),
    ("Divergence(x * y, A)", "Divergence: the formula has dim 3, the variable 6", 0),
    ("Laplacian(x, x)", "Laplacian: the formula must be a scalar, its dim is 3", 0),
    ("AdjointOperator(x * x, x, y)", "AdjointOperator: Mult(i0, i0) is not linear in i0", 0),
    ("AdjointOperator(x + y, x, y)", "AdjointOperator: Add(i0, j1) is not linear in i0", 0),
    ("TraceOperator(Exp(x), x)", "TraceOperator: Exp(i0) is not linear in i0", 0),
    ("TraceOperator(MatVecMult(A, x), x)", "TraceOperator: the formula has dim 2, the variable 3", 0),
    ("TraceOperator(x, x, A)", "TraceOperator: the weight has dim 6, it must be 3 or 1", 0),
    ("SumLinOperator(x / y, y)", "SumLinOperator: Divide(i0, j1) is not linear in j1", 0),
    ("SumLinOperator(x, x, A)", "SumLinOperator: the left weight has dim 6, it must be 3 or 1", 0),
    ("SumLinOperator(x, x, 1, A)", "SumLinOperator: the right weight has dim 6, it must be 3 or 1", 0),
    ("Elem(x, [1])", "Elem: m must be an integer, found a list", 0),
    ("Elem(x, 1/0)", "Elem: m must be an integer, found Divide(1, 0)", 0),
    ("Elem(x, 2**60)", "Elem: m is 1.15292e+18, which is outside -2**53..2**53", 0),
    ("x = y", "unexpected character '='", 2),
    ("x[0]", "found '['", 1),
    ("x + A", "Add: dims 3 and 6 differ and neither is 1", 2),
    ("x | A", "Scalprod: dims 3 and 6 differ and neither is 1", 2),
    ("a * Sum(x + y - A)", "Subtract: dims 3 and 6 differ", 14),
    ("MatVecMult(x, Concat(a, a))", "MatVecMult: a matrix of 3 components has no rows of 2", 0),
    ("Elem(x, 3)", "Elem: components 3..3 are not all in 0..2", 0),
    ("Elem(x, -1)", "Elem: components -1..-1 are not all in 0..2", 0),
    ("Elem(x, 0.5)", "Elem: m must be an integer, found 0.5", 0),
    ("Elem(x, a)", "Elem: m must be an integer, found j2", 0),
    ("ElemT(a, 2, 2)", "ElemT: components 2..2 are not all in 0..1", 0),
    ("ElemT(x, 4, 2)", "ElemT: places a scalar, its operand has dim 3", 0),
    ("Extract(x, 1, 3)", "Extract: components 1..3 are not all in 0..2", 0),
    ("Extract(x, 0, 0)", "Extract: components 0..-1 are not all in 0..2", 0),
    ("SumT(x, 3)", "SumT: repeats a scalar, its operand has dim 3", 0),
    ("SumT(a, 0)", "SumT: dim 0 is outside 1..65536", 0),
    ("SumT(a, 1000000000)", "SumT: dim 1000000000 is outside 1..65536", 0),
    ("Pow(x, 20000000)", "Pow: exponent 20000000 is outside -2**24..2**24", 0),
    ("1e999 * x", "the constant inf is not finite", 0),
    ("1e * x", "expected an operator or the end, found 'e'", 1),
    ("x == y == x", "comparisons cannot be chained; use parentheses", 7),
    ("Contract(x, y)", "no operator is called 'Contract'", 0),
    ("nan * x", "no variable is called 'nan'", 0),
    ("x.real", "unexpected character '.'", 1),
    ("__import__('os')", "unexpected character \"'\"", 11),
    ("x*/ #include <x>", "unexpected character '#'", 4),
    ("x; y", "unexpected character ';'", 1),
    ('"x"', "unexpected character '\"'", 0),
    ("x + é", "unexpected character 'é'", 4),
    ("x + \u00a0 y", r"unexpected character '\xa0'", 4),
    ("x\u00a0", r"unexpected character '\xa0'", 1),
    ("x\x1c", r"unexpected character '\x1c'", 1),
    ("x\x00", r"unexpected character '\x00'", 1),
    ("x + \u0661", "unexpected character '\u0661'", 4),
    ("x \\ y", "unexpected character", 2),
)  # fmt: skip


def test_wrong_formulas_say_what_and_where() -> None:
    """Each wrong formula is a FormulaError that names the reason, with the caret under the place."""
    for text, part, position in WRONG_FORMULAS:
        with pytest.raises(FormulaError) as caught:
            parse(text)
        error = caught.value
        assert part in error.message, f"{text!r}: {error.message}"
        assert error.position == position, f"{text!r}: {error.position}"
        assert error.field == "formula"
        if text:
            assert str(error).splitlines()[-1] == "    " + " " * position + "^"


def check_known_or_refused(text: str, read_it: Any) -> None:
    """`read_it` gives something or raises FormulaError with a message; anything else comes out of the test."""
    try:
        outcome = read_it(text)
    except FormulaError as error:
        outcome = str(error)
    assert outcome


WORDS = [
    "x", "y", "a", "p", "A", "(", ")", ",", "(x,y)", "[1]", "Vi(0,3)", "Sum_Reduction(",
    "+", "-", "*", "/", "**", "|", "==", "<", "[", "]", " ", "\n", "0",
    "1", "2", "3", "-1", "0.5", "1e308", "1e9", "x\u00a0", *sorted(named_operators()), *KINDS, "z",
]  # fmt: skip


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(WORDS), max_size=25))
def test_any_words_are_a_formula_or_a_formula_error(words: list[str]) -> None:
    """Texts made of the language's own words either are formulas or raise FormulaError."""
    check_known_or_refused("".join(words), parse)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.data())
def test_any_call_is_a_formula_or_a_formula_error(data: st.DataObject) -> None:
    """Every operator applied to any operands and numbers either is a formula or raises FormulaError."""
    name = data.draw(st.sampled_from(sorted(named_operators())))
    argument = st.sampled_from(["x", "a", "A", "Exp(y)", "0", "1", "2", "-1", "3", "1e9", "0.5", "Sum(x)", "6"])
    arguments = data.draw(st.lists(argument, max_size=4))
    check_known_or_refused(f"{name}({', '.join(arguments)})", parse)


# ---- lists, constants, derivatives ---------------------------------------------------------------------------


def test_one_list_has_three_spellings() -> None:
    """`[2, 3]`, `(2, 3)` and `Ind(2, 3)` are one list, empty or with a comma at its end too."""
    expected = parse("TensorDot(A, x, [2, 3], [3], [1], [0])")
    for text in (
        "TensorDot(A, x, (2, 3), (3,), (1,), (0,))",
        "TensorDot(A, x, Ind(2, 3), Ind(3), Ind(1), Ind(0))",
        "TensorDot(A, x, [2, 3,], [3], [1], [0], [0])",
        "TensorDot(A, x, [1+1, 6/2], [IntCst(3)], [2-1], [0*3])",
    ):
        assert parse(text) is expected, text
    assert parse("TensorDot(x, y, [3], [3], [], ())") is parse("TensorDot(x, y, [3], [3], Ind(), [])")
    assert parse("MatVecMult(A, x)") is expected


def test_integers_may_be_constant_formulas() -> None:
    """Wherever an integer is needed a formula of constants with that value does, also as an exponent."""
    for text, same in (
        ("x**(1+1)", "Square(x)"), ("x**(2-3)", "Pow(x, -1)"), ("x**(1/2)", "Sqrt(x)"), ("x**-(1/2)", "Rsqrt(x)"),
        ("x**IntCst(3)", "Pow(x, 3)"), ("x**2**2", "Pow(x, 4)"), ("Extract(x, 2-1, 1)", "Elem(x, 1)"),
        ("Elem(x, IntCst(1))", "Elem(x, 1)"), ("Elem(x, Floor(1.5))", "Elem(x, 1)"),
        ("Elem(x, -(-2))", "Elem(x, 2)"),
    ):  # fmt: skip
        assert parse(text) is parse(same), text


def test_derivatives_are_formulas() -> None:
    """Each derivative of a formula whose derivative is known is that formula, or has its values."""
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(0.3, 1, shape) for shape in ((4, 3), (5, 3), (5, 1), (1,), (6,))]
    for text, same in (
        ("Grad(Exp(x|y), x, 1)", "Exp(x|y) * y"),
        ("Grad(Sin(x)*y, x, y)", "Cos(x)*y*y"),
        ("Grad(x*x*x, x, 1)", "3*x**2"),
        ("Grad(Sum(Grad(x**3, x, 1)), x, 1)", "6*x"),
        ("Grad(x, y, x)", "0*y"),
        ("Grad(Exp(a), a, a)", "a*Exp(a)"),
        ("Diff(x*y, x, y)", "y*y"),
        ("Diff(x*y*p, (x, y, p), (y, 2, a))", "y*y*p + 2*x*p + x*y*a"),
        ("Diff(x*y, [x], [1])", "y"),
        ("Sum(GradMatrix(x*y, x))", "Sum(y)"),
        ("GradMatrix(MatVecMult(A, x), x)", "A"),
        ("GradMatrix(MatVecMult(A, x)*1, A)", "Concat(Concat(x, Zero(3)), Concat(Zero(3), x))"),
        ("Divergence(x*y*y, x)", "y|y"),
        ("Divergence(Exp(-(x|x))*x, x)", "Exp(-(x|x))*(3 - 2*(x|x))"),
        ("Divergence(Concat(Extract(x,1,2), Elem(x,0)) + x, x)", "3 + 0*a"),
        ("Divergence(Where(y, x, Cos(x)), x)", "3 + 0*a"),
        ("Laplacian(SqDist(x, y), x)", "6 + 0*a"),
        ("Laplacian(Exp(-SqDist(x,y)), x)", "(4*SqDist(x,y) - 6)*Exp(-SqDist(x,y))"),
        ("Laplacian(Exp(a), a)", "Exp(a)"),
        ("TraceOperator(x*y, x)", "Sum(y)"),
        ("TraceOperator(x|y, x)", "Sum(y)"),
        ("TraceOperator(x*y, x, y)", "y|y"),
        ("TraceOperator(-x/a + (y-y)*0 - x, x, 2)", "-6/a - 6"),
        ("AdjointOperator(MatVecMult(A, x), x, Elem(y,1))", "VecMatMult(Elem(y,1)*SumT(1,2), A)"),
        ("AdjointOperator(IfElse(-y, Zero(3), x), x, y)", "y"),
        ("SumLinOperator(MatVecMult(A, x), x)", "Sum(A)"),
        ("SumLinOperator(x*y, x, y, Exp(y))", "y*y|Exp(y)"),
        ("SumLinOperator(SumT(x|y, 4), x)", "4*Sum(y)"),
        ("Factorize(x*y, Exp(x))", "x*y"),
        ("AutoFactorize(x*y)", "x*y"),
    ):
        variables = VARIABLES
        got, expected = (reference(read(Spec(formula, variables)), arrays)[0] for formula in (text, same))
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12, err_msg=text)


def test_derivatives_stand_for_no_more_work_than_needed() -> None:
    """The Laplacian of a function of a distance takes a number of operators that does not grow with the dim."""
    sizes = []
    for dim in (3, 300):
        variables = (f"x = Vi({dim})", f"y = Vj({dim})")
        sizes.append(len(list(topological([parse("Laplacian(Exp(-SqDist(x,y)), x)", variables)]))))
    assert sizes[0] == sizes[1]
    assert sizes[0] < 60
