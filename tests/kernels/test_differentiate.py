"""Derivatives as formulas: what one call of a vjp becomes, and how broadcasting is undone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from farfield_kernels import engine
from farfield_kernels.differentiate import SYMBOLIC, is_linear, jvp, vjp, zeros
from farfield_kernels.domains import REAL, Case
from farfield_kernels.errors import RuleError
from farfield_kernels.expr import OPERATORS, Core, apply, topological, variable
from farfield_kernels.operation import Spec, read
from farfield_kernels.stages import plan_call
from farfield_kernels.terms import expand

SEED = Spec("Square(p-a)*Exp(x+y)", ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"))


def test_gradients_that_share_an_axis_are_one_kernel() -> None:
    """Four gradients take two kernels; the parameter's rides along; each result is in exactly one."""
    call = plan_call(SEED.vjp((0, 1, 2, 3)), "float32", "cpu")
    assert len(call.stages) == 2
    assert sorted(place for stage in call.stages for place in stage.results) == [0, 1, 2, 3]
    assert {stage.program.row_axis: stage.results for stage in call.stages} == {"i": (0, 3), "j": (1, 2)}
    assert len(plan_call(SEED.vjp((1, 2, 3)), "float32", "cpu").stages) == 1
    assert len(plan_call(SEED.vjp((3,)), "float32", "cpu").stages) == 1
    assert len(plan_call(SEED.vjp((0,)).vjp((0, 1, 2, 3, 4)), "float32", "cpu").stages) == 2


def test_zero_gradients_need_no_kernel() -> None:
    """What the formula does not depend on, or only through constant steps, has a zero gradient and no kernel."""
    spec = Spec("Sign(x)*y + 0*p", ("x = Vi(2)", "y = Vj(2)", "p = Pm(2)", "unused = Vj(5)"))
    call = plan_call(spec.vjp((0, 1, 2, 3)), "float64", "cpu")
    assert call.zeros == (0, 2, 3)
    assert [stage.results for stage in call.stages] == [(1,)]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in ((4, 2), (5, 2), (2,), (5, 5), (4, 2))]
    results = engine.run(spec.vjp((0, 1, 2, 3)), arrays, device="cpu").arrays
    assert [r.shape for r in results] == [(4, 2), (5, 2), (2,), (5, 5)]
    assert [bool(r.any()) for r in results] == [False, True, False, False]


def test_exp_is_not_computed_again_by_its_gradients() -> None:
    """The joint graph of the seed's four gradients holds one Exp."""
    terms = expand(read(SEED.vjp((0, 1, 2, 3))))
    names = [node.op.name for node in topological([term.formula for term in terms]) if node.op]
    assert names.count("Exp") == 1


def test_broadcasting_is_undone() -> None:
    """The cotangent of an operand has its dim: copies are summed, scalars repeated."""
    s, v, g = variable(0, 1, "i"), variable(1, 3, "i"), variable(2, 3, "i")
    by_scalar, by_vector = vjp([(s * v, g)], [s, v])
    assert by_scalar is apply("Sum", g * v)
    assert by_vector is g * s
    assert vjp([(s + v, g)], [s])[0] is apply("Sum", g)
    one = variable(3, 1, "i")
    assert vjp([(apply("Sum", v), one)], [v])[0] is apply("SumT", one, 3)


def test_a_node_used_twice_gets_the_sum_of_its_cotangents() -> None:
    """x * x has gradient g x + g x, and two outputs add up."""
    x, g = variable(0, 1, "i"), variable(1, 1, "i")
    assert vjp([(x * x, g)], [x])[0] is g * x + g * x
    assert vjp([(x, g), (x, g)], [x])[0] is g + g
    assert vjp([(x * 2, g)], [variable(5, 4, "j")])[0] is zeros(4)


def test_a_derivative_of_the_wrong_dim_is_refused() -> None:
    """A cotangent that fits its formula neither as it is nor repeated is an error; one of dim 1 is repeated."""
    v = variable(0, 3, "i")
    with pytest.raises(RuleError, match="a cotangent of dim 2 does not fit an operand of dim 3"):
        vjp([(v, variable(1, 2, "i"))], [v])
    assert vjp([(v, variable(1, 1, "i"))], [v])[0].dim == 3


