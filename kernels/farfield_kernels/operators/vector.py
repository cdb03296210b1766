"""Operators between vectors of different dims: folds, selection, the general contraction, and what they define."""

from __future__ import annotations

import string
from typing import Any

import numpy as np

from ..domains import REAL, Array, Case
from ..errors import RuleError
from ..expr import Core, Emit, Expr, apply, declare
from .kinds import Dims, Params, derived

# ---- folds ---------------------------------------------------------------------------------------------------


def _lower_sum(emit: Emit, operands: list[list[int]], dim: int, params: Params) -> list[int]:
    total, *rest = operands[0]
    for scalar in rest:
        total = emit("$a + $b", total, scalar)
    return [total]


declare(
    Core(
        name="Sum",
        doc="sum of the components of a",
        arity=1,
        reference=lambda a: a.sum(-1, keepdims=True),
        domain=REAL,
        cases=(Case((1,)), Case((4,))),
        dim=lambda dims, params: 1,
        lower=_lower_sum,
        vjp=lambda g, y, a: (apply("SumT", g, a.dim),),
        linear=((0,),),
    )
)


def _repeated_dim(dims: Dims, params: Params) -> int:
    if dims[0] != 1:
        raise RuleError(f"repeats a scalar, its operand has dim {dims[0]}")
    return int(params[0])


declare(
    Core(
        name="SumT",
        doc="the scalar a repeated d times",
        arity=1,
        integers=("d",),
        reference=lambda a, d: np.repeat(a, d, -1),
        domain=REAL,
        cases=(Case((1,), (3,)),),
        dim=_repeated_dim,
        lower=lambda emit, operands, dim, params: operands[0] * dim,
        vjp=lambda g, y, a, d: (apply("Sum", g),),
        linear=((0,),),
    )
)


# ---- selection -----------------------------------------------------------------------------------------------


def _concat_reference(a: Array, b: Array) -> Array:
    rows = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    return np.concatenate([np.broadcast_to(x, (*rows, x.shape[-1])) for x in (a, b)], -1)


declare(
    Core(
        name="Concat",
        doc="the components of a, then those of b",
        arity=2,
        reference=_concat_reference,
        domain=REAL,
        cases=(Case((2, 3)), Case((1, 1))),
        dim=lambda dims, params: sum(dims),
        lower=lambda emit, operands, dim, params: operands[0] + operands[1],
        vjp=lambda g, y, a, b: (apply("Extract", g, 0, a.dim), apply("Extract", g, a.dim, b.dim)),
        linear=((0, 1),),
    )
)


def _extract_dim(dims: Dims, params: Params) -> int:
    start, dim = params
    if start < 0 or dim < 1 or start + dim > dims[0]:
        raise RuleError(f"components {start}..{start + dim - 1} are not all in 0..{dims[0] - 1}")
    return int(dim)


declare(
    Core(
        name="Extract",
        doc="the d components of a from number start on",
        arity=1,
        integers=("start", "d"),
        reference=lambda a, start, d: a[..., start : start + d],
        domain=REAL,
        cases=(Case((5,), (1, 3)), Case((2,), (0, 2))),
        dim=_extract_dim,
        lower=lambda emit, operands, dim, params: operands[0][params[0] : params[0] + params[1]],
        vjp=lambda g, y, a, start, d: (apply("ExtractT", g, start, a.dim),),
        linear=((0,),),
    )
)


def _padded_dim(dims: Dims, params: Params) -> int:
    start, dim = params
    if start < 0 or start + dims[0] > dim:
        raise RuleError(f"components {start}..{start + dims[0] - 1} are not all in 0..{dim - 1}")
    return int(dim)


def _padded_reference(a: Array, start: int, d: int) -> Array:
    after = d - start - a.shape[-1]
    return np.pad(a, [(0, 0)] * (a.ndim - 1) + [(start, after)])


def _lower_padded(emit: Emit, operands: list[list[int]], dim: int, params: Params) -> list[int]:
    zero, start, scalars = emit("K(0)"), params[0], operands[0]
    return [zero] * start + scalars + [zero] * (dim - start - len(scalars))


declare(
    Core(
        name="ExtractT",
        doc="a vector of dim d that is a from component start on, and 0 elsewhere",
        arity=1,
        integers=("start", "d"),
        reference=_padded_reference,
        domain=REAL,
        cases=(Case((2,), (1, 5)), Case((2,), (0, 2))),
        dim=_padded_dim,
        lower=_lower_padded,
        vjp=lambda g, y, a, start, d: (apply("Extract", g, start, a.dim),),
        linear=((0,),),
    )
)


# ---- the general contraction ---------------------------------------------------------------------------------
# Params: labels of a, of b and of the result, and the size of each label: einsum on row-major tensors.
# Every label stands in at least two of the three, so the derivative of a contraction is one again.


def contract(a: Expr, b: Expr, labels_a: Dims, labels_b: Dims, labels: Dims, sizes: Dims) -> Expr:
    """Sum over the labels that the result lacks of the products of components of `a` and `b`."""
    return apply("Contract", a, b, params=(labels_a, labels_b, labels, sizes))


def _extent(labels: Dims, sizes: Dims) -> int:
    return int(np.prod([sizes[label] for label in labels], dtype=int))


def _contract_dim(dims: Dims, params: Params) -> int:
    labels_a, labels_b, labels, sizes = params
    assert dims == (_extent(labels_a, sizes), _extent(labels_b, sizes))
    return _extent(labels, sizes)


def _strides(labels: Dims, sizes: Dims) -> dict[int, int]:
    strides, stride = {}, 1
    for label in reversed(labels):
        strides[label] = stride
        stride *= sizes[label]
    return strides


