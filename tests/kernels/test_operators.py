"""Every declared operator: value, derivative and second derivative, generated from its declaration."""

from __future__ import annotations

import pytest

from farfield_kernels.operators import named_operators
from kernels.operator_checks import check_second_order, check_value, check_vjp

NAMES = sorted(named_operators())


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
