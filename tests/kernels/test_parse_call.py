"""Words -> Parsed: every spelling of a call, its wrong neighbours, and short words for long computations."""

from __future__ import annotations

import gc
import re
import time
from types import SimpleNamespace

import pytest

from farfield_kernels.errors import FormulaError
from farfield_kernels.expr import Expr, _nodes
from farfield_kernels.parse import Parsed, parse_call, parse_formula, parse_variables
from farfield_kernels.reductions import REDUCTIONS

VARIABLES = ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)", "A = Pm(6)")


def parse(text: str) -> Expr:
    """The graph of a formula over `VARIABLES`."""
    return parse_formula(text, parse_variables(VARIABLES))


def listed(parsed: Parsed) -> list[tuple[str, int, int, str]]:
    """The arguments of a call."""
    return [(found.name, found.position, found.dim, found.axis) for found in parsed.variables]


def test_every_spelling_of_an_argument() -> None:
    """Named or not, with or without position, by category, or inline in a formula: all declare the same."""
    expected = [("i", 3), ("j", 2), ("p", 1)]
    spellings: tuple[tuple[str, ...], ...] = (
        ("x = Vi(3)", "y = Vj(2)", "p = Pm(1)"),
        ("x = Vi(0, 3)", "y = Vj(1,2)", "p=Pm( 2 , 1 )"),
        ("p = Pm(2, 1)", "x = Vi(0, 3)", "y = Vj(1, 2)"),
        ("x = Var(0, 3, 0)", "y = Var(1, 2, 1)", "p = Var(2, 1, 2)"),
        ("Vi(3)", "Vj(2)", "Pm(1)"),
        ("Vi(0, 3)", "Var(2, 1, 2)", "Vj(1, 2)"),
        ("Vi(3)", "y = Vj(2)", "s = Sum(y)", "Pm(1)"),
        ("Vi(3)",),
        (),
    )
    formula = "Sum(Vi(0, 3)) * Vj(1,2) + Var(2, 1, 2)"
    for declarations in spellings:
        parsed = parse_call(formula, declarations, "Sum", 1)
        assert [(axis, dim) for _, _, dim, axis in listed(parsed)] == expected, declarations
        assert [position for _, position, _, _ in listed(parsed)] == [0, 1, 2], declarations
        assert parsed.formula is parse_call("Sum(x) * y + p", spellings[0], "Sum", 1).formula
    assert [name for name, *_ in listed(parse_call(formula, ("x = Vi(3)",), "Sum", 1))] == [
        "x",
        "Vj(1, 2)",
        "Pm(2, 1)",
    ]


def test_intermediate_formulas_are_no_arguments() -> None:
    """A declared formula stands for itself, takes no position, and may use those before it."""
    texts = ("d = Vi(1, 3) - Vj(0, 3)", "q = d | d", "w = Pm(2, 1)")
    parsed = parse_call("Exp(-q * w) * d", texts, "Sum", 0)
    plain = parse_call(
        "Exp(-((x-y) | (x-y)) * w) * (x-y)", ("x = Vi(1,3)", "y = Vj(0,3)", "w = Pm(2,1)"), "Sum", 0
    )
    assert parsed.formula is plain.formula
    assert [found.position for found in parsed.variables] == [0, 1, 2]
    assert [v.name for v in parse_variables(("x = Vi(3)", "s = x + x", "y = Vj(3)"))] == ["x", "y"]
    assert [v.position for v in parse_variables(("x = Vi(3)", "s = x + x", "y = Vj(3)"))] == [0, 1]


def test_the_cotangent_of_grad_is_an_argument() -> None:
    """Grad without its third formula takes the argument after those of the formula, on the other axis."""
    parsed = parse_call("Grad(Exp(-SqDist(x, y)), y)", ("x = Vi(3)", "y = Vj(3)"), "Sum", 1)
    assert listed(parsed)[2] == ("Vi(2, 1)", 2, 1, "i")
    named = parse_call("Grad(Exp(-SqDist(x, y)), y, e)", ("x = Vi(3)", "y = Vj(3)", "e = Vi(1)"), "Sum", 1)
    assert parsed.formula is named.formula
    declared = parse_call("Grad(Exp(-SqDist(x, y)), y)", ("x = Vi(3)", "y = Vj(3)", "e = Vi(1)"), "Sum", 1)
    assert listed(declared)[2] == ("e", 2, 1, "i")


def test_a_reduction_in_the_formula() -> None:
    """`Sum_Reduction(f, 0)` keeps i, that is, sums over axis 1; a count comes second, weights come last."""
    plain = parse_call("x * y", VARIABLES, "Sum", 1)
    for text, axis in (("Sum_Reduction(x * y, 0)", 1), (" Sum_Reduction(x*y,2-1) ", 0)):
        parsed = parse_call(text, VARIABLES, None, None)
        assert (parsed.formula, parsed.reduction, parsed.axis) == (plain.formula, plain.reduction, axis)
        assert parsed.opt_arg is None
        assert parsed.formula2 is None
    assert parse_call("x", VARIABLES, "Sum_Reduction", 1).reduction is plain.reduction
    named = parse_call("Sum_Reduction * x", ("Sum_Reduction = Pm(1)", "x = Vi(3)"), "Sum", 1)
    assert [name for name, *_ in listed(named)] == ["Sum_Reduction", "x"]


