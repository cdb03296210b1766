"""Separation: the passes give the sum over columns, and what would be worse than the plain kernel is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from farfield_kernels.expr import Array, Axis, Expr, Var, topological, variable
from farfield_kernels.operation import Spec, read
from farfield_kernels.parse import parse_formula, parse_variables
from farfield_kernels.rewrite import rewrite
from farfield_kernels.separate import Separation, acceptable, refused, separate
from farfield_kernels.terms import expand
from kernels.formula_values import values
from kernels.operator_checks import evaluate

U = 2.0**-53
SEED = "Square(p-a)*Exp(x+y)"
SEED_VARIABLES = ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)")


@dataclass(frozen=True)
class Outcome:
    """What the passes gave, and the same by evaluating every pair."""

    accepted: bool
    c: Array
    exact: Array
    sizes: Array

    def assert_as_good_as_plain(self, dtype: str, exponent: float = 0.0) -> None:
        """Accepted, and off by no more than a plain kernel of that type may be whose exponents are that large."""
        assert self.accepted
        error = np.abs(self.c.astype(dtype) - self.exact)
        allowed = 2.0**-24 * np.abs(self.exact) if dtype == "float32" else 0
        assert (error <= 1.01 * allowed + (128 + exponent) * U * self.sizes + np.finfo(dtype).tiny).all()


def run_passes(
    plan: Separation, arrays: Sequence[Array], rows: int, cols: int, row_axis: Axis
) -> tuple[list[Array], Array, float]:
    """The calling sequence of the module, in NumPy: column results, c, and how much of it is refused."""
    doubles = [array.astype(np.float64) for array in arrays]
    results = []
    with np.errstate(all="ignore"):
        for column_pass in plan.columns:
            weights = values(column_pass.weights, doubles, 1, cols, row_axis)[0]
            if column_pass.exponent is None:
                results.append(weights.sum(0))
                continue
            exponent = values(column_pass.exponent, doubles, 1, cols, row_axis)[0]
            m = exponent.max(initial=-np.inf)
            sums = (np.exp(exponent - (m if np.isfinite(m) else 0.0)) * weights).sum(0)
            results.append(np.concatenate([[m], sums]))
        assert [result.size for result in results] == [column_pass.dim for column_pass in plan.columns]
        c, refused = (
            values(formula, [*doubles, *results], rows, 1, row_axis)[:, 0]
            for formula in (plan.results, plan.refused)
        )
    return results, c, float(refused.sum())


def pairs(formula: Expr, arrays: Sequence[Array], rows: int, cols: int, row_axis: Axis) -> tuple[Array, Array]:
    """The sum over columns in extended precision, and the sum of absolute values."""
    terms = values(formula, arrays, rows, cols, row_axis, np.longdouble)
    with np.errstate(all="ignore"):
        return terms.sum(1), np.abs(terms).sum(1)


def length(variables: Sequence[str], arrays: Sequence[Array], axis: str) -> int:
    """Rows of the first array of an axis, 1 if there is none."""
    return next((len(a) for v, a in zip(variables, arrays, strict=True) if f"V{axis}(" in v), 1)


def outcome(
    formula: str | Expr, variables: Sequence[str], arrays: Sequence[Array], row_axis: Axis = "i"
) -> Outcome | None:
    """Separate, run and compare; None if the formula does not separate."""
    if isinstance(formula, str):
        formula = rewrite(parse_formula(formula, parse_variables(tuple(variables))))
    dtype = arrays[0].dtype.name
    plan = separate(formula, row_axis, len(arrays), dtype)
    if plan is None:
        return None
    M, N = length(variables, arrays, "i"), length(variables, arrays, "j")
    rows, cols = (M, N) if row_axis == "i" else (N, M)
    columns, c, refused = run_passes(plan, arrays, rows, cols, row_axis)
    exact, sizes = pairs(formula, arrays, rows, cols, row_axis)
    return Outcome(acceptable(plan, columns, refused), c, exact, sizes)


def separated(
    formula: str | Expr, variables: Sequence[str], arrays: Sequence[Array], row_axis: Axis = "i"
) -> Outcome:
    """The outcome of a formula that must separate."""
    found = outcome(formula, variables, arrays, row_axis)
    assert found is not None
    return found


def draw(variables: Sequence[str], dtype: str, seed: int = 0, M: int = 7, N: int = 9) -> list[Array]:
    """Normal numbers for each declaration."""
    rng = np.random.default_rng(seed)
    arrays = []
    for text in variables:
        dim = int(text.split("(")[1].rstrip(")"))
        shape = (dim,) if "Pm" in text else (M if "Vi" in text else N, dim)
        arrays.append(rng.standard_normal(shape).astype(dtype))
    return arrays


def seed_arrays(dtype: str = "float64", N: int = 9) -> list[Array]:
    """Normal numbers for the seed's formula."""
    return draw(SEED_VARIABLES, dtype, N=N)


