"""Loops over components: what is found, and that kernels made of them compute what straight text does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from farfield_kernels import engine, host_device, roll
from farfield_kernels.operation import Spec, read
from farfield_kernels.reference import reference
from farfield_kernels.roll import Rolls
from farfield_kernels.stages import plan_call
from kernels.reduction_checks import arguments_of_vjp, assert_results

DISTANCE = ("x = Vi(20)", "y = Vj(20)")
GAUSSIAN = Spec("Exp(-g*SqDist(x,y))*b", (*DISTANCE, "b = Vj(11)", "g = Pm(1)"))
TOLERANCE = {"float32": 3e-6, "float64": 1e-12}


def rolls(formula: str, variables: Sequence[str], reduction: str = "Sum", formula2: str | None = None) -> Rolls:
    """The loops of a call's only kernel."""
    (stage,) = plan_call(Spec(formula, tuple(variables), reduction, formula2=formula2), "float32", "cpu").stages
    return roll.roll(stage.program)


def counts(found: Rolls) -> tuple[list[int], list[int], list[int]]:
    """How many components each fold, family of components and family of weights has."""
    kinds = (found.folds, found.components, found.weights)
    folds, components, weights = ([loop.body.count for loop in kind] for kind in kinds)
    return folds, components, weights


def test_folds_and_families_are_found() -> None:
    """Distances, scalar products, wide results, and weights after softmax's first one."""
    assert counts(rolls(GAUSSIAN.formula, GAUSSIAN.variables)) == ([20], [11], [])
    assert counts(rolls("x|y", DISTANCE, "SumSoftMaxWeight", "y")) == ([20], [], [20])
    assert counts(rolls("Sum(Abs(x-y)*x)", DISTANCE)) == ([20], [], [])
    assert counts(rolls("SqDist(x,y) + (x|y)", DISTANCE)) == ([20, 20], [], [])
    assert counts(rolls("WeightedSqDist(s,x,y)", (*DISTANCE, "s = Pm(20)"))) == ([20], [], [])
    assert counts(rolls("MatVecMult(x,y)", ("x = Vi(40)", "y = Vj(20)"))) == ([20, 20], [], [])
    assert counts(rolls("Sum(x*y) + Elem(x,1)*Elem(y,0) + Elem(y,2)*Elem(x,3)", DISTANCE)) == ([20], [], [])


def test_what_is_short_or_does_not_repeat_stays_straight() -> None:
    """Few components, components of different formulas, places that do not follow each other."""
    few = ("x = Vi(3)", "y = Vj(3)")
    assert not rolls("SqDist(x,y)", few)
    assert not rolls("Concat(Exp(x+y), Concat(Sin(x+y), Cos(x+y)))", few)
    reversed_ = "Elem(x,7)" + "".join(f"*Elem(y,{k}) + Elem(x,{6 - k})" for k in range(7)) + "*Elem(y,7)"
    assert not rolls(reversed_, ("x = Vi(8)", "y = Vj(8)"))


def test_what_is_dear_is_not_computed_again() -> None:
    """An exp that twenty sums read stays straight, a difference does not; that of one sum is in its loop."""
    matrix = (*DISTANCE, "A = Pm(400)")
    assert counts(rolls("MatVecMult(A, Exp(x-y))", matrix)) == ([], [], [])
    assert counts(rolls("MatVecMult(A, x-y)", matrix))[0] == [20] * 20
    assert counts(rolls("Sum(Exp(x-y))", DISTANCE)) == ([20], [], [])


def test_a_sum_is_found_behind_many_next_terms() -> None:
    """Whether a scalar or a vector is added to it, from either side."""
    for formula in ("SqDist(x,y) + c", "c + SqDist(x,y)", "SqDist(x,y) + Elem(c,0) + Elem(c,1)"):
        assert counts(rolls(formula, (*DISTANCE, "c = Vj(30)")))[0] == [20], formula


def test_sums_that_nothing_reads_are_not_computed() -> None:
    """The families of a matrix that is a product have what their components are made of."""
    found = rolls("MatVecMult(TensorProd(z,x), y)", ("x = Vi(9)", "y = Vj(9)", "z = Vj(9)"))
    assert not (found.folds and found.components)


def test_text_does_not_grow_with_the_dim() -> None:
    """A thousand components are as long a text as twenty."""

    def lines(dim: int) -> int:
        variables = (f"x = Vi({dim})", f"y = Vj({dim})", f"b = Vj({dim})")
        (stage,) = plan_call(Spec("Exp(-SqDist(x,y))*b", variables), "float32", "cpu").stages
        return stage.emitted.source.count("\n")

    assert lines(1000) == lines(40)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dim", [9, 16, 33])
def test_a_gaussian_and_its_gradients(dim: int, dtype: str) -> None:
    """Whole and broken register tiles and families, rows around a group, columns around a chunk and a tile."""
    variables = (f"x = Vi({dim})", f"y = Vj({dim})", f"b = Vj({dim + 1})", "g = Pm(1)")
    spec = Spec(GAUSSIAN.formula, variables)
    for M, N in ((1, 1), (31, 47), (33, 49), (257, 13), (2, 500)):
        check(spec, draw(variables, M, N, dtype), f"dim {dim}, {M}, {N}")