def test_reductions_with_counts_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reduction in the formula takes is what its declaration says."""
    for name, count, weights in (("Kept", True, "none"), ("Weighed", False, "optional"), ("Both", True, "needed")):
        fake = SimpleNamespace(name=name, takes_count=count, weights=weights)
        monkeypatch.setitem(REDUCTIONS, name, fake)  # type: ignore[arg-type]
    kept = parse_call("Kept_Reduction(x, 5, 0)", VARIABLES, None, None)
    assert (kept.opt_arg, kept.axis, kept.formula2) == (5, 1, None)
    weighed = parse_call("Weighed_Reduction(a, 1, y)", VARIABLES, None, None)
    assert (weighed.opt_arg, weighed.axis, weighed.formula2) == (None, 0, parse("y"))
    assert parse_call("Weighed_Reduction(a, 1)", VARIABLES, None, None).formula2 is None
    both = parse_call("Both_Reduction(a, 2, 1, y)", VARIABLES, None, None)
    assert (both.opt_arg, both.axis, both.formula2) == (2, 0, parse("y"))
    given = parse_call("a", VARIABLES, "Both", None, "y", 2)
    assert (given.opt_arg, given.axis, given.formula2) == (2, None, parse("y"))
    for text, part in (
        ("Kept_Reduction(x, 0)", "write Kept_Reduction(formula, K, 0 or 1); there are 2 arguments"),
        ("Weighed_Reduction(x)", "write Weighed_Reduction(formula, 0 or 1[, formula2]); there are 1 arguments"),
        ("Both_Reduction(x, 2, 0)", "write Both_Reduction(formula, K, 0 or 1, formula2); there are 3 arguments"),
        ("Kept_Reduction(x, 0.5, 0)", "Kept_Reduction: K must be an integer, found 0.5"),
        ("Weighed_Reduction(x, 0, (y, y))", "a formula is needed, not a list"),
    ):
        with pytest.raises(FormulaError, match=re.escape(part)):
            parse_call(text, VARIABLES, None, None)


# Formula, reduction, formula2, opt_arg, part of the message, position, field.
WRONG_CALLS = (
    ("x", None, None, None, "such as Sum_Reduction(formula, 0) for a result per i", 0, "formula"),
    ("", None, None, None, "without a reduction the formula is one itself", 0, "formula"),
    ("Sum_Reduction(x, 0)", "Sum", None, None, "the formula names a reduction itself", 0, "formula"),
    ("Sum_Reduction(x, 2)", None, None, None, "a result is kept per i (0) or per j (1), got 2", 17, "formula"),
    ("Sum_Reduction(x, a)", None, None, None, "the axis that is kept must be an integer, found j2", 17, "formula"),
    ("Sum_Reduction(x)", None, None, None, "write Sum_Reduction(formula, 0 or 1); there are 1", 0, "formula"),
    ("Sum_Reduction(x, 0, y)", None, None, None, "write Sum_Reduction(formula, 0 or 1)", 0, "formula"),
    ("Sum_Reduction([x], 0)", None, None, None, "a formula is needed, not a list", 14, "formula"),
    ("Sum_Reduction(x, 0) + 1", None, None, None, "expected an operator or the end, found '+'", 20, "formula"),
    ("Sum_Reduction", None, None, None, "expected '(' and the arguments of Sum_Reduction", 13, "formula"),
    ("Sun_Reduction(x, 0)", None, None, None, "no reduction is called 'Sun_Reduction'", 0, "formula"),
    ("Exp(Sum_Reduction(x, 0))", None, None, None, "without a reduction the formula is one itself", 0, "formula"),
    ("Sum_Reduction(x, 0)", None, "y", None, "with reduction=None, formula2 is an argument", None, "formula2"),
    ("Sum_Reduction(x, 0)", None, None, 3, "with reduction=None, opt_arg is an argument", None, "opt_arg"),
    ("x", "Sum", "y + z", None, "no variable is called 'z'", 4, "formula2"),
    ("x", "Sum", "y" * 20_001, None, "a formula of 20001 characters is longer than 20000", None, "formula2"),
    ("x + Vi(6, 3)", "Sum", None, None, "no variable has position 5; there are 0, 1, 2, 3, 4, 6", 4, "formula"),
    ("x + Vi(5, 3)", "Sum", "Vj(5, 3)", None, "Vj(5, 3) does not agree with Vi(5, 3)", 0, "formula2"),
    ("Grad(p * Sum(x), x)", "Sum", None, None, "Vj(4, 1) does not agree with A = Pm(4, 6)", 0, "formula"),
    ("Grad(A, x)", "Sum", None, None, None, None, None),
)  # fmt: skip


def test_wrong_calls_say_what_and_where() -> None:
    """Each wrong call is a FormulaError that names reason, place and field; its neighbours are read."""
    for formula, reduction, formula2, opt_arg, part, position, field in WRONG_CALLS:
        if part is None:
            parse_call(formula, VARIABLES, reduction, 1, formula2, opt_arg)
            continue
        with pytest.raises(FormulaError) as caught:
            parse_call(formula, VARIABLES, reduction, 1, formula2, opt_arg)
        error = caught.value
        assert part in error.message, f"{formula!r}: {error.message}"
        assert (error.position, error.field) == (position, field), f"{formula!r}: {error.position}, {error.field}"


# ---- hostile input -------------------------------------------------------------------------------------------

DOUBLED = (
    "x = Vi(3)",
    *(f"d{k + 1} = {'d' + str(k) if k else 'x'} * {'d' + str(k) if k else 'x'}" for k in range(64)),
)
WIDENED = ("x = Vi(3)", *(f"d{k + 1} = Concat({f'd{k},d{k}' if k else 'x,x'})" for k in range(64)))
PAIR = (
    "x = Vi(300)",
    "y = Vj(300)",
    "g = Pm(1)",
    "w = Vi(60000)",
    "s = Vi(1)",
    "K = Pm(65536)",
    "q = Exp(-SqDist(x,y))",
)

HOSTILE_CALLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "a dim doubled 64 times": ("d64", WIDENED),
    "derivatives of a formula doubled 64 times": ("Grad(Grad(Grad(Grad(d64, x, x), x, x), x, x), x, x)", DOUBLED),
    "nested derivatives": ("Grad(" * 40 + "Sin(x)*Exp(x)" + ",x,x)" * 40, ("x = Vi(3)",)),
    "nested Jacobians": ("GradMatrix(GradMatrix(GradMatrix(Sin(x)*Sum(x),x),x),x)", ("x = Vi(30)",)),
    "a wide Jacobian": ("GradMatrix(Exp(w), w)", PAIR),
    "many wide Jacobians": ("+".join(["GradMatrix(Exp(w), w)"] * 900), PAIR),
    "a wide trace": ("Divergence(Concat(Extract(w,1,59999),Extract(w,0,1)), w)", PAIR),
    "many Laplacians": ("+".join(f"{k}*Laplacian(q*Norm2(x), x)" for k in range(500)), PAIR),
    "derivatives of what has none": ("+".join(["Grad(Step(" + "q+" * 100 + "q),x,1)"] * 80), PAIR),
    "a long alignment": ("SoftDTW_SqDist(x, y, g)", PAIR),
    "many alignments": ("+".join(["SoftDTW_SqDist(Extract(x,0,20),y,g)"] * 500), PAIR),
    "splines of a huge degree": ("BSpline(K, s, 65534)", PAIR),
    "a million commas in a list": ("Kron(x, y, [" + "1," * 9_000 + "], [1])", PAIR),
    "more text than allowed, in declarations": (
        "x",
        ("x = Vi(3)", *(f"d{k} = x" + "+x" * 5_000 for k in range(8))),
    ),
    "10 MB of a declaration": ("x", ("x = Vi(3)", "y = Vi(" + "9" * 10_000_000 + ")")),
    "digits": ("x", ("x = Vi(" + "9" * 19_000 + ")",)),
    "many inline variables": ("+".join(f"Vi({k},3)" for k in range(1_500)), ()),
    "constants that take long": ("Elem(x, " + "+".join(["Lgamma(Digamma(3))"] * 900) + ")", ("x = Vi(3)",)),
    "a million declarations": ("x", ("x = Vi(3)",) * 1_000_000),
}


@pytest.mark.parametrize("what", HOSTILE_CALLS)
def test_hostile_calls_are_refused_fast(what: str) -> None:
    """Short words for long computations are a FormulaError within 50 ms, and leave no nodes behind."""
    formula, variables = HOSTILE_CALLS[what]
    times = []
    for _ in range(5):
        gc.collect()
        started = time.thread_time()
        with pytest.raises(FormulaError) as caught:
            parse_call(formula, variables, "Sum", 1)
        times.append(time.thread_time() - started)
        shown = str(caught.value)
    del caught
    assert min(times) < 0.05, f"{min(times) * 1e3:.0f} ms"
    assert len(shown) < 1500
    gc.collect()
    assert len(_nodes) < 20_000


def test_a_formula_doubled_64_times_is_shared() -> None:
    """The valid neighbour: 64 products of a formula with itself are 65 nodes, and have one derivative."""
    parsed = parse_call("d64", DOUBLED, "Sum", 1)
    assert parsed.formula.depth == 65
    assert parse_call("Grad(d64, x, x)", DOUBLED, "Sum", 1).formula.dim == 3