XYB = ("x = Vi(3)", "y = Vj(3)", "b = Vj(1)")
SCALARS = ("x = Vi(1)", "y = Vj(1)", "b = Vj(1)")

# Formula, variables, number of different products.
SEPARABLE = (
    (SEED, SEED_VARIABLES, 3),
    ("(x|y)*b", XYB, 3),
    ("SqDist(x,y)*b", XYB, 5),
    ("Square(p+(x|y))*b", (*XYB, "p = Pm(1)"), 10),
    ("Pow(1 - x*y, 3)*b", SCALARS, 4),
    ("x*Exp(y - x)/b", SCALARS, 1),
    ("Exp(x+y)*Exp(2*x-y*b) - b", SCALARS, 2),
    ("Square(Exp((x-y)*p))", (*SCALARS, "p = Pm(1)"), 1),
    ("Concat(x, y)*Extract(b, 1, 1)", ("x = Vi(2)", "y = Vj(3)", "b = Vi(2)"), 4),
    ("MatVecMult(x, y)", ("x = Vi(6)", "y = Vj(3)"), 3),
    ("Sum(x*y)*SumT(b, 2)", XYB, 3),
    ("Where(x > 0, x*y, b) + IfElse(y, x*y, x)", SCALARS, 3),
    ("x*y", ("x = Vi(5)", "y = Vj(1)"), 1),
    ("Sin(x)*Log(Abs(y) + p) - Sqrt(Abs(x))*3", (*SCALARS, "p = Pm(1)"), 2),
    ("ComplexMult(x, y)", ("x = Vi(2)", "y = Vj(2)"), 2),
    ("Concat(x, 0)*SumT(y, 2) + Zero(2)", SCALARS, 1),
    ("Elem(x, 0) + 2", ("x = Vi(2)", "y = Vj(2)"), 1),
)


@pytest.mark.parametrize("row_axis", ["i", "j"])
@pytest.mark.parametrize(("formula", "variables", "rank"), SEPARABLE, ids=[row[0] for row in SEPARABLE])
def test_short_sums_of_products_separate(
    formula: str, variables: tuple[str, ...], rank: int, row_axis: Axis
) -> None:
    """Whichever axis is kept the passes give c, below the bound, and the rank is what it can be."""
    arrays = draw(variables, "float32")
    parsed = rewrite(parse_formula(formula, parse_variables(variables)))
    plan = separate(parsed, row_axis, len(arrays), "float32")
    assert plan is not None
    if row_axis == "i":
        assert plan.rank == rank
    result = separated(formula, variables, arrays, row_axis)
    np.testing.assert_allclose(result.c, result.exact, rtol=1e-9, atol=1e-12)
    if np.abs(result.exact).min() > 1e-3:
        result.assert_as_good_as_plain("float32")


