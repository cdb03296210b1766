"""What the C texts of declarations call, by NumPy; all but `finite_or_zero` take `out`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .expr import Array

# Products of more multiplications are shared between threads by OpenBLAS. Ours are busy: on two cores in use, the
# scores of attention took 5 ms instead of 0.1.
MULTIPLICATIONS = 2**18
SUMMED = 4096  # terms that are summed in float32


def _of_one(function: Callable[[float], float]) -> Callable[..., Array]:
    """A function of the C library that NumPy lacks, number by number."""

    def of_all(x: Array, out: Array | None = None) -> Array:
        numbers = np.asarray(x)
        found = np.fromiter(map(function, numbers.ravel().tolist()), numbers.dtype, numbers.size)
        found = found.reshape(numbers.shape)
        if out is None:
            return found
        np.copyto(out, found)
        return out

    return of_all


def _lgamma(x: float) -> float:
    try:
        return math.lgamma(x)
    except ValueError:  # a pole
        return math.inf


def rsqrt(x: Array, out: Array | None = None) -> Array:
    """1 / sqrt(x)."""
    return np.divide(1, np.sqrt(x, out=out), out=out)


def finite_or_zero(x: Array) -> Array:
    """x, or 0 where it is infinite or NaN."""
    return np.where(np.isfinite(x), x, 0)


def choose(test: Array, a: Array, b: Array, out: Array | None = None) -> Array:
    """`a` where `test` is true, else `b`, by bits: NumPy's own choice takes 4 ns a number where tests look random,
    this 0.5."""
    if out is None:
        return np.where(test, a, b)
    bits = np.int32 if out.dtype.itemsize == 4 else np.int64
    mask = np.asarray(test, bits)
    np.negative(mask, out=mask)
    numbers, others = (np.asarray(x, out.dtype).view(bits) for x in (a, b))
    result = np.bitwise_xor(numbers, others, out=out.view(bits))
    np.bitwise_and(result, mask, out=result)
    np.bitwise_xor(result, others, out=result)
    return out


def product(a: Array, b: Array, out: Array | None = None) -> Array:
    """The product of two matrices, in parts that BLAS computes in the thread that asks."""
    (rows, inner), cols = a.shape, b.shape[1]
    if out is None:
        out = np.empty((rows, cols), a.dtype)
    down = max(8, MULTIPLICATIONS // max(1, inner * cols))
    across = max(8, MULTIPLICATIONS // max(1, inner * min(rows, down)))
    for i in range(0, rows, down):
        for j in range(0, cols, across):
            np.matmul(a[i : i + down], b[:, j : j + across], out=out[i : i + down, j : j + across])
    return out


def sums_of_products(a: Array, b: Array) -> Array:
    """The product of two matrices in float64, of sums of at most `SUMMED` terms in their own type."""
    total = np.zeros((a.shape[0], b.shape[1]))
    for k in range(0, a.shape[1], SUMMED):
        total += product(a[:, k : k + SUMMED], b[k : k + SUMMED])
    return total


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "neg": np.negative,
    "==": np.equal, "!=": np.not_equal, "<": np.less, ">": np.greater, "<=": np.less_equal, ">=": np.greater_equal,
    "&": np.logical_and, "|": np.logical_or, "&&": np.logical_and, "||": np.logical_or,
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "pow": np.power, "sqrt": np.sqrt, "rsqrt": rsqrt,
    "log": np.log, "log2": np.log2, "log10": np.log10, "log1p": np.log1p, "hypot": np.hypot, "fabs": np.abs,
    "cbrt": np.cbrt,
    "sin": np.sin, "cos": np.cos, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
    "ceil": np.ceil, "floor": np.floor, "trunc": np.trunc, "rint": np.rint,
    "erf": _of_one(math.erf), "erfc": _of_one(math.erfc), "lgamma": _of_one(_lgamma),
    "?": choose, "finite_or_zero": finite_or_zero,
}  # fmt: skip
"""By name, or by operator."""

TRUTHS = frozenset("== != < > <= >= & | && ||".split())
"""Those whose results are true or false."""
