"""Every declared reduction: sizes around tiles, split columns, infinities, ties, accuracy, gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from farfield_kernels import engine
from farfield_kernels.expr import Array
from farfield_kernels.operation import Spec, read
from farfield_kernels.reductions import REDUCTIONS
from farfield_kernels.reference import reference
from kernels.reduction_checks import (
    VARIANT_IDS,
    VARIANTS,
    arguments_of_vjp,
    assert_results,
    check_compensation,
    check_gradient,
    check_reduction,
    check_special_terms,
    draw,
    forced_splits,
    spec_of,
)

pytestmark = pytest.mark.usefixtures("path")  # compiled, and on NumPy
NAMES = sorted(REDUCTIONS)
DIFFERENTIABLE = [name for name in NAMES if REDUCTIONS[name].gradient or REDUCTIONS[name].saving]
SAVING = [name for name in NAMES if REDUCTIONS[name].saving]
INF = np.inf


def computed(spec: Spec, *arrays: Array) -> list[Array]:
    """The results on the CPU."""
    return engine.run(spec, arrays, device="cpu").arrays


# ---- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "axis"), [("float32", 1), ("float64", 0)])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=VARIANT_IDS)
def test_reduction_agrees_with_its_reference(name: str, options: dict[str, Any], dtype: str, axis: int) -> None:
    """At every size around tiles and blocks, whole and with its columns split."""
    check_reduction(name, dtype, axis, **options)


@pytest.mark.parametrize("name", NAMES)
def test_both_axes_are_reduced_at_once(name: str) -> None:
    """axis=None gives one row, the reduction of all pairs; a place is the pair's number i * N + j."""
    check_reduction(name, "float64", None, [(0, 0), (0, 3), (3, 0), (1, 1), (7, 5), (33, 20), (3, 300)])


@pytest.mark.parametrize("name", SAVING)
def test_what_is_saved_for_gradients_agrees_with_its_reference(name: str) -> None:
    """The reduction that runs when a gradient will be wanted returns the same and more."""
    sizes = [(0, 7), (7, 0), (1, 1), (33, 17), (2, 600), (17, 257)]
    check_reduction(name, "float64", 1, sizes, saving=True)
    shown, saving = (computed(spec_of(name, saving=saving), *draw(33, 50, "float64")) for saving in (False, True))
    assert_results(saving[: len(shown)], shown, 1e-13, name)


@pytest.mark.parametrize("name", NAMES)
def test_few_rows_and_many_columns_are_split_between_threads(name: str) -> None:
    """Three rows of 100,000 columns give the reference's values, merged from the threads' parts."""
    spec = spec_of(name)
    arrays = draw(3, 100_000, "float32")
    assert_results(computed(spec, *arrays), reference(read(spec), arrays), 2e-6, name)


@pytest.mark.parametrize("name", NAMES)
def test_merge_is_associative_and_its_identity_is_neutral(name: str) -> None:
    """1, 2, 5 and 64 splits, most of them empty in the end, give one result."""
    spec = spec_of(name)
    arrays = draw(33, 2500, "float64")
    whole = computed(spec, *arrays)
    for splits in (2, 5, 64):
        with forced_splits(splits):
            assert_results(computed(spec, *arrays), whole, 1e-13, f"{name} in {splits} splits")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=VARIANT_IDS)
def test_nan_and_infinities_go_where_numpy_puts_them(name: str, options: dict[str, Any], dtype: str) -> None:
    """One special term among 700, two of them, nothing but special ones: value and index are NumPy's."""
    check_special_terms(name, dtype, **options)


@pytest.mark.parametrize("name", [name for name in NAMES if REDUCTIONS[name].compensated])
def test_compensated_sums_keep_what_rounding_loses(name: str) -> None:
    """Thousands of float32 terms far below the last digit of the sum are in it."""
    check_compensation(name)