@pytest.mark.parametrize(
    ("formula", "variables"),
    [
        ("Exp(x|y)", XYB),
        ("Exp(-SqDist(x,y))*b", XYB),
        ("Sin(x+y)", SCALARS),
        ("1/(x+y)", SCALARS),
        ("Sqrt(SqDist(x,y))", XYB),
        ("Max(Concat(x,y))", SCALARS),
        ("Where(x < y, x, y)", SCALARS),
        ("Exp(x*y + x)", SCALARS),
        ("Exp(Exp(x + y))", SCALARS),
        ("Pow(x+y, 5)", SCALARS),
        ("Pow(x*y, -1)", SCALARS),
        ("x|y", ("x = Vi(17)", "y = Vj(17)")),
        ("Exp(x+y)", ("x = Vi(17)", "y = Vj(17)")),
        ("x + y", ("x = Vi(100)", "y = Vj(100)")),
        ("Square(Square(Square(x|y)))", ("x = Vi(60)", "y = Vj(60)")),
        ("x*y*1e-200*1e-200", SCALARS),
    ],
)
def test_others_do_not(formula: str, variables: tuple[str, ...]) -> None:
    """What joins rows and columns otherwise, or is a sum of too many products, is left to the plain kernel."""
    assert outcome(formula, variables, draw(variables, "float64")) is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gradients_of_the_seed_separate(dtype: str) -> None:
    """Both for x, which keeps i, and for y and a, which keep j, they are within a plain kernel's error."""
    spec = Spec(SEED, SEED_VARIABLES).vjp((0, 1, 2))
    variables = (*SEED_VARIABLES, "g = Vi(3)")
    arrays = draw(variables, dtype)
    arrays[4] = np.abs(arrays[4])
    terms = expand(read(spec))
    assert [term.keep for term in terms] == ["i", "j", "j"]
    for term in terms[:2]:
        separated(rewrite(term.formula), variables, arrays, term.keep).assert_as_good_as_plain(dtype)
    by_a = separated(rewrite(terms[2].formula), variables, arrays, "j")
    np.testing.assert_allclose(by_a.c, by_a.exact, rtol=1e-12)


