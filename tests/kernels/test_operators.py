"""Every declared operator: value, derivative and second derivative, generated from its declaration."""

from __future__ import annotations

import numpy as np
import pytest

from farfield_kernels import engine
from farfield_kernels.operation import Spec, read
from farfield_kernels.operators import named_operators
from farfield_kernels.reference import reference
from kernels.operator_checks import check_second_order, check_value, check_vjp

pytestmark = pytest.mark.usefixtures("path")  # compiled, and on NumPy
NAMES = sorted(name for name, operator in named_operators().items() if operator.cases)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_emitted_code_computes_the_reference(name: str, dtype: str) -> None:
    """The C++ of the operator agrees with its NumPy reference on every declared case."""
    check_value(name, dtype)


@pytest.mark.parametrize("name", NAMES)
def test_vjp_is_the_derivative_of_the_reference(name: str) -> None:
    """The declared derivative agrees with differences of the reference, broadcast dims included."""
    check_vjp(name)


@pytest.mark.parametrize("name", NAMES)
def test_vjp_of_vjp_is_the_second_derivative(name: str) -> None:
    """Derivatives of the derivative formulas agree with second differences of the reference."""
    check_second_order(name)


def test_only_row_and_column_numbers_have_no_cases() -> None:
    """Every other operator is covered by the generated tests."""
    assert named_operators().keys() - set(NAMES) == {"I", "J"}


def test_permute_says_where_each_kept_axis_goes() -> None:
    """Kept axis k is axis permute[k] of TensorDot's result, as in pykeops: np.transpose by the inverse."""
    x, y = np.arange(12.0).reshape(1, 12), np.array([[1.0, -2.0, 5.0, 3.0]])
    product = np.tensordot(x.reshape(2, 3, 2), y.reshape(2, 2), ([0], [1]))  # of shape (3, 2, 2)
    expected = np.empty((2, 3, 2))
    for place in np.ndindex(3, 2, 2):
        expected[place[2], place[0], place[1]] = product[place]
    spec = Spec("TensorDot(x, y, [2, 3, 2], [2, 2], [0], [1], [1, 2, 0])", ("x = Vi(12)", "y = Vj(4)"), axis=1)
    np.testing.assert_array_equal(engine.run(spec, [x, y]).arrays[0], expected.reshape(1, 12))
    np.testing.assert_array_equal(expected, product.transpose(2, 0, 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("axis", [0, 1])
def test_row_and_column_numbers(axis: int, dtype: str) -> None:
    """I() and J() count rows and columns, kept or summed, and masks of them have right gradients."""
    M, N = 19, 700
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0.2, 1, (M, 1)).astype(dtype), rng.uniform(0.2, 1, (N, 1)).astype(dtype)
    i, j = np.arange(M)[:, None], np.arange(N)[None, :]
    pairs = (j <= 30 * i) * (3.0 * i + j + 1) * x.astype(float) * y.T.astype(float)
    spec = Spec("(J() <= 30 * I()) * (3 * I() + J() + 1) * x * y", ("x = Vi(1)", "y = Vj(1)"), axis=axis)
    (got,) = engine.run(spec, [x, y]).arrays
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(got[:, 0], pairs.sum(axis), rtol=tolerance)
    taken = [x, y, rng.uniform(0.2, 1, got.shape).astype(dtype)]
    for found, expected in zip(
        engine.run(spec.vjp((0, 1)), taken).arrays, reference(read(spec.vjp((0, 1))), taken), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=tolerance)
