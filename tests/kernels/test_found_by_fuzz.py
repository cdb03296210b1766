"""What random formulas found: each in the smallest form that failed."""

from __future__ import annotations

import numpy as np
import pytest

from farfield_kernels import engine
from farfield_kernels.operation import Spec, read
from farfield_kernels.reference import reference
from kernels.reduction_checks import assert_results, forced_splits

pytestmark = pytest.mark.usefixtures("path")  # compiled, and on NumPy


def test_split_gradients_of_rows_and_parameters_do_not_crash() -> None:
    """Three components per row and one of a parameter, in float64: GCC 12 misaligned the state it merged."""
    spec = Spec("Exp(-p*SqDist(x,y))", ("x = Vi(3)", "y = Vj(3)", "p = Pm(1)"), separation="off").vjp((0, 2))
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in ((5, 3), (700, 3), (1,), (5, 1))]
    with forced_splits(2):
        got = engine.run(spec, arrays, device="cpu").arrays
    assert_results(got, reference(read(spec), arrays), 1e-12, "gradients")


def test_products_of_constant_scalars_are_folded() -> None:
    """Contract's reference took no scalars without an axis, which folding the gradient of zeros gives it."""
    spec = Spec("WeightedSqDist(0, Extract(ElemT(x,4,2),3,1), 0)", ("x = Vi(1)", "y = Vj(1)")).vjp((0,))
    (gradient,) = engine.run(spec, [np.ones((3, 1)), np.ones((2, 1)), np.ones((3, 1))], device="cpu").arrays
    assert np.array_equal(gradient, np.zeros((3, 1)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["Var", "Std"])
def test_the_spread_of_equal_terms_is_no_less_than_zero(name: str, dtype: str) -> None:
    """A product that is fused with a subtraction differs from its rounded self: Var was below 0 and Std NaN."""
    spec = Spec("Square(x - y)", ("x = Vi(1)", "y = Vj(1)"), name)
    x = np.random.default_rng(0).standard_normal((1000, 1)).astype(dtype)
    (spread,) = engine.run(spec, [x, np.zeros((5, 1), dtype)], device="cpu").arrays
    assert spread.min() >= 0
    assert spread.max() <= 8 * np.finfo(dtype).eps * float(np.square(x).max())


@pytest.mark.parametrize("name", ["Var", "Std"])
def test_the_spread_of_one_number_is_zero(name: str) -> None:
    """A mean that is rounded differs from terms that are all the same: the derivative of Std then was not 0."""
    spec = Spec("x + 0.1 * y", ("x = Vi(1)", "y = Vj(1)"), name)
    x = np.random.default_rng(0).standard_normal((50, 1))
    for splits in (1, 3):
        with forced_splits(splits):
            (spread,) = engine.run(spec, [x, np.ones((1003, 1))], device="cpu").arrays
        assert not spread.any(), f"{splits} splits: {spread.max():.1e}"
