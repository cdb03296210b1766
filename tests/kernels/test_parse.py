"""Text -> Expr: precedence, every kind of wrong input with its message and place, and text that is hostile."""

from __future__ import annotations

import gc
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield_kernels.errors import FarfieldError, FormulaError
from farfield_kernels.expr import Expr, variable
from farfield_kernels.operation import Spec, read
from farfield_kernels.operators import named_operators
from farfield_kernels.parse import parse_formula, parse_reduction, parse_variables
from farfield_kernels.stages import plan_call

VARIABLES = ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)", "A = Pm(6)")


def parse(text: str, variables: tuple[str, ...] = VARIABLES) -> Expr:
    """The graph of a formula over `VARIABLES`."""
    return parse_formula(text, parse_variables(variables))


def test_variables_may_say_their_position() -> None:
    """`x = Vi(1, 3)` is argument 1; without numbers the order of the declarations counts."""
    explicit = parse_variables(("x = Vi(1, 3)", "y = Vj(0,2)"))
    assert [(v.name, v.position, v.dim, v.axis) for v in explicit] == [("y", 0, 2, "j"), ("x", 1, 3, "i")]
    assert [v.name for v in parse_variables(("  x=Vi( 3 ) ", "y =Vj(3)"))] == ["x", "y"]


# ---- wrong input ---------------------------------------------------------------------------------------------

# Declarations, part of the message, position, field.
WRONG_VARIABLES = (
    (("x = Vk(3)",), "Vk is not one of Vi, Vj, Pm, Var", 4, "variables[0]"),
    (("Vk(3)",), "Vk is not one of Vi, Vj, Pm, Var", 0, "variables[0]"),
    (("x = Var(0, 3)",), "Var takes (position, dim, category)", 8, "variables[0]"),
    (("x = Var(0, 3, 3)",), "category 3 is not one of 0 (i), 1 (j), 2 (parameter)", 8, "variables[0]"),
    (("x = Var(0, 0, 1)",), "Vj: dim 0 is outside 1..65536", 8, "variables[0]"),
    (("x = Vi(3)", "d = Exq(x)"), "no operator is called 'Exq'; did you mean Exp?", 4, "variables[1]"),
    (("d = Square(x)", "x = Vi(3)"), "no variable is called 'x'; the variables are none", 11, "variables[0]"),
    (("x = Vi(3)", "x = Square(x)"), "x is declared twice", 0, "variables[1]"),
    (("x = Vi(3)", "Square(x)"), "a variable is declared like 'x = Vi(3)'", 0, "variables[1]"),
    (("x = Vi(3)", "d = "), "the formula is empty", 4, "variables[1]"),
    (("x = Vi(3)", "d = Vi(0, 2) + 1"), "Vi(0, 2) does not agree with x = Vi(0, 3)", 4, "variables[1]"),
    (("Vi = Vi(3)",), "Vi is the name of an operator", 0, "variables[0]"),
    (("x",), "a variable is declared like 'x = Vi(3)'", 0, "variables[0]"),
    (("x = Vi(3) y",), "in a formula Vi takes (position, dim)", 4, "variables[0]"),
    (("x = Vi(0, 3) y",), "expected an operator or the end, found 'y'", 13, "variables[0]"),
    (("x = Vi(3", ), "expected ')' or ',' in the arguments of Vi, found the end", 8, "variables[0]"),
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
    (("x = Vi(0,3)", "y = Vj(0,3)"), "position 0 is already that of 'x = Vi(0,3)'", 7, "variables[1]"),
    (("x = Vi(0,3)", "y = Vi(0,3)"), "position 0 is already that of 'x = Vi(0,3)'", 7, "variables[1]"),
    (("x = Vi(0,3)", "y = Vj(2,3)"), "no variable has position 1; there are 0, 2", 7, "variables[1]"),
    (("y = Vj(1,3)",), "no variable has position 0; there are 1", 7, "variables[0]"),
    (("x = Vi(" + " " * 20_000 + "3)",), "of 20009 characters are longer than 20000", None, "variables"),
    (tuple(f"x{k} = Vi(3)" for k in range(65)), "position 64 is outside 0..63", 9, "variables[64]"),
    (("x = Vi(3)",) * 129, "129 declarations are more than 128", None, "variables"),
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
    with pytest.raises(FormulaError, match=r"axis is 0 \(over i\), 1 \(over j\) or None \(over both\), got 2"):
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
        grown = []
        for _ in range(3):  # other threads of the test runner allocate too, now and then
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(3):
                refused(spec)
            gc.collect()
            grown.append(tracemalloc.get_traced_memory()[0] - before)
        assert min(grown) < 20_000
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


# ---- what is there -------------------------------------------------------------------------------------------

LANGUAGE = """
    Add Subtract Mult Divide Minus Inv Exp Log XLogX Sin Cos Asin Acos Atan SinXDivX Atan2 Pow Powf Square Sqrt
    Rsqrt Abs Sign Step ReLU Clamp ClampInt DiffClampInt IfElse Mod Round Floor Equal NotEqual LessThan LessOrEqual
    Scalprod Sum SumT Max Min ArgMax ArgMin SqNorm2 Norm2 Normalize SqDist SqNormIso SqNormDiag SymSqNorm
    WeightedSqNorm WeightedSqDist Elem ElemT Extract ExtractT Concat OneHot MatVecMult VecMatMult TensorProd
    TensorDot Kron BSpline SoftDTW_SqDist Factorize AutoFactorize
    IntCst IntInv RatCst Zero
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


def test_every_name_of_the_language_is_there() -> None:
    """No operator or reduction of the language is denied; an unknown one is."""
    assert not [name for name in LANGUAGE if name not in named_operators()]
    assert [parse_reduction(name).name for name in LANGUAGE_REDUCTIONS]
    with pytest.raises(FormulaError, match="no reduction is called 'Summe'"):
        parse_reduction("Summe")


def test_errors_below_the_parser_reach_the_caller_as_formula_errors() -> None:
    """A derivative too deep to write is a FarfieldError of the call; the formula itself is computed."""
    deep = Spec("*".join(["x"] * 1_500), ("x = Vi(1)",))
    assert len(plan_call(deep, "float32", "cpu").stages) == 1
    with pytest.raises(FarfieldError, match="more than 2000 operators are nested"):
        plan_call(deep.vjp((0,)), "float32", "cpu")