def _lower_contract(emit: Emit, operands: list[list[int]], dim: int, params: Params) -> list[int]:
    labels_a, labels_b, labels, sizes = params
    at_a, at_b, summed = _strides(labels_a, sizes), _strides(labels_b, sizes), []
    summed = [label for label in range(len(sizes)) if label not in labels]
    results = []
    for kept in np.ndindex(*(sizes[label] for label in labels)):
        total: int | None = None
        for inner in np.ndindex(*(sizes[label] for label in summed)):
            place = dict(zip(labels, kept, strict=True)) | dict(zip(summed, inner, strict=True))
            x = operands[0][sum(place[label] * stride for label, stride in at_a.items())]
            y = operands[1][sum(place[label] * stride for label, stride in at_b.items())]
            total = emit("$a * $b", x, y) if total is None else emit("$a * $b + $c", x, y, total)
        assert total is not None
        results.append(total)
    return results


def _contract_reference(a: Array, b: Array, *params: Any) -> Array:
    labels_a, labels_b, labels, sizes = params
    letters = string.ascii_letters
    text = ["".join(letters[label] for label in side) for side in (labels_a, labels_b, labels)]
    split_a = a.reshape((*a.shape[:-1], *(sizes[label] for label in labels_a)))
    split_b = b.reshape((*b.shape[:-1], *(sizes[label] for label in labels_b)))
    result: Array = np.einsum(f"...{text[0]},...{text[1]}->...{text[2]}", split_a, split_b)
    return result.reshape(*result.shape[: result.ndim - len(labels)], _extent(labels, sizes))


declare(
    Core(
        name="Contract",
        doc="sum of products of components of a and b over shared indices",
        arity=2,
        reference=_contract_reference,
        domain=REAL,
        cases=(),  # formulas cannot name it; tested through the operators it defines
        dim=_contract_dim,
        lower=_lower_contract,
        vjp=lambda g, y, a, b, la, lb, lo, sizes: (
            contract(g, b, lo, lb, la, sizes),
            contract(a, g, la, lo, lb, sizes),
        ),
        linear=((0,), (1,)),
    )
)


# ---- defined by formulas -------------------------------------------------------------------------------------


def _scalprod(a: Expr, b: Expr) -> Expr:
    if a.dim == b.dim:
        return contract(a, b, (0,), (0,), (), (a.dim,))
    if 1 in (a.dim, b.dim):
        return apply("Sum", a) * apply("Sum", b)
    raise RuleError(f"dims {a.dim} and {b.dim} differ and neither is 1")


def _elem_t(a: Expr, n: int, m: int) -> Expr:
    if a.dim != 1:
        raise RuleError(f"places a scalar, its operand has dim {a.dim}")
    return apply("ExtractT", a, m, n)


def _matrix_shape(matrix: Expr, columns: int) -> tuple[int, int]:
    if matrix.dim % columns:
        raise RuleError(f"a matrix of {matrix.dim} components has no rows of {columns}")
    return matrix.dim // columns, columns


def _mat_vec(A: Expr, b: Expr) -> Expr:
    return contract(A, b, (0, 1), (1,), (0,), _matrix_shape(A, b.dim))


# fmt: off
derived("Scalprod", "scalar product of a and b, written a | b",
        _scalprod,
        reference=lambda a, b: (a * b).sum(-1, keepdims=True),
        cases=(Case((4, 4)), Case((1, 3)), Case((3, 1))))

derived("SqNorm2", "squared Euclidean norm of a",
        lambda a: apply("Scalprod", a, a),
        reference=lambda a: (a * a).sum(-1, keepdims=True), cases=(Case((3,)),))

derived("Norm2", "Euclidean norm of a; its derivative at 0 is 0",
        lambda a: apply("Sqrt", apply("SqNorm2", a)),
        reference=lambda a: np.sqrt((a * a).sum(-1, keepdims=True)), cases=(Case((3,)),))

derived("SqDist", "squared Euclidean distance between a and b",
        lambda a, b: apply("Sum", apply("Square", a - b)),
        reference=lambda a, b: ((a - b) ** 2).sum(-1, keepdims=True), cases=(Case((3, 3)), Case((1, 3))))

derived("Elem", "component number m of a, from 0",
        lambda a, m: apply("Extract", a, m, 1),
        integers=("m",), reference=lambda a, m: a[..., m : m + 1], cases=(Case((3,), (0,)), Case((3,), (2,))))

derived("ElemT", "a vector of dim n that is the scalar a at component m, and 0 elsewhere",
        _elem_t,
        integers=("n", "m"), reference=lambda a, n, m: a * (np.arange(n) == m), cases=(Case((1,), (4, 2)),))

derived("MatVecMult", "product of the row-major matrix A and the vector b",
        _mat_vec,
        reference=lambda A, b: np.einsum("...np,...p->...n", A.reshape(*A.shape[:-1], -1, b.shape[-1]), b),
        cases=(Case((6, 3)), Case((4, 4)), Case((3, 1))))

derived("TensorProd", "all products a_k b_l, row-major",
        lambda a, b: contract(a, b, (0,), (1,), (0, 1), (a.dim, b.dim)),
        reference=lambda a, b: np.einsum("...m,...n->...mn", a, b).reshape(
            *np.broadcast_shapes(a.shape[:-1], b.shape[:-1]), -1),
        cases=(Case((2, 3)), Case((1, 3))))

derived("Factorize", "a itself: what formulas share, such as b, is computed once anyway",
        lambda a, b: a,
        reference=lambda a, b: a + 0 * b[..., :1], cases=(Case((3, 2)), Case((1, 1))))

derived("AutoFactorize", "a itself: what formulas share is computed once anyway",
        lambda a: a,
        reference=lambda a: a, cases=(Case((3,)),))
# fmt: on
