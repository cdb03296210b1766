"""Text -> Expr: precedence, every kind of wrong input with its message and place, and text that is hostile."""

from __future__ import annotations

import gc
import operator
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield_kernels import engine
from farfield_kernels.errors import FarfieldError, FormulaError, NotYetAvailable
from farfield_kernels.expr import Expr, variable
from farfield_kernels.operation import Spec, read
from farfield_kernels.operators import PLANNED_OPERATORS, PLANNED_REDUCTIONS, named_operators
from farfield_kernels.parse import parse_formula, parse_reduction, parse_variables
from farfield_kernels.reductions import REDUCTIONS
from farfield_kernels.reference import reference

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


def test_variables_may_say_their_position() -> None:
    """`x = Vi(1, 3)` is argument 1; without numbers the order of the declarations counts."""
    explicit = parse_variables(("x = Vi(1, 3)", "y = Vj(0,2)"))
    assert [(v.name, v.position, v.dim, v.axis) for v in explicit] == [("y", 0, 2, "j"), ("x", 1, 3, "i")]
    assert [v.name for v in parse_variables(("  x=Vi( 3 ) ", "y =Vj(3)"))] == ["x", "y"]


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
    ("x + [0]", "found '['", 4),
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
    ("ElemT(x, 4, 2)", "ElemT: components 2..4 are not all in 0..3", 0),
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


# Declarations, part of the message, position, field.
WRONG_VARIABLES = (
    (("x = Vk(3)",), "Vk is not one of Vi, Vj, Pm", 4, "variables[0]"),
    (("x",), "a variable is declared like 'x = Vi(3)'", 0, "variables[0]"),
    (("x = Vi(3) y",), "a variable is declared like", 0, "variables[0]"),
    (("x = Vi(3", ), "a variable is declared like", 0, "variables[0]"),
    (("3 = Vi(3)",), "a variable is declared like", 0, "variables[0]"),
    (("x\u00a0= Vi(3)",), "a variable is declared like", 0, "variables[0]"),
    (("x = Vi()",), "expected integers, found ''", 7, "variables[0]"),
    (("x = Vi(3.0)",), "expected integers, found '3.0'", 7, "variables[0]"),
    (("x = Vi(1_0)",), "expected integers", 7, "variables[0]"),
    (("x = Vi(\u0663)",), "expected integers", 7, "variables[0]"),
    (("x = Vi(0)",), "Vi: dim 0 is outside 1..65536", 7, "variables[0]"),
    (("x = Vi(-3)",), "Vi: dim -3 is outside 1..65536", 7, "variables[0]"),
    (("x = Vi(1000000000)",), "Vi: dim 1000000000 is outside 1..65536", 7, "variables[0]"),
    (("x = Vi(1,2,3)",), "Vi takes (dim) or (position, dim)", 7, "variables[0]"),
    (("x = Vi(64,3)",), "position 64 is outside 0..63", 7, "variables[0]"),
    (("a = Vi(3)", "x = Vi(-1,3)"), "position -1 is outside 0..63", 7, "variables[1]"),
    (("x = Vi(3)", "x = Vj(3)"), "x is declared twice", 0, "variables[1]"),
    (("Exp = Vi(3)",), "Exp is the name of an operator", 0, "variables[0]"),
    (("Gather = Vi(3)",), "Gather is the name of an operator", 0, "variables[0]"),
    (("x = Vi(0,3)", "y = Vj(0,3)"), "positions [0, 0] must be 0..1, each once", None, "variables"),
    (("x = Vi(0,3)", "y = Vj(2,3)"), "positions [0, 2] must be 0..1, each once", None, "variables"),
    (("x = Vi(" + " " * 200 + "3)",), "a declaration of 209 characters is longer than 200", 0, "variables[0]"),
    (tuple(f"x{k} = Vi(3)" for k in range(65)), "65 variables are more than 64", None, "variables"),
)  # fmt: skip


def test_wrong_variables_say_what_and_where() -> None:
    """Each wrong declaration is a FormulaError that names reason and place; 64 right ones are read."""
    for texts, part, position, field in WRONG_VARIABLES:
        with pytest.raises(FormulaError) as caught:
            parse_variables(texts)
        error = caught.value
        assert part in error.message, f"{texts}: {error.message}"
        assert (error.position, error.field) == (position, field), f"{texts}: {error.position}, {error.field}"
    assert len(parse_variables(tuple(f"x{k} = Vi(65536)" for k in range(64)))) == 64