def test_gradients_of_parameters_and_of_second_order_separate() -> None:
    """The parameter's is a sum over accepted rows; those of a gradient are sums of more products."""
    spec = Spec(SEED, SEED_VARIABLES)
    variables = (*SEED_VARIABLES, "g = Vi(3)", "h = Vi(3)")
    arrays = [np.abs(array) for array in draw(variables, "float32")]
    arrays[3] += 4  # p - a is positive, so no products cancel
    of_p = expand(read(spec.vjp((3,))))
    second = expand(read(spec.vjp((0,)).vjp((0, 1, 3, 4))))
    assert [term.keep for term in (*of_p, *second)] == ["p", "i", "j", "p", "i"]
    for term in (*of_p, *second):
        result = separated(rewrite(term.formula), variables, arrays, "j" if term.keep == "j" else "i")
        result.assert_as_good_as_plain("float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_of_any_sign_are_right_for_a_single_product(dtype: str) -> None:
    """Terms that cancel between columns cancel in the plain kernel too: accepted, with its error."""
    variables = ("x = Vi(1)", "y = Vj(1)", "b = Vj(1)")
    arrays = draw(variables, dtype, N=4000)
    arrays[2] -= arrays[2].mean()
    separated("b*Exp(x+y)", variables, arrays).assert_as_good_as_plain(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exponents_that_overflow_apart_but_not_together(dtype: str) -> None:
    """x and y of 1e4 and opposite signs: x + y is moderate, and so is the sum."""
    arrays = seed_arrays(dtype)
    for shift in (1e4, -1e4):
        far = [np.round(arrays[0] * 8) / 8 + np.float32(shift), np.round(arrays[1] * 8) / 8 - np.float32(shift)]
        separated(SEED, SEED_VARIABLES, [*far, *arrays[2:]]).assert_as_good_as_plain(dtype)


def test_columns_of_both_signs_far_apart() -> None:
    """Columns at -1e4 do not count where rows are at -1e4; rows at 1e4 overflow and are refused."""
    arrays = seed_arrays()
    y = arrays[1] + np.where(np.arange(9) % 2, 1e4, -1e4)[:, None]
    separated(SEED, SEED_VARIABLES, [arrays[0] - 1e4, y, *arrays[2:]]).assert_as_good_as_plain("float64")
    assert not separated(SEED, SEED_VARIABLES, [arrays[0] + 1e4, y, *arrays[2:]]).accepted


def test_results_that_underflow_are_zero() -> None:
    """Rows whose terms all underflow give 0, among rows that do not."""
    arrays = seed_arrays()
    arrays[0][2:4] -= 1e4
    arrays[0][4] -= 690
    result = separated(SEED, SEED_VARIABLES, arrays)
    result.assert_as_good_as_plain("float64")
    assert not result.c[2:4].any()
    assert (result.c[4] > 0).all()


def test_weights_that_are_zero_where_the_exponent_is_largest() -> None:
    """They do not set the scale of the others; without any other the sum is 0, as it is of no columns."""
    y, b = np.array([[5000.0], [-1.0], [0.5]]), np.array([[0.0], [2.0], [-3.0]])
    x = np.array([[0.25], [-2.0]])
    result = separated("b*Exp(x+y)", SCALARS, [x, y[1:], b[1:]])
    result.assert_as_good_as_plain("float64")
    with_zero = separated("b*Exp(x+y)", SCALARS, [x, y, b])
    assert with_zero.accepted
    assert np.array_equal(with_zero.c, result.c)
    for empty in (
        separated("b*Exp(x+y)", SCALARS, [x, y, 0 * b]),
        separated("b*Exp(x+y)", SCALARS, [x, y[:0], b[:0]]),
    ):
        assert empty.accepted
        assert not empty.c.any()


@pytest.mark.parametrize("place", [0, 1])
def test_weights_that_are_all_zero_hide_no_nan(place: int) -> None:
    """0 * Exp(NaN) is NaN, for a row and for a column."""
    arrays = draw(SCALARS, "float64")
    arrays[2][:] = 0
    assert separated("b*Exp(x+y)", SCALARS, arrays).accepted
    arrays[place][1] = np.nan
    assert not separated("b*Exp(x+y)", SCALARS, arrays).accepted


def test_one_of_two_weights_is_zero_where_the_exponent_is_largest() -> None:
    """Then what underflow takes from the other is seen: refused, and right where nothing is lost."""
    x, a = np.array([[0.25], [1.0]]), np.array([[1.0], [0.0]])
    formula, variables = "(x*a + b)*Exp(x+y)", (*SCALARS, "a = Vj(1)")
    for far, accepted in ((3.0, True), (-2000.0, False)):
        y, b = np.array([[1.0], [far]]), np.array([[0.0], [1.0]])
        result = separated(formula, variables, [x, y, b, a])
        assert result.accepted == accepted
        if accepted:
            result.assert_as_good_as_plain("float64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cancelling_products_are_refused_or_right(dtype: str) -> None:
    """Distances far from the origin: right as long as the data's type has the digits, then refused."""
    accepted = []
    for offset in (0.0, 1.0, 30.0, 1e3, 1e5):
        arrays = draw(XYB, dtype)
        arrays[0] += np.asarray(offset, dtype)
        arrays[1] += np.asarray(offset, dtype)
        arrays[2] = np.abs(arrays[2])
        result = separated("SqDist(x,y)*b", XYB, arrays)
        accepted.append(result.accepted)
        if result.accepted:
            result.assert_as_good_as_plain(dtype)
    assert accepted[0]
    assert accepted == sorted(accepted, reverse=True)
    assert not accepted[-1]
    assert accepted[2] == (dtype == "float32")


def test_a_difference_of_equal_sums_is_refused() -> None:
    """Sums whose products cancel to less than rounding leave cannot be told from 0."""
    x, y = np.array([[1.0], [2.0]]), np.array([[0.1], [0.3], [0.7]])
    b = y * 3.0
    assert not separated("(x + y)*(x - y) - Square(x) + Square(y) + 1e-17*b", SCALARS, [x, y, b]).accepted
    assert not separated("x*b - b", SCALARS, [x + 1e-12, y, b]).accepted
    assert separated("x*b - b", SCALARS, [x + 2, y, b]).accepted


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_data_that_are_not_finite_are_refused(dtype: str, place: int, value: float) -> None:
    """Wherever in the arguments, also where its weight is 0 or its exponent the least."""
    for row in (0, -1):
        arrays = seed_arrays(dtype)
        arrays[1][:] -= 800 * (np.arange(9) % 2)[:, None]
        arrays[2][-1] = arrays[3][0]  # a weight of 0
        arrays[place].reshape(-1, arrays[place].shape[-1])[row] = value
        result = separated(SEED, SEED_VARIABLES, arrays)
        if place == 0 and value == -np.inf:
            result.assert_as_good_as_plain(dtype)  # exp(-inf) is 0
        else:
            assert not result.accepted


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", range(3))
def test_data_of_products_that_are_not_finite_are_refused(place: int, value: float) -> None:
    """Where there is no exponential either, and where choices leave the value out."""
    for formula in ("SqDist(x,y)*b", "Where(Elem(x,0) > 100, x*y, b)", "(x - y)*(x + y) + b"):
        arrays = draw(XYB, "float64")
        arrays[place][1, 0] = value
        assert not separated(formula, XYB, arrays).accepted


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
@pytest.mark.parametrize("formula", ["b*Exp(x+y)", "x*b*Exp(x+y)", "(x*y)*b", "(x*b)*(y*x)", "x*Exp(y+x)*b*y"])
def test_huge_and_small_weights(formula: str, scale: float) -> None:
    """Scaling the weights, and the exponents against them, gives a result that is refused or right."""
    for shift in (-690.0, -300.0, 0.0, 300.0, 690.0):
        arrays = [np.abs(array) for array in draw(SCALARS, "float64")]
        arrays[2] *= scale
        arrays[1 if "Exp(y" in formula else 0][1:3] += shift
        result = separated(formula, SCALARS, arrays)
        if result.accepted:
            result.assert_as_good_as_plain("float64", exponent=700)


def test_a_huge_weight_far_below_the_largest_exponent_counts() -> None:
    """Its exp underflows in the column pass though its term is the largest: refused."""
    y, b = np.array([[0.0], [-800.0]]), np.array([[1e-300], [1e300]])
    assert not separated("b*Exp(x+y)", SCALARS, [np.array([[400.0]]), y, b]).accepted
    near = separated("b*Exp(x+y)", SCALARS, [np.array([[-300.0]]), y / 8, b])
    near.assert_as_good_as_plain("float64", exponent=400)


def test_a_sum_carried_far_below_the_largest_exponent_is_refused() -> None:
    """B - m has lost digits there; a hundred below it has not."""
    x = np.array([[0.25]])
    for far, accepted in ((-600.0, False), (-100.0, True)):
        y, b = np.array([[0.0], [far]]), np.array([[1e-250], [1e250]])
        assert separated("b*Exp(x+y)", SCALARS, [x, y, b]).accepted == accepted


def test_a_factor_lost_to_underflow_with_its_half_of_the_exponential_is_refused() -> None:
    """1e-190 exp(-290) is denormal though the result is 1e-142; so are weights that are denormal themselves."""
    variables = (*SCALARS, "z = Vi(1)")
    x, y, b = np.array([[-580.0]]), np.array([[0.0], [-0.7]]), np.array([[1e300], [2e300]])
    for z, accepted in ((1.2345e-190, False), (1.2345e-150, True)):
        result = separated("z*b*Exp(x+y)", variables, [x, y, b, np.array([[z]])])
        assert result.accepted == accepted
    for b, accepted in ((np.array([[3e-323], [5e-323]]), False), (np.array([[3e-223], [5e-223]]), True)):
        assert separated("b*Exp(x+y)", SCALARS, [-x, y, b]).accepted == accepted


def test_a_product_lost_to_underflow_is_refused() -> None:
    """y * b is 0 in float64 though (x * y) * b is 1e-200."""
    arrays = [np.array([[1e200]]), np.array([[1e-200]]), np.array([[1e-200]])]
    assert not separated("(x*y)*b", SCALARS, arrays).accepted
    arrays = [np.array([[1e100]]), np.array([[1e-100]]), np.array([[1e-100]])]
    separated("(x*y)*b", SCALARS, arrays).assert_as_good_as_plain("float64")


def test_exponents_that_are_regrouped_count_their_rounding() -> None:
    """p*(x + y) of large x = -y is refused in float64, where p*x + p*y has lost digits, and right in float32."""
    variables = ("x = Vi(1)", "y = Vj(1)", "p = Pm(1)")
    for dtype, accepted in (("float64", False), ("float32", True)):
        x = (np.array([[1.0], [2.0]]) + 1e4).astype(dtype)
        y = (np.array([[0.5], [0.25], [-1.0]]) - 1e4).astype(dtype)
        result = separated("Exp(p*(x+y))", variables, [x, y, np.array([0.7], dtype)])
        assert result.accepted == accepted
        if accepted:
            result.assert_as_good_as_plain(dtype)
        for formula, sides in (("Exp(x+y+z)", "iji"), ("Exp(y+x+z)", "iji"), ("Exp(y+x+z)", "jij")):
            declared = [f"{name} = V{side}(1)" for name, side in zip("xyz", sides, strict=True)]
            result = separated(formula, declared, [x, y[:2] + 1e4, -x])
            assert result.accepted == accepted


def test_literals_have_the_type_of_the_data() -> None:
    """0.1 is the float32 next to it when the data are float32, so that comparisons with it agree."""
    x, y = np.array([[0.1]], np.float32), np.array([[2.0]], np.float32)
    variables = ("x = Vi(1)", "y = Vj(1)")
    assert separated("(x == 0.1)*y", variables, [x, y]).c[0, 0] == 2
    assert separated("(x == 0.1)*y", variables, [x.astype(float), y.astype(float)]).c[0, 0] == 0


def test_passes_read_their_own_axis_alone() -> None:
    """Column formulas are free of the row axis, the row formula of the column axis, and both are the same anew."""
    for formula, variables, _ in SEPARABLE:
        parsed = rewrite(parse_formula(formula, parse_variables(variables)))
        plan = separate(parsed, "j", len(variables), "float64")
        again = separate(parsed, "j", len(variables), "float64")
        assert plan is not None
        assert again is not None
        assert plan.results is again.results
        assert plan.refused is again.refused
        assert "i" not in plan.refused.axes
        for one, other in zip(plan.columns, again.columns, strict=True):
            assert one.weights is other.weights
            assert one.exponent is other.exponent
            assert "j" not in one.weights.axes
        read_by_rows = {node.position for node in topological([plan.refused]) if isinstance(node, Var)}
        assert max(read_by_rows, default=0) < len(variables) + len(plan.columns)


def test_it_saves_time_for_many_pairs() -> None:
    """The seed at its size does, a handful of rows does not."""
    plan = separate(rewrite(parse_formula(SEED, parse_variables(SEED_VARIABLES))), "i", 4, "float32")
    assert plan is not None
    assert plan.saves(3000, 5000)
    assert not plan.saves(10, 5000)


def test_results_below_the_smallest_number_of_the_type_need_no_digits() -> None:
    """What the data's type rounds to 0 or to a denormal is accepted whatever its bound, below the least one."""
    c, bound = (variable(k, 2, "i") for k in (0, 1))
    formula = refused(c, bound, "float32")

    def count(numbers: tuple[float, float], bounds: tuple[float, float]) -> float:
        return float(values(formula, [np.array([numbers]), np.array([bounds])], 1, 1)[0, 0, 0])

    assert count((0, 1e-39), (1e-38, 1e-38)) == 0
    assert count((0, 1e-39), (1e-30, 1e-38)) == 1
    assert count((1, -1), (np.inf, np.nan)) == 2
    assert count((np.inf, np.nan), (np.inf, 1)) == 2


def test_compiled_passes_agree_with_numpy() -> None:
    """The formulas of the passes as C++ give what NumPy gives, where weights are 0, denormal or NaN too."""
    variables = ("x = Vi(1)", "y = Vj(1)", "b = Vi(1)", "c = Vi(1)")
    parsed = rewrite(parse_formula("(b*y + c)*Exp(2*(x+y)) + b*c*y*b", parse_variables(variables)))
    special = np.array([0.0, 1.0, 1e-200, np.nan, np.inf, -3.0, 1e-310])
    x, b, c = (grid.reshape(-1, 1) for grid in np.meshgrid(special, special, special))
    y = np.array([[0.5], [-1.0]])
    by_columns = separate(parsed, "j", 4, "float64")
    by_rows = separate(parsed, "i", 4, "float64")
    assert by_columns is not None
    assert by_rows is not None
    formulas = [f for column_pass in by_columns.columns for f in (column_pass.exponent, column_pass.weights) if f]
    sums = [np.ones(column_pass.dim) for column_pass in by_rows.columns]
    sums[0][:] = (-np.inf, *np.zeros(by_rows.columns[0].dim - 1))
    arrays = [x, y, b, c, *sums]
    formulas += [by_rows.results, by_rows.bounds]
    compiled = evaluate(formulas, arrays, "float64", rows=len(x))
    for formula, found in zip(formulas, compiled, strict=True):
        expected = values(formula, arrays, len(x), 2)[:, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-307)
    for number in (2, 3):
        sums = [np.full(column_pass.dim, float(number)) for column_pass in by_rows.columns]
        of_rows = [by_rows.results, by_rows.bounds]
        for formula, found in zip(
            of_rows, evaluate(of_rows, [x, y, b, c, *sums], "float64", rows=len(x)), strict=True
        ):
            expected = values(formula, [x, y, b, c, *sums], len(x), 2)[:, 0]
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-307)
