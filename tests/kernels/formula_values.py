"""Formula -> numbers: an evaluator that reads the references of the declarations, in any float type of NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from farfield_kernels.expr import INDEX_SHIFT, Array, Axis, Const, Expr, Index, Var, topological


def values(
    root: Expr,
    arrays: Sequence[Array],
    rows: int,
    cols: int,
    row_axis: Axis = "i",
    dtype: Any = float,
    perturb: Callable[[Array], Array] | None = None,
) -> Array:
    """The formula at every pair: (rows, cols, dim). Arrays are (rows of their axis, dim), parameters (dim,).

    `perturb` changes the value of every constant and operator.
    """

    def placed(axis: Axis, array: Array) -> Array:
        if axis == "p":
            return array[None, None, :]
        return array[:, None, :] if axis == row_axis else array[None, :, :]

    at: dict[int, Array] = {}
    with np.errstate(all="ignore"):
        for node in topological([root]):
            if isinstance(node, Const):
                at[id(node)] = np.full((1, 1, 1), node.value, dtype)
            elif isinstance(node, Index):
                numbers = np.arange(rows if node.axis == row_axis else cols)
                half = numbers >> INDEX_SHIFT if node.half == "high" else numbers % 2**INDEX_SHIFT
                at[id(node)] = placed(node.axis, half[:, None].astype(dtype))
            elif isinstance(node, Var):
                at[id(node)] = placed(node.axis, np.asarray(arrays[node.position], dtype))
            else:
                assert node.op is not None
                operands = [at[id(operand)] for operand in node.operands]
                at[id(node)] = np.asarray(node.op.reference(*operands, *node.params), dtype)
            if perturb and not isinstance(node, Index | Var):
                at[id(node)] = perturb(at[id(node)])
    return np.broadcast_to(at[id(root)], (rows, cols, root.dim))
