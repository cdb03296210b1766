"""Operators between vectors, constants, complex vectors and derivatives written in the formula."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from . import reasons
from .row import Array, Section

vectors = Section("vectors")
matrices = Section("matrices and tensors")
constants = Section("constants")
complexes = Section("complex vectors")
derivatives = Section("derivatives in the formula")


def total(a: Array) -> Array:
    """Sum of the components."""
    return a.sum(-1, keepdims=True)


def one_hot(a: Array, d: int) -> Array:
    """1 at the component that `a` names."""
    return (np.floor(a + 0.5) == np.arange(d)) * 1.0


def normalized(a: Array) -> Array:
    """Of length 1, or 0."""
    length = np.sqrt(total(a * a))
    return a / np.where(length == 0, 1, length)


# ---- folds and selection -------------------------------------------------------------------------------------

X4Y4 = "x = Vi(4), y = Vj(4)"
vectors("x | y", X4Y4, lambda x, y: total(x * y))
vectors("Scalprod(x, y)", "x = Vi(1), y = Vj(3)", lambda x, y: total(x * y))
vectors("Scalprod(x, y)", "x = Vi(3), y = Vj(1)", lambda x, y: total(x * y), axis=0)
vectors("Sum(x * y)", X4Y4, lambda x, y: total(x * y))
vectors("Sum(x - y)", "x = Vi(1), y = Vj(1)", lambda x, y: x - y)
vectors("SumT(x * y, 3) * b", "x = Vi(1), y = Vj(1), b = Vj(3)", lambda x, y, b: x * y * b)
for name, function in {"Max": np.max, "Min": np.min}.items():
    vectors(f"{name}(x - y)", X4Y4, lambda x, y, f=function: f(x - y, -1, keepdims=True))
    vectors(f"{name}(x * y)", "x = Vi(1), y = Vj(1)", lambda x, y: x * y, axis=0)
    vectors(f"{name}(x)", "x = Vi(4) ties", lambda x, f=function: f(x, -1, keepdims=True))
    vectors(
        f"{name}(x)",
        "x = Vi(3) some_nan",
        lambda x, f=function: f(x, -1, keepdims=True),
        differs=reasons.SKIPPED_NAN,
    )
for name, function in {"ArgMax": np.argmax, "ArgMin": np.argmin}.items():
    vectors(f"{name}(x - y)", X4Y4, lambda x, y, f=function: f(x - y, -1, keepdims=True) * 1.0)
    vectors(f"{name}(x)", "x = Vi(4) ties", lambda x, f=function: f(x, -1, keepdims=True) * 1.0)
    vectors(
        f"{name}(x)",
        "x = Vi(3) some_nan",
        lambda x, f=function: f(x, -1, keepdims=True) * 1.0,
        differs=reasons.SKIPPED_NAN,
    )
vectors("SqNorm2(x - y)", X4Y4, lambda x, y: total((x - y) ** 2))
vectors("Norm2(x - y)", X4Y4, lambda x, y: np.sqrt(total((x - y) ** 2)))
vectors("Norm2(x)", "x = Vi(3) zero_rows", lambda x: np.sqrt(total(x * x)))
vectors("Norm2(x)", "x = Vi(1) edges", lambda x: np.sqrt(x * x))
vectors("Normalize(x - y)", X4Y4, lambda x, y: normalized(x - y))
vectors("Normalize(x)", "x = Vi(3) zero_rows", normalized)
vectors("Normalize(x * y)", "x = Vi(1), y = Vj(1)", lambda x, y: np.sign(x * y))
for D, E in ((3, 3), (1, 3), (3, 1), (1, 1)):
    vectors("SqDist(x, y)", f"x = Vi({D}), y = Vj({E})", lambda x, y: total((x - y) ** 2), axis=int(D >= E))
vectors("SqNormIso(s, x - y)", "s = Pm(1), x = Vi(3), y = Vj(3)", lambda s, x, y: s * total((x - y) ** 2))
vectors("SqNormDiag(s, x - y)", "s = Pm(3), x = Vi(3), y = Vj(3)", lambda s, x, y: total(s * (x - y) ** 2))


def quadratic(A: Array, a: Array) -> Array:
    """a A a for a row-major square A."""
    d = a.shape[-1]
    return np.einsum("...kl,...k,...l->...", A.reshape(*A.shape[:-1], d, d), a, a)[..., None]


vectors("SymSqNorm(A, x - y)", "A = Pm(9), x = Vi(3), y = Vj(3)", lambda A, x, y: quadratic(A, x - y))
vectors("SymSqNorm(A, y)", "A = Vi(4), y = Vj(2)", quadratic)
for D in (1, 3, 9):
    weighted: Callable[..., Array] = quadratic if D == 9 else lambda s, a: total(s * a * a)
    declared = f"s = Pm({D}), x = Vi(3), y = Vj(3)"
    vectors("WeightedSqNorm(s, x * y)", declared, lambda s, x, y, f=weighted: f(s, x * y))
    vectors("WeightedSqDist(s, x, y)", declared, lambda s, x, y, f=weighted: f(s, x - y))
for m in (0, 2):
    vectors(f"Elem(x * y, {m})", "x = Vi(3), y = Vj(3)", lambda x, y, m=m: (x * y)[..., m : m + 1])
    vectors(f"ElemT(x * y, 3, {m})", "x = Vi(1), y = Vj(1)", lambda x, y, m=m: x * y * (np.arange(3) == m))
for start, d in ((0, 2), (1, 3), (4, 1)):
    vectors(
        f"Extract(x * y, {start}, {d})", "x = Vi(5), y = Vj(5)", lambda x, y, s=start, d=d: (x * y)[..., s : s + d]
    )
for start, d in ((0, 2), (1, 5)):
    vectors(
        f"ExtractT(x * y, {start}, {d})",
        "x = Vi(2), y = Vj(2)",
        lambda x, y, s=start, d=d: np.pad(x * y, [(0, 0), (0, 0), (s, d - s - 2)]),
    )


def concatenated(a: Array, b: Array) -> Array:
    """Components of a, then of b."""
    rows = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    return np.concatenate([np.broadcast_to(part, (*rows, part.shape[-1])) for part in (a, b)], -1)


vectors("Concat(x, y)", "x = Vi(2), y = Vj(3)", concatenated)
vectors("Concat(x * b, Square(y))", "x = Vi(2), y = Vj(1), b = Vj(1)", lambda x, y, b: concatenated(x * b, y * y))
vectors("OneHot(k, 4) * y", "k = Vi(1) places, y = Vj(4)", lambda k, y: one_hot(k, 4) * y)
vectors("OneHot(k + IntCst(1), 4)", "k = Vi(1) places", lambda k: one_hot(k + 1, 4))

# ---- matrices and tensors ------------------------------------------------------------------------------------


def mat_vec(A: Array, b: Array) -> Array:
    """Row-major A times b."""
    return (A.reshape(*A.shape[:-1], -1, b.shape[-1]) @ b[..., None])[..., 0]


def vec_mat(b: Array, A: Array) -> Array:
    """b times row-major A."""
    return (b[..., None, :] @ A.reshape(*A.shape[:-1], b.shape[-1], -1))[..., 0, :]


def outer(a: Array, b: Array) -> Array:
    """All products, row-major."""
    product = a[..., :, None] * b[..., None, :]
    return product.reshape(*product.shape[:-2], -1)


for D, E in ((6, 3), (6, 2), (4, 4), (3, 1)):
    matrices("MatVecMult(A, y)", f"A = Vi({D}), y = Vj({E})", mat_vec)
    matrices("VecMatMult(y, A)", f"A = Vi({D}), y = Vj({E})", lambda A, y: vec_mat(y, A), axis=0)
matrices("MatVecMult(A, x - y)", "A = Pm(6), x = Vi(3), y = Vj(3)", lambda A, x, y: mat_vec(A, x - y))
for D, E in ((2, 3), (1, 3), (3, 1)):
    matrices("TensorProd(x, y)", f"x = Vi({D}), y = Vj({E})", outer)


def contraction(shape_a: Any, shape_b: Any, axes: Any, order: Any = None) -> Callable[..., Array]:
    """np.tensordot on the components of each pair."""

    def each(a: Array, b: Array) -> Array:
        kept = len(shape_a) + len(shape_b) - 2 * len(axes[0])
        letters = iter("uvwxyz")
        names_a, names_b = [next(letters) for _ in shape_a], ["abcdef"[k] for k in range(len(shape_b))]
        for k, l in zip(*axes, strict=True):
            names_b[l] = names_a[k]
        free = [n for k, n in enumerate(names_a) if k not in axes[0]]
        free += [n for k, n in enumerate(names_b) if k not in axes[1]]
        free = [free[k] for k in order] if order else free
        tensors = a.reshape(*a.shape[:-1], *shape_a), b.reshape(*b.shape[:-1], *shape_b)
        result = np.einsum(f"...{''.join(names_a)},...{''.join(names_b)}->...{''.join(free)}", *tensors)
        return result.reshape(*result.shape[: result.ndim - kept], -1)

    return each


matrices(
    "TensorDot(x, y, [2, 2], [2, 2], [1], [0])", "x = Vi(4), y = Vj(4)", contraction((2, 2), (2, 2), ((1,), (0,)))
)
matrices(
    "TensorDot(x, y, [2, 3], [3, 2], [1], [0])", "x = Vi(6), y = Vj(6)", contraction((2, 3), (3, 2), ((1,), (0,)))
)
matrices(
    "TensorDot(x, y, [2, 3], [2, 3], [0, 1], [0, 1])",
    "x = Vi(6), y = Vj(6)",
    contraction((2, 3), (2, 3), ((0, 1), (0, 1))),
)
matrices(
    "TensorDot(x, y, [2, 2, 2], [2, 2], [1], [0])",
    "x = Vi(8), y = Vj(4)",
    contraction((2, 2, 2), (2, 2), ((1,), (0,))),
)
matrices("TensorDot(x, y, [2], [3], [], [])", "x = Vi(2), y = Vj(3)", contraction((2,), (3,), ((), ())))
matrices(
    "TensorDot(x, y, [2, 3], [3, 2], [1], [0], [1, 0])",
    "x = Vi(6), y = Vj(6)",
    contraction((2, 3), (3, 2), ((1,), (0,)), (1, 0)),
)
# The kept axis k becomes axis permute[k] of the result: np.transpose takes the inverse.
for permute in ((1, 2, 0), (2, 0, 1)):
    matrices(
        f"TensorDot(x, y, [2, 3, 2], [2, 2], [0], [1], {list(permute)})",
        "x = Vi(12), y = Vj(4)",
        contraction((2, 3, 2), (2, 2), ((0,), (1,)), tuple(np.argsort(permute))),
    )


def kronecker(shape_a: Any, shape_b: Any) -> Callable[..., Array]:
    """np.kron of the components of each pair, for matrices."""

    def each(a: Array, b: Array) -> Array:
        tensors = a.reshape(*a.shape[:-1], *shape_a), b.reshape(*b.shape[:-1], *shape_b)
        result = np.einsum("...kl,...mn->...kmln", *tensors)
        return result.reshape(*result.shape[:-4], -1)

    return each


matrices("Kron(x, y, [2, 2], [2, 2])", "x = Vi(4), y = Vj(4)", kronecker((2, 2), (2, 2)))
matrices("Kron(x, y, [2, 3], [1, 2])", "x = Vi(6), y = Vj(2)", kronecker((2, 3), (1, 2)))


def b_spline(knots: Array, x: Array, order: int) -> Array:
    """The recursion of de Boor and Cox, half-open intervals."""
    values = (knots[..., :-1] <= x) & (x < knots[..., 1:])
    result = values * 1.0
    for k in range(1, order + 1):
        left = (x - knots[..., : -k - 1]) / (knots[..., k:-1] - knots[..., : -k - 1])
        right = (knots[..., k + 1 :] - x) / (knots[..., k + 1 :] - knots[..., 1:-k])
        result = left * result[..., :-1] + right * result[..., 1:]
    return result


for order, dtype in itertools.product((0, 1, 2), ("float64", "float32")):  # the peer has it in float32 only
    matrices(
        f"BSpline(t, x, {order}) * b",
        "t = Pm(6) knots, x = Vi(1) positive, b = Vj(1)",
        lambda t, x, b, k=order: b_spline(t, x, k) * b,
        dtype=dtype,
    )


def soft_dtw(x: Array, y: Array, gamma: Array) -> Array:
    """The recursion of Cuturi and Blondel (2017) on squared differences."""
    costs = (x[..., :, None] - y[..., None, :]) ** 2
    infinite = np.full(costs.shape[:-2], np.inf)
    before = [np.zeros_like(infinite)] + [infinite] * y.shape[-1]
    for i in range(x.shape[-1]):
        here = [infinite]
        for j in range(y.shape[-1]):
            three = np.stack(np.broadcast_arrays(before[j], before[j + 1], here[j]))
            here.append(costs[..., i, j] - gamma[..., 0] * np.logaddexp.reduce(-three / gamma[..., 0]))
        before = here
    return before[-1][..., None]


matrices(
    "SoftDTW_SqDist(x, y, g)",
    "x = Vi(4), y = Vj(3), g = Pm(1) positive",
    soft_dtw,
    differs=reasons.SHADOWED_ROWS,
)

# ---- constants -----------------------------------------------------------------------------------------------

XY = "x = Vi(3), y = Vj(3)"
constants("IntCst(2) * x + y", XY, lambda x, y: 2 * x + y)
constants("IntCst(-3) * x - y", XY, lambda x, y: -3 * x - y)
constants("IntInv(4) * x * y", XY, lambda x, y: x * y / 4)
constants("IntInv(3) * x * y", XY, lambda x, y: x * y / 3, differs=reasons.SINGLE_CONSTANT)
constants("RatCst(3, 8) * x * y", XY, lambda x, y: 3 / 8 * x * y)
constants("RatCst(2, 3) * x * y", XY, lambda x, y: 2 / 3 * x * y, differs=reasons.SINGLE_CONSTANT)
constants("IntCst(16777217) * x * y", XY, lambda x, y: 16777217 * x * y, differs=reasons.SINGLE_CONSTANT)
constants("x / 3 + y", XY, lambda x, y: x / 3 + y, differs=reasons.SINGLE_CONSTANT)
constants("x / 4 + y", XY, lambda x, y: x / 4 + y)
constants("Zero(3) + x * y", XY, lambda x, y: x * y)
constants("Concat(x * y, Zero(2))", XY, lambda x, y: concatenated(x * y, np.zeros((1, 1, 2))))
constants("IntCst(5)", XY, lambda x, y: np.full((1, 1, 1), 5.0))

# ---- complex vectors -----------------------------------------------------------------------------------------


def pairs(a: Array) -> Array:
    """Interleaved components as complex numbers."""
    return a[..., ::2] + 1j * a[..., 1::2]


def joined(z: Array) -> Array:
    """Complex numbers as interleaved components."""
    return np.stack([z.real, z.imag], -1).reshape(*z.shape[:-1], -1)


C4 = "x = Vi(4), y = Vj(4)"
for name, over_pairs in {
    "ComplexReal": lambda z: z.real,
    "ComplexImag": lambda z: z.imag,
    "ComplexAbs": np.abs,
    "ComplexAngle": np.angle,
    "ComplexSquareAbs": lambda z: np.abs(z) ** 2,
    "Conj": lambda z: joined(z.conj()),
    "ComplexExp": lambda z: joined(np.exp(z)),
    "ComplexSum": lambda z: joined(z.sum(-1, keepdims=True)),
}.items():
    complexes(f"{name}(x - y)", C4, lambda x, y, f=over_pairs: f(pairs(x - y)))
complexes("Real2Complex(x * y)", XY, lambda x, y: joined(x * y + 0j))
complexes("Imag2Complex(x * y)", XY, lambda x, y: joined(1j * x * y))
complexes("ComplexExp1j(x * y)", XY, lambda x, y: joined(np.exp(1j * x * y)))
for name, on_two in {
    "ComplexAdd": np.add,
    "ComplexSubtract": np.subtract,
    "ComplexMult": np.multiply,
    "ComplexDivide": np.divide,
}.items():
    for D, E in ((4, 4), (2, 4), (4, 2)):
        complexes(
            f"{name}(x, y)",
            f"x = Vi({D}), y = Vj({E})",
            lambda x, y, f=on_two: joined(f(pairs(x), pairs(y))),
            axis=int(D >= E),
        )
complexes("ComplexRealScal(s, y)", "s = Vi(1), y = Vj(4)", lambda s, y: s * y)
complexes("ComplexRealScal(y, s)", "s = Vi(1), y = Vj(4)", lambda s, y: s * y)
complexes("ComplexSumT(x, 4) * y", "x = Vi(2), y = Vj(4)", lambda x, y: np.tile(x, 2) * y)
complexes("ComplexAbs(x)", "x = Vi(4) zero_rows", lambda x: np.abs(pairs(x)))

# ---- derivatives in the formula ------------------------------------------------------------------------------
XYB = "x = Vi(3), y = Vj(3), b = Vj(1), e = Vi(3)"


def gaussian(x: Array, y: Array) -> Array:
    """e to the power -|x - y|^2."""
    return np.exp(-total((x - y) ** 2))


for formula, truth in {
    "Grad(SqDist(x, y), x, b)": lambda x, y, b, e: 2 * b * (x - y),
    "Grad(SqDist(x, y), y, b)": lambda x, y, b, e: 2 * b * (y - x),
    "Grad(Exp(-SqDist(x, y)), x, b)": lambda x, y, b, e: -2 * b * (x - y) * gaussian(x, y),
    "Grad(Grad(Exp(-SqDist(x, y)), x, b), y, e)": lambda x, y, b, e: (
        2 * b * gaussian(x, y) * (e - 2 * (x - y) * total((x - y) * e))
    ),
    "Grad(Sin(x) * y, x, e)": lambda x, y, b, e: e * y * np.cos(x),
    "GradMatrix(Square(x) * y, x)": lambda x, y, b, e: outer_diagonal(2 * x * y),
    "GradMatrix(Exp(-SqDist(x, y)), x)": lambda x, y, b, e: -2 * (x - y) * gaussian(x, y),
    "Divergence(x * SqDist(x, y), x)": lambda x, y, b, e: 3 * total((x - y) ** 2) + 2 * total(x * (x - y)),
    "Laplacian(Exp(-SqDist(x, y)), x)": lambda x, y, b, e: (4 * total((x - y) ** 2) - 6) * gaussian(x, y),
    "Diff(Sin(x) * y, x, e)": lambda x, y, b, e: e * y * np.cos(x),
    "Diff(SqDist(x, y), x, e)": lambda x, y, b, e: 2 * total((x - y) * e),
    "Diff(Exp(-SqDist(x, y)), x, e)": lambda x, y, b, e: -2 * total((x - y) * e) * gaussian(x, y),
    "GradMatrix(x * SqDist(x, y), y)": lambda x, y, b, e: outer(x, -2 * (x - y)),
    "AdjointOperator(Sin(y) * x, x, e)": lambda x, y, b, e: np.sin(y) * e,
    "AdjointOperator(x | y, x, b)": lambda x, y, b, e: b * y,
    "TraceOperator(Sin(y) * x, x)": lambda x, y, b, e: total(np.sin(y)),
    "SumLinOperator(Sin(y) * x, x)": lambda x, y, b, e: total(np.sin(y)),
    "Factorize(Exp(-SqDist(x, y)) * SqDist(x, y), SqDist(x, y)) * b": lambda x, y, b, e: (
        gaussian(x, y) * total((x - y) ** 2) * b
    ),
    "AutoFactorize(Exp(-SqDist(x, y)) * SqDist(x, y) * b)": lambda x, y, b, e: (
        gaussian(x, y) * total((x - y) ** 2) * b
    ),
}.items():
    derivatives(formula, XYB, truth)


def outer_diagonal(a: Array) -> Array:
    """A diagonal matrix, row-major."""
    return (a[..., None] * np.eye(a.shape[-1])).reshape(*a.shape[:-1], -1)


SECTIONS = (vectors, matrices, constants, complexes, derivatives)
