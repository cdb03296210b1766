"""Products of row-major tensors, and rows read from a table."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..domains import REAL, Array, Case, Domain
from ..errors import RuleError
from ..expr import Core, Emit, Expr, apply, constant, declare
from .comparison import where
from .kinds import Dims, Params, derived
from .vector import contract

MAX_AXES = 12  # of one tensor; NumPy, which computes the reference, has 32 for both and the rows


def _check_shape(a: Expr, dims: Dims, name: str) -> None:
    if len(dims) > MAX_AXES:
        raise RuleError(f"{name} has {len(dims)} axes, at most {MAX_AXES} are allowed")
    if min(dims, default=1) < 1 or math.prod(dims) != a.dim:
        raise RuleError(f"{name} {list(dims)} is not the shape of {a.dim} components")


def _check_axes(axes: Dims, count: int, name: str) -> None:
    if len(set(axes)) < len(axes) or not all(0 <= axis < count for axis in axes):
        raise RuleError(f"{name} {list(axes)} names axes of 0..{count - 1}, each at most once")


def _tensor_dot(
    a: Expr, b: Expr, dimf: Dims, dimg: Dims, contf: Dims, contg: Dims, permute: Dims | None = None
) -> Expr:
    _check_shape(a, dimf, "dimf")
    _check_shape(b, dimg, "dimg")
    _check_axes(contf, len(dimf), "contf")
    _check_axes(contg, len(dimg), "contg")
    sizes_a, sizes_b = ([dims[axis] for axis in axes] for dims, axes in ((dimf, contf), (dimg, contg)))
    if sizes_a != sizes_b:
        raise RuleError(f"the contracted axes have sizes {sizes_a} and {sizes_b}")
    labels_a = tuple(range(len(dimf)))
    paired = dict(zip(contg, contf, strict=True))
    own = iter(range(len(dimf), len(dimf) + len(dimg) - len(contg)))
    labels_b = tuple(paired[axis] if axis in paired else next(own) for axis in range(len(dimg)))
    kept = [label for label in (*labels_a, *labels_b) if label not in contf]
    if permute is None:
        permute = tuple(range(len(kept)))
    if sorted(permute) != list(range(len(kept))):
        raise RuleError(f"permute {list(permute)} is not a permutation of 0..{len(kept) - 1}")
    labels = tuple(kept[place] for place in np.argsort(permute))
    sizes = dict(zip(labels_a, dimf, strict=True)) | dict(zip(labels_b, dimg, strict=True))
    return contract(a, b, labels_a, labels_b, labels, tuple(sizes[label] for label in range(len(sizes))))


def _tensor_dot_reference(
    a: Array, b: Array, dimf: Dims, dimg: Dims, contf: Dims, contg: Dims, permute: Dims | None = None
) -> Array:
    def one(x: Array, y: Array) -> Array:
        product = np.tensordot(x.reshape(dimf), y.reshape(dimg), (contf, contg))
        moved = product if permute is None else np.moveaxis(product, range(product.ndim), permute)
        return moved.reshape(-1)

    return _by_row(one, a, b)


def _by_row(one: Callable[[Array, Array], Array], a: Array, b: Array) -> Array:
    rows = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    a, b = (np.broadcast_to(x, (*rows, x.shape[-1])) for x in (a, b))
    results = [one(a[place], b[place]) for place in np.ndindex(rows)]
    return np.array(results).reshape(*rows, -1)


def _kron(a: Expr, b: Expr, dimf: Dims, dimg: Dims) -> Expr:
    if len(dimf) != len(dimg):
        raise RuleError(f"dimf has {len(dimf)} axes and dimg {len(dimg)}")
    half = len(dimf)
    permute = tuple(range(0, 2 * half, 2)) + tuple(range(1, 2 * half, 2))
    return _tensor_dot(a, b, dimf, dimg, (), (), permute)


def _kron_reference(a: Array, b: Array, dimf: Dims, dimg: Dims) -> Array:
    return _by_row(lambda x, y: np.kron(x.reshape(dimf), y.reshape(dimg)).reshape(-1), a, b)


# fmt: off
derived("TensorDot",
        "sum of products of the tensors a and b, of shapes dimf and dimg, over their axes contf and contg; "
        "the kept axes of a, then those of b, become the axes permute[0], permute[1], ... of the result",
        _tensor_dot,
        integers=("[dimf]", "[dimg]", "[contf]", "[contg]", "[permute]"), optional=1,
        reference=_tensor_dot_reference,
        cases=(Case((6, 6), ((2, 3), (3, 2), (1,), (0,))),
               Case((12, 6), ((2, 3, 2), (3, 2), (1, 2), (0, 1))),
               Case((12, 12), ((2, 3, 2), (2, 2, 3), (2, 1), (0, 2), (1, 0))),
               Case((6, 4), ((1, 2, 3), (2, 2), (1,), (1,), (1, 2, 0))),
               Case((2, 3), ((2,), (3,), (), ()))))

derived("Kron", "Kronecker product of the tensors a and b, of shapes dimf and dimg",
        _kron,
        integers=("[dimf]", "[dimg]"), reference=_kron_reference,
        cases=(Case((6, 4), ((2, 3), (2, 2))), Case((2, 3), ((2,), (3,))), Case((4, 6), ((2, 1, 2), (1, 3, 2)))))
# fmt: on


# ---- a table -------------------------------------------------------------------------------------------------
# Chosen, not multiplied by a one-hot vector: infinity or NaN in one row of the table stays in that row.


def _rows(dims: Dims, params: Params) -> int:
    table, place = dims
    (d,) = params
    if place != 1:
        raise RuleError(f"the index is a scalar, its dim is {place}")
    if d < 1 or table % d:
        raise RuleError(f"a table of {table} components has no rows of {d}")
    return table // int(d)


def _gather_dim(dims: Dims, params: Params) -> int:
    _rows(dims, params)
    return int(params[0])


def _lower_gather(emit: Emit, operands: list[list[int]], dim: int, params: Params) -> list[int]:
    table, (scalar,) = operands
    nearest = emit("floor($a + K(0.5))", scalar)
    outside = emit("$a == $a ? K(0) : $a", scalar)
    chosen = [outside] * dim
    for k in range(len(table) // dim):
        chosen = [emit(f"$a == K({k}) ? $b : $c", nearest, table[k * dim + c], chosen[c]) for c in range(dim)]
    return chosen


def _gather_reference(table: Array, index: Array, d: int) -> Array:
    rows = table.reshape(*table.shape[:-1], -1, d)
    places = np.floor(index + 0.5)[..., None] == np.arange(rows.shape[-2])[:, None]
    return np.asarray(np.where(places, rows, 0).sum(-2) + 0 * index)


def _gather_vjp(g: Expr, y: Expr, table: Expr, index: Expr, d: int) -> tuple[Expr | None, ...]:
    n = table.dim // d
    chosen = apply("TensorProd", apply("OneHot", index, n), apply("SumT", constant(1.0), d))
    return where(chosen, apply("TensorProd", apply("SumT", constant(1.0), n), g), 0), None


declare(
    Core(
        name="Gather",
        doc="row number b (rounded) of the row-major table a of d columns; 0 if there is no such row",
        arity=2,
        integers=("d",),
        reference=_gather_reference,
        domain=(REAL, Domain(-1.5, 4.5, grid=0.5)),
        cases=(Case((6, 1), (2,)), Case((4, 1), (1,)), Case((3, 1), (3,))),
        dim=_gather_dim,
        lower=_lower_gather,
        vjp=_gather_vjp,
        linear=((0,),),
    )
)