@pytest.mark.parametrize("name", NAMES)
def test_formulas_of_many_components(name: str) -> None:
    """Vectors too wide to hold several rows in registers, whose blocks of rows are smaller, give the same."""
    for dim in (13, 35):
        formula, weights = (
            ("x * y / 4", {}) if not REDUCTIONS[name].is_weighted else ("x | y", {"formula2": "x*x"})
        )
        if REDUCTIONS[name].weights == "optional":
            weights = {}
        spec = replace(spec_of(name, 1, formula, (f"x = Vi({dim})", f"y = Vj({dim})")), **weights)
        rng = np.random.default_rng(5)
        arrays = [rng.standard_normal((rows, dim)).astype(np.float32) for rows in (65, 300)]
        assert_results(computed(spec, *arrays), reference(read(spec), arrays), 2e-6, f"{name}, dim {dim}")


def test_the_first_of_equal_terms_is_selected() -> None:
    """Ties across lanes, tiles and splits give the lowest column number; so does a row of infinities."""
    columns = np.zeros((1000, 1))
    columns[[300, 301, 900]] = 1
    for name, sign in (("ArgMax", 1.0), ("ArgMin", -1.0)):
        for splits in (1, 4):
            with forced_splits(splits):
                spec = Spec("y + 0*x", ("x = Vi(1)", "y = Vj(1)"), name)
                assert computed(spec, np.zeros((2, 1)), sign * columns)[0].tolist() == [[300], [300]]
                assert computed(spec, np.zeros((1, 1)), np.full((999, 1), -sign * INF))[0].tolist() == [[0]]