def test_terms_of_every_order_sum_and_keep_the_axis_of_their_argument() -> None:
    """Each gradient is a Sum that keeps its argument's axis, at first and at second order."""
    for spec in (SEED.vjp((0, 1, 3)), SEED.vjp((0,)).vjp((0, 1, 3))):
        terms = expand(read(spec))
        assert [term.keep for term in terms] == ["i", "j", "p"]
        assert all(term.reduction.name == "Sum" for term in terms)


def test_jvp_has_no_trace_of_its_cotangent() -> None:
    """The derivative along a direction is a formula of the variables and the tangent alone."""
    x, y, t = variable(0, 3, "i"), variable(1, 3, "j"), variable(2, 3, "i")
    formula = apply("Exp", apply("Minus", apply("SqDist", x, y))) * y
    along = jvp(formula, [x], [t])
    assert along.dim == 3
    assert all(getattr(node, "params", (0,))[0] != SYMBOLIC for node in topological([along]) if node.op is None)


@pytest.mark.parametrize(
    "name", sorted(name for name, op in OPERATORS.items() if isinstance(op, Core) and op.cases)
)
def test_linear_is_what_the_reference_is(name: str) -> None:
    """An operator is linear in just the groups of operands that it declares: seen at sums and multiples."""
    operator = OPERATORS[name]
    assert isinstance(operator, Core)
    for count in range(1, operator.arity + 1):
        for group in itertools.combinations(range(operator.arity), count):
            additive = [_is_additive(operator, case, group) for case in operator.cases]
            if group in operator.linear:
                assert all(additive), f"{name} in operands {group}"
            elif not any(set(smaller) < set(group) for smaller in operator.linear):
                assert not all(additive), f"{name} is linear in operands {group} and does not say so"


def _is_additive(operator: Core, case: Case, group: tuple[int, ...]) -> bool:
    """Whether f(a + 2 b) = f(a) + 2 f(b) in the operands of the group, at random rows, some of them integers."""
    rng = np.random.default_rng(0)

    def draw() -> list[np.ndarray[Any, Any]]:
        drawn = [operator.domain_of(k).sample(rng, (50, dim)) for k, dim in enumerate(case.dims)]
        return [
            np.where(rng.random(x.shape) < 0.5, x, x.round()) if operator.domain_of(k) == REAL else x
            for k, x in enumerate(drawn)
        ]

    held, a, b = draw(), draw(), draw()

    def value(factor_a: float, factor_b: float) -> np.ndarray[Any, Any]:
        mixed = [factor_a * x + factor_b * y for x, y in zip(a, b, strict=True)]
        with np.errstate(all="ignore"):
            points = [mixed[k] if k in group else held[k] for k in range(len(held))]
            return operator.reference(*points, *case.integers)

    return np.allclose(value(1, 2), value(1, 0) + 2 * value(0, 1), atol=1e-9)


def test_linear_formulas_are_told_from_others() -> None:
    """A formula is linear if every operator on the way is and nothing is added; products of two parts are not."""
    v, w, c = variable(0, 3, "i"), variable(1, 3, "i"), variable(2, 3, "j")
    zero = zeros(3)
    linear = [
        v,
        -v,
        v * c,
        c * v,
        v / c,
        v + v,
        v - zero,
        v * 2 + apply("SumT", apply("Sum", v), 3),
        zero,
        v * zero,
    ]
    linear += [
        apply("Concat", v, zero),
        apply("Where", c, v, zero),
        apply("MatVecMult", apply("TensorProd", v, c), c),
    ]
    linear += [apply("Scalprod", v, c), apply("ComplexReal", apply("Interleave", v, -v)), zero / c]
    other = [
        v * v,
        v + c,
        c / v,
        v + 1,
        apply("Concat", v, c),
        apply("Where", v, c, c),
        apply("Where", c, v, c),
        c,
    ]
    other += [
        apply("Scalprod", v, v),
        apply("Exp", v),
        apply("Floor", v),
        apply("Abs", v),
        apply("Max", v),
        zero + 1,
    ]
    assert [is_linear(f, [v]) for f in linear] == [True] * len(linear)
    assert [is_linear(f, [v]) for f in other] == [False] * len(other)
    assert is_linear(v + w, [v, w])
    assert not is_linear(v + w, [v])
    assert not is_linear(v * w, [v, w])
    assert is_linear(v * w, [v])