@dataclass(frozen=True)
class Wide:
    """One call with loops."""

    formula: str
    reduction: str = "Sum"
    weights: str | None = None
    extra: tuple[str, ...] = ()
    K: int | None = None
    has_gradient: bool = True


CALLS = (
    Wide("x|y", "SumSoftMaxWeight", "v", ("v = Vj(19)",)),
    Wide("x|y", "SumSoftMaxWeight", "v*Exp(-SqDist(x,y))", ("v = Vj(19)",)),
    Wide("-SqDist(x,y) + (x|y)", "LogSumExpWeight", "x*x", ()),
    Wide(
        "SqDist(x,y)",
        "Max_SumShiftExpWeight",
        "v*((Elem(x,0)-Elem(y,0))*SqDist(x,y))",
        ("v = Vj(19)",),
        has_gradient=False,
    ),
    Wide("x|y", "SumSoftMaxWeight", "v*Cos(Elem(x,0)*Elem(y,0) + (x|y))", ("v = Vj(19)",)),
    Wide("Sum(Abs(x-y+1))", "SumSoftMaxWeight", "v*Cos((Elem(x,0)-Elem(y,0)+1)*Sum(Abs(x-y+1)))", ("v = Vj(19)",)),
    Wide("MatVecMult(TensorProd(z,x), y)", extra=("z = Vj(9)",)),
    Wide("Exp(x-y)*Sum(Sin(x-y)*Exp(x-y)) + c", extra=("c = Vj(20)",)),
    Wide("x|y", "LogSumExp"),
    Wide("x*y", "LogSumExp"),
    Wide("(x|y)*(x - y)", "Max"),
    Wide("(x|y)*(x - y)", "ArgMin", has_gradient=False),
    Wide("SqDist(x,y)", "KMin", K=3),
    Wide("Sin(x*y + s)", "Var", extra=("s = Pm(20)",)),
    Wide("Normalize(x)*(Normalize(y)|x)", "Mean"),
    Wide("Prod_Reduction(1 + x*y/9, 0)", None, has_gradient=False),  # type: ignore[arg-type]
    Wide("WeightedSqDist(s,x,y)*Concat(x,y)", extra=("s = Pm(20)",)),
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.reduction} {call.formula}")
def test_reductions_of_wide_formulas(call: Wide, dtype: str) -> None:
    """Every kind of state, straight terms beside loops, weights that read pairs."""
    variables = (*DISTANCE, *call.extra)
    spec = Spec(call.formula, variables, call.reduction, formula2=call.weights, opt_arg=call.K)
    check(spec, draw(variables, 35, 250, dtype), call.formula, has_gradient=call.has_gradient)


@pytest.mark.parametrize("scheme", ["kahan_scheme", "auto"])
def test_compensated_sums_over_both_axes(scheme: str) -> None:
    """States of several fields in memory, merged over rows and splits."""
    for axis in (0, None):
        spec = Spec(GAUSSIAN.formula, GAUSSIAN.variables, axis=axis, sum_scheme=scheme)
        check(spec, draw(GAUSSIAN.variables, 50, 90, "float64"), f"{scheme}, axis {axis}")


def test_nan_and_infinities_stay_where_they_are() -> None:
    """In one component of one column, of one row, in a weight: only what reads them is not finite."""
    arrays = draw(GAUSSIAN.variables, 40, 60, "float32")
    for place, at in ((0, (3, 19)), (1, (59, 0)), (2, (7, 10))):
        for value in (np.nan, np.inf):
            changed = [array.copy() for array in arrays]
            changed[place][at] = value
            check(GAUSSIAN, changed, f"{value} in {place}", has_gradient=False)


@pytest.fixture
def straight(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is rolled."""
    monkeypatch.setattr(roll, "LEAST", 10_000)
    plan_call.cache_clear()
    host_device._cpu_kernels.cache_clear()
    yield
    plan_call.cache_clear()
    host_device._cpu_kernels.cache_clear()


@pytest.mark.usefixtures("straight")
def test_straight_text_is_right_too() -> None:
    """The neighbour: the same calls without loops."""
    assert not rolls(GAUSSIAN.formula, GAUSSIAN.variables)
    check(GAUSSIAN, draw(GAUSSIAN.variables, 33, 49, "float64"), "straight")


def draw(variables: Sequence[str], M: int, N: int, dtype: str) -> list[np.ndarray]:
    """Small normal numbers, so that no exponential is 0."""
    rng = np.random.default_rng(0)
    arrays = []
    for text in variables:
        dim = int(text.split("(")[1].rstrip(")"))
        shape = (dim,) if "Pm" in text else (M if "Vi" in text else N, dim)
        arrays.append((0.3 * rng.standard_normal(shape)).astype(dtype))
    return arrays


def check(spec: Spec, arrays: list[np.ndarray], what: str, *, has_gradient: bool = True) -> None:
    """Values, and gradients in all arguments, are the reference's."""
    tolerance = TOLERANCE[arrays[0].dtype.name]
    got = engine.run(spec, arrays, device="cpu").arrays
    assert_results(got, reference(read(spec), arrays), tolerance, what)
    if has_gradient:
        vjp = spec.vjp(range(len(arrays)))
        taken = arguments_of_vjp(spec, arrays)
        got = engine.run(vjp, taken, device="cpu").arrays
        assert_results(got, reference(read(vjp), taken), tolerance, f"gradients, {what}")