def test_wrong_reductions_and_axes() -> None:
    """Unknown reductions name the nearest one and those there are; the `_Reduction` spelling is read."""
    assert parse_reduction("LogSumExp_Reduction") is parse_reduction("LogSumExp")
    with pytest.raises(
        FormulaError, match=r"no reduction is called 'LogSunExp'; did you mean LogSumExp.*ArgMax"
    ) as caught:
        parse_reduction("LogSunExp")
    assert caught.value.field == "reduction"
    for name in ("", "sum", "Sum_Reduction_Reduction", "\x1b[2J", "S" * 10_000_000):
        with pytest.raises(FormulaError) as caught:
            parse_reduction(name)
        assert "\x1b" not in caught.value.message
        assert len(caught.value.message) < 400
    with pytest.raises(FormulaError, match="axis is 0 or 1, got 2"):
        read(Spec("x", VARIABLES, axis=2))


# ---- hostile input -------------------------------------------------------------------------------------------

HOSTILE = {
    "10 MB of x": "x" * 10_000_000,
    "10 MB of digits": "9" * 10_000_000,
    "a formula as long as allowed, of digits": "9" * 20_000,
    "a million parentheses": "(" * 1_000_000 + "x" + ")" * 1_000_000,
    "ten thousand parentheses": "(" * 10_000,
    "ten thousand signs": "-" * 10_000 + "x",
    "a tower of powers": "x" + "**x" * 6_000,
    "a deep chain": "x" + "+x" * 9_000,
    "a deep chain of calls": "Exp(" * 4_000 + "x" + ")" * 4_000,
    "a dim of 1e9": "SumT(a, 1000000000)",
    "a huge dim": "SumT(a, 1e308)",
    "a huge place": "ElemT(a, 65536, 1e300)",
    "a huge exponent": "Pow(x, 1e300)",
    "an integer hidden in an exponential graph": f"Elem(x, {'SqNorm2(' * 70}x{')' * 70})",
    "wide tensors": "TensorProd(SumT(a,60000),SumT(a,60000))",
    "a million commas": "Exp(" + "," * 1_000_000,
    "names alike": "+".join(f"x{k}" for k in range(3_000)),
    "control characters": "x" + "".join(map(chr, range(1, 32))),
    "an escape sequence": "x + \x1b[2J",
    "quotes and a comment": "x*/ #include </etc/passwd> \"'`",
    "lines": "x\n\n\n#define x y\n",
    "a surrogate": "x + \ud800",
    "an emoji": "\U0001f600",
    "right-to-left": "\u202e x",
    "a template": "{prelude} $a @PRELUDE@ %s",
}


def refused(spec: Spec) -> str:
    """The text of the error that reading raises."""
    try:
        read(spec)
    except FormulaError as error:
        return str(error)
    raise AssertionError("was read")


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_text_is_refused_fast_and_without_memory(what: str) -> None:
    """Each is a FormulaError within 50 ms, prints no control character and leaves no memory behind."""
    spec = Spec(HOSTILE[what], VARIABLES)
    times = []
    for _ in range(5):
        started = time.thread_time()
        shown = refused(spec)
        times.append(time.thread_time() - started)
    assert min(times) < 0.05, f"{min(times) * 1e3:.0f} ms"
    assert len(shown) < 1500
    assert all(c.isprintable() or c == "\n" for c in shown)
    tracemalloc.start()
    try:
        refused(spec)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(3):
            refused(spec)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()


def test_a_large_but_allowed_formula_is_read() -> None:
    """The valid neighbour of the hostile ones: 79 parentheses, 1,900 operators."""
    assert parse("(" * 79 + "x" + ")" * 79) is variable(0, 3, "i")
    assert parse("x" + "+x" * 1_900).depth == 1_901


def check_known_or_refused(text: str, read_it: Any) -> None:
    """`read_it` gives something or raises FormulaError with a message; anything else comes out of the test."""
    try:
        outcome = read_it(text)
    except FormulaError as error:
        outcome = str(error)
    assert outcome


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.text(max_size=60))
def test_any_text_is_a_formula_or_a_formula_error(text: str) -> None:
    """No text, of any characters, raises anything but FormulaError."""
    check_known_or_refused(text, parse)
    check_known_or_refused(text, lambda t: parse_variables((t,)))
    check_known_or_refused(text, parse_reduction)