def test_reductions_of_nothing() -> None:
    """Without columns: Sum 0, LogSumExp -inf, Max -inf, Min inf, indices -1; without rows: no rows."""
    expected = {"Sum": [0.0], "LogSumExp": [-INF], "Max": [-INF], "Min": [INF], "ArgMax": [-1], "ArgMin": [-1]}
    for name, values in expected.items():
        spec = Spec("x + y", ("x = Vi(1)", "y = Vj(1)"), name)
        assert computed(spec, np.ones((2, 1)), np.ones((0, 1)))[0].tolist() == [values, values]
        assert computed(spec, np.ones((0, 1)), np.ones((3, 1)))[0].shape == (0, 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logsumexp_does_not_overflow(dtype: str) -> None:
    """Terms of 1e4 and 8e4, of either sign and of both at once, for vectors, give the shifted formula's value."""
    spec = Spec("x * y", ("x = Vi(3)", "y = Vj(1)"), "LogSumExp")
    x = np.array([[1e4, -1e4, 8e4], [1.0, 0.0, -8e4]], dtype)
    y = np.linspace(-1, 1, 3001, dtype=dtype)[:, None]
    (got,) = computed(spec, x, y)
    terms = x.astype(np.float64)[:, None, :] * y.astype(np.float64)
    shift = terms.max(1)
    expected = shift + np.log(np.exp(terms - shift[:, None]).sum(1))
    assert np.isfinite(got).all()
    # A term of 8e4 is itself rounded to the type, which bounds what can be asked.
    assert np.abs(got / np.maximum(1, np.abs(expected)) - expected / np.maximum(1, np.abs(expected))).max() < (
        1e-6 if dtype == "float32" else 1e-14
    )


def test_a_million_terms_are_summed_accurately_in_float32() -> None:
    """The relative error of a float32 sum of 1,000,000 uniform numbers is below the peer's, whole and split."""
    values = np.random.default_rng(0).uniform(0, 1, (1_000_000, 1)).astype(np.float32)
    exact = values.sum(dtype=np.float64)
    spec = Spec("y", ("x = Vi(1)", "y = Vj(1)"))
    for splits in (1, 8):
        with forced_splits(splits):
            (got,) = computed(spec, np.zeros((1, 1), np.float32), values)
        assert abs(got[0, 0] - exact) / exact < 4.3e-8  # pykeops 2.3 with its default, block_sum


@pytest.mark.parametrize(("rows", "dim"), [(64, 1), (4, 1), (64, 40)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_terms_of_both_signs_are_summed_in_two_levels(dtype: str, rows: int, dim: int) -> None:
    """Sums of 20,000 normal numbers are off by less than 2.1 units of their spread; of 256 in a row, by more."""
    spec = Spec("x*y", (f"x = Vi({dim})", f"y = Vj({dim})"))
    errors = []
    for seed in range(20):
        y = np.random.default_rng(seed).standard_normal((20_000, dim)).astype(dtype)
        (got,) = computed(spec, np.ones((rows, dim), dtype), y)
        errors.append((got[0] - y.astype(np.longdouble).sum(0)) / (np.finfo(dtype).eps * np.sqrt(len(y))))
    assert np.sqrt(np.square(errors).mean()) < 2.1


# ---- gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_is_the_derivative_of_the_reference(name: str, axis: int) -> None:
    """Every reduction with a gradient, or one that saves for it, agrees with differences."""
    check_gradient(name, axis)


def seed(x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Square(p-a)*Exp(x+y), dense."""
    return (p - a[None]) ** 2 * torch.exp(x[:, None] + y[None])


def gaussian(x: torch.Tensor, y: torch.Tensor, b: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Exp(-g*SqDist(x,y))*b, dense."""
    return torch.exp(-g * ((x[:, None] - y[None]) ** 2).sum(-1, keepdim=True)) * b[None]


DENSE = {
    "seed": ("Square(p-a)*Exp(x+y)", ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"), seed),
    "gaussian": ("Exp(-g*SqDist(x,y))*b", ("x = Vi(3)", "y = Vj(3)", "b = Vj(2)", "g = Pm(1)"), gaussian),
}
TORCH = {
    "Sum": lambda terms, dim: terms.sum(dim),
    "LogSumExp": torch.logsumexp,
    "Max": lambda terms, dim: terms.max(dim).values,
    "Min_ArgMin": lambda terms, dim: terms.min(dim).values,
    "Mean": lambda terms, dim: terms.mean(dim),
    "Var": lambda terms, dim: terms.var(dim, correction=0),
    "Std": lambda terms, dim: terms.std(dim, correction=0),
    "Prod": lambda terms, dim: terms.prod(dim),
}


def _arguments(variables: tuple[str, ...], M: int = 9, N: int = 11) -> list[Array]:
    rng = np.random.default_rng(2)
    rows = {"Vi": (M,), "Vj": (N,), "Pm": ()}
    return [rng.uniform(0.2, 1, (*rows[text.split()[2][:2]], int(text[-2]))) for text in variables]


def _leaves(arrays: list[Array]) -> list[torch.Tensor]:
    return [torch.from_numpy(array).requires_grad_() for array in arrays]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("formula", DENSE)
def test_gradients_are_those_of_torch(formula: str, name: str, axis: int) -> None:
    """All four gradients of a reduction agree with torch's on the dense matrix, in float64."""
    text, variables, dense = DENSE[formula]
    arrays = _arguments(variables)
    spec = Spec(text, variables, name, axis)
    forward = computed(spec, *arrays)
    leaves = _leaves(arrays)
    value = TORCH[name](dense(*leaves), axis)
    assert_results(forward[:1], [value.detach().numpy()], 1e-13, "forward")
    e = np.random.default_rng(3).standard_normal(value.shape)
    expected = torch.autograd.grad(value, leaves, torch.from_numpy(e))
    taken = arguments_of_vjp(spec, arrays)
    hidden = [np.zeros_like(c) for c in taken[len(arrays) + len(read(spec.forward()).saved) :]]
    hidden[0] = e
    got = computed(spec.vjp((0, 1, 2, 3)), *taken[: len(taken) - len(hidden)], *hidden)
    assert_results(got, [g.numpy() for g in expected], 1e-12, f"gradients of {name}")


@pytest.mark.parametrize("formula", DENSE)
def test_second_derivatives_are_those_of_torch(formula: str) -> None:
    """The gradient of every gradient of a sum, cotangent included, agrees with torch's double backward."""
    text, variables, dense = DENSE[formula]
    arrays = _arguments(variables)
    spec = Spec(text, variables)
    leaves = _leaves(arrays)
    value = dense(*leaves).sum(1)
    rng = np.random.default_rng(4)
    e = rng.standard_normal(value.shape)
    cotangent = torch.from_numpy(e).requires_grad_()
    first = torch.autograd.grad(value, leaves, cotangent, create_graph=True)
    c = [rng.standard_normal(g.shape) for g in first]
    expected = torch.autograd.grad(first, [*leaves, cotangent], [torch.from_numpy(x) for x in c])
    got = computed(spec.vjp((0, 1, 2, 3)).vjp((0, 1, 2, 3, 4)), *arrays, e, *c)
    assert_results(got, [g.numpy() for g in expected], 1e-12, "second derivatives")
