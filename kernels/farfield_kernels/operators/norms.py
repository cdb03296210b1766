"""Norms, weighted norms, angles and products of vectors, all defined by formulas."""

from __future__ import annotations

import numpy as np

from ..domains import NONZERO, Array, Case
from ..errors import RuleError
from ..expr import Expr, apply
from .kinds import derived
from .vector import contract


def _iso(s: Expr, a: Expr) -> Expr:
    if s.dim != 1:
        raise RuleError(f"the weight is a scalar, its dim is {s.dim}")
    return s * apply("SqNorm2", a)


def _diag(s: Expr, a: Expr) -> Expr:
    if s.dim != a.dim:
        raise RuleError(f"{s.dim} weights do not fit {a.dim} components")
    return apply("Scalprod", s, apply("Square", a))


def _full(A: Expr, a: Expr) -> Expr:
    if A.dim != a.dim**2:
        raise RuleError(f"a matrix of {A.dim} components is not {a.dim} x {a.dim}")
    return apply("Scalprod", a, apply("MatVecMult", A, a))


def _weighted(s: Expr, a: Expr) -> Expr:
    rules = {a.dim**2: _full, a.dim: _diag, 1: _iso}
    if s.dim not in rules:
        raise RuleError(f"{s.dim} weights are not 1, {a.dim} or {a.dim**2}")
    return rules[s.dim](s, a)


def _weighted_reference(s: Array, a: Array) -> Array:
    D = a.shape[-1]
    if s.shape[-1] in (1, D):
        return np.asarray((s * a * a).sum(-1, keepdims=True))
    return _full_reference(s, a)


def _full_reference(A: Array, a: Array) -> Array:
    D = a.shape[-1]
    return np.asarray(np.einsum("...ij,...i,...j->...", A.reshape(*A.shape[:-1], D, D), a, a)[..., None])


def _turned(a: Expr) -> Expr:
    return apply("Concat", apply("Extract", a, 1, 2), apply("Extract", a, 0, 1))


def _cross(a: Expr, b: Expr) -> Expr:
    if (a.dim, b.dim) != (3, 3):
        raise RuleError(f"dims {a.dim} and {b.dim} are not both 3")
    return _turned(a * _turned(b) - _turned(a) * b)


def _vec_mat(b: Expr, A: Expr) -> Expr:
    if A.dim % b.dim:
        raise RuleError(f"a matrix of {A.dim} components has no {b.dim} rows")
    return contract(b, A, (0,), (0, 1), (1,), (b.dim, A.dim // b.dim))


def _cos_sim(a: Expr, b: Expr) -> Expr:
    if a.dim != b.dim:
        raise RuleError(f"dims {a.dim} and {b.dim} differ")
    return apply("Scalprod", apply("Normalize", a), apply("Normalize", b))


def _unit(a: Array) -> Array:
    return np.asarray(a / np.linalg.norm(a, axis=-1, keepdims=True))


# fmt: off
derived("Norm1", "sum of the absolute values of the components of a",
        lambda a: apply("Sum", apply("Abs", a)),
        reference=lambda a: np.abs(a).sum(-1, keepdims=True), domain=NONZERO, cases=(Case((1,)), Case((4,))))

derived("Normalize", "a / Norm2(a); 0 at 0, and so is its derivative",
        lambda a: apply("Rsqrt", apply("SqNorm2", a)) * a,
        reference=_unit, domain=NONZERO, cases=(Case((1,)), Case((3,))))

derived("CosSim", "cosine of the angle between a and b; 0 if one of them is 0",
        _cos_sim,
        reference=lambda a, b: (_unit(a) * _unit(b)).sum(-1, keepdims=True), domain=NONZERO, cases=(Case((3, 3)),))

derived("SqNormIso", "the scalar a times the squared norm of b",
        _iso,
        reference=_weighted_reference, cases=(Case((1, 3)), Case((1, 1))))

derived("SqNormDiag", "sum of a_k b_k**2",
        _diag,
        reference=_weighted_reference, cases=(Case((3, 3)), Case((1, 1))))

derived("SymSqNorm", "b A b for the row-major square matrix A, the first argument",
        _full,
        reference=_full_reference, cases=(Case((9, 3)), Case((1, 1))))

derived("WeightedSqNorm", "SqNormIso, SqNormDiag or SymSqNorm of a and b, by the dim of the weights a",
        _weighted,
        reference=_weighted_reference, cases=(Case((1, 3)), Case((3, 3)), Case((9, 3))))

derived("WeightedSqDist", "WeightedSqNorm of the weights a and the difference b - c",
        lambda s, a, b: _weighted(s, a - b),
        reference=lambda s, a, b: _weighted_reference(s, a - b),
        cases=(Case((1, 3, 3)), Case((3, 3, 3)), Case((9, 3, 3)), Case((3, 3, 1))))

derived("VecMatMult", "product of the vector a and the row-major matrix b",
        _vec_mat,
        reference=lambda b, A: np.einsum("...n,...np->...p", b, A.reshape(*A.shape[:-1], b.shape[-1], -1)),
        cases=(Case((2, 6)), Case((4, 4)), Case((1, 3))))

derived("Cross", "vector product of a and b, of dim 3",
        _cross,
        reference=np.cross, cases=(Case((3, 3)),))
# fmt: on