WORDS = [
    "x", "y", "a", "p", "A", "(", ")", ",", "+", "-", "*", "/", "**", "|", "==", "<", "[", "]", " ", "\n", "0",
    "1", "2", "3", "-1", "0.5", "1e308", "1e9", "x\u00a0", *sorted(named_operators()), "Gather", "Vi", "z",
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


# ---- what is there and what is planned -----------------------------------------------------------------------

LANGUAGE = """
    Add Subtract Mult Divide Minus Inv Exp Log XLogX Sin Cos Asin Acos Atan SinXDivX Atan2 Pow Powf Square Sqrt
    Rsqrt Abs Sign Step ReLU Clamp ClampInt DiffClampInt IfElse Mod Round Floor Equal NotEqual LessThan LessOrEqual
    Scalprod Sum SumT Max Min ArgMax ArgMin SqNorm2 Norm2 Normalize SqDist SqNormIso SqNormDiag SymSqNorm
    WeightedSqNorm WeightedSqDist Elem ElemT Extract ExtractT Concat OneHot MatVecMult VecMatMult TensorProd
    TensorDot Kron BSpline SoftDTW_SqDist Factorize AutoFactorize
    IntCst IntInv RatCst Zero Ind Var Vi Vj Pm
    ComplexReal ComplexImag ComplexAbs ComplexSquareAbs ComplexAngle Real2Complex Imag2Complex ComplexExp1j Conj
    ComplexExp ComplexAdd ComplexSubtract ComplexMult ComplexDivide ComplexSum ComplexSumT ComplexRealScal
    Grad Diff GradMatrix Divergence Laplacian TraceOperator AdjointOperator SumLinOperator
    Tanh Sinh Cosh Sigmoid Softplus Erf Erfc Lgamma Digamma Expm1 Log1p Log2 Log10 Exp2 Cbrt Ceil Trunc Maximum
    Minimum And Or Not Hypot Where Cross Norm1 NormInf CosSim Softmax Gather I J
""".split()
LANGUAGE_REDUCTIONS = """
    Sum LogSumExp LogSumExpWeight SumSoftMaxWeight SoftMax Max_SumShiftExp Max_SumShiftExpWeight Min Max ArgMin
    ArgMax Min_ArgMin MinArgMin Max_ArgMax MaxArgMax KMin ArgKMin KMin_ArgKMin KMinArgKMin Mean Var Std Prod
    Count Any All KMax ArgKMax KMax_ArgKMax
""".split()


def test_every_name_of_the_language_is_there_or_planned() -> None:
    """No operator or reduction of the language is denied, and none is both there and planned."""
    assert not [name for name in LANGUAGE if name not in named_operators() and name not in PLANNED_OPERATORS]
    assert not [name for name in LANGUAGE_REDUCTIONS if name not in REDUCTIONS and name not in PLANNED_REDUCTIONS]
    assert not named_operators().keys() & PLANNED_OPERATORS
    assert not REDUCTIONS.keys() & PLANNED_REDUCTIONS


def test_planned_names_are_not_yet_available() -> None:
    """A planned operator or reduction says so, at its place; an unknown one is a plain FormulaError."""
    for name in sorted(PLANNED_OPERATORS):
        with pytest.raises(NotYetAvailable, match=f"{name} is known but not yet available") as caught:
            parse(f"x + {name}(x)")
        assert caught.value.position == 4
    for name in sorted(PLANNED_REDUCTIONS):
        with pytest.raises(NotYetAvailable, match=f"the reduction {name} is known but not yet available"):
            parse_reduction(name)
    with pytest.raises(FormulaError) as unknown:
        parse("Sinus(x)")
    assert not isinstance(unknown.value, NotYetAvailable)


def test_errors_below_the_parser_reach_the_caller_as_formula_errors() -> None:
    """A derivative too deep to write is a FarfieldError of the call; the formula itself is computed."""
    deep = Spec("*".join(["x"] * 1_500), ("x = Vi(1)",))
    assert len(engine.plan_call(deep, "float32", "cpu").stages) == 1
    with pytest.raises(FarfieldError, match="more than 2000 operators are nested"):
        engine.plan_call(deep.vjp((0,)), "float32", "cpu")
