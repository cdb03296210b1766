"""The oracle: an operation evaluated by NumPy in float64, in blocks of rows. Slow and simple.

It reads the `reference` of each declaration and shares nothing with emission.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .expr import INDEX_SHIFT, Array, Axis, Const, Expr, Index, Var, topological
from .operation import Operation, check_arguments
from .terms import Term, expand

BLOCK_ELEMENTS = 2_000_000  # components of one block of terms, 16 MB


def reference(operation: Operation, arrays: Sequence[Array]) -> list[Array]:
    """The results of an operation in float64 (int64 for indices).

    Args:
        operation: what to compute.
        arrays: the arguments, as the engine takes them.

    Returns:
        One array per result slot, of that slot's shape.
    """
    sizes = check_arguments(operation, [a.dtype.name for a in arrays], [a.shape for a in arrays])
    bound = [
        bind_index(a) if slot.is_index else a.astype(np.float64)
        for slot, a in zip(operation.arguments, arrays, strict=True)
    ]
    results: list[Array] = []
    with np.errstate(all="ignore"):
        for term in expand(operation):
            results += _reduce(term, bound, sizes.M, sizes.N)
    return [
        result.reshape(slot.shape(sizes.M, sizes.N))
        for slot, result in zip(operation.results, results, strict=True)
    ]


def bind_index(indices: Array, dtype: str = "float64") -> Array:
    """Indices (rows, D) int64 as floats (rows, 2 D): the high halves, then the low ones. Exact in every type."""
    return np.concatenate(
        [indices >> INDEX_SHIFT, indices & ((1 << INDEX_SHIFT) - 1)], axis=1, dtype=dtype, casting="unsafe"
    )


def _reduce(term: Term, arrays: list[Array], M: int, N: int) -> list[Array]:
    row_axis: Axis = "j" if term.keep == "j" else "i"
    rows, cols = (N, M) if row_axis == "j" else (M, N)
    D = term.formula.dim
    step = max(1, BLOCK_ELEMENTS // max(1, cols * D))
    blocks = []
    for start in range(0, max(rows, 1), step):
        stop = min(rows, start + step)
        terms = _evaluate(term.formula, arrays, row_axis, range(start, stop), cols)
        blocks.append(term.reduction.reference(np.broadcast_to(terms, (stop - start, cols, D))))
    joined = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
    return [part.sum(0) for part in joined] if term.keep == "p" else joined


def _evaluate(root: Expr, arrays: list[Array], row_axis: Axis, rows: range, cols: int) -> Array:
    """Values of a formula: (rows, cols, dim), or shapes that broadcast to it."""
    values: dict[int, Array] = {}
    for node in topological([root]):
        if isinstance(node, Const):
            value = np.full((1, 1, 1), node.value)
        elif isinstance(node, Index):
            numbers = np.arange(cols) if node.axis != row_axis else np.arange(rows.start, rows.stop)
            half = numbers >> INDEX_SHIFT if node.half == "high" else numbers & ((1 << INDEX_SHIFT) - 1)
            value = half[None, :, None] if node.axis != row_axis else half[:, None, None]
        elif isinstance(node, Var):
            array = arrays[node.position]
            if node.axis == "p":
                value = array[None, None, :]
            else:
                on_rows = node.axis == row_axis
                value = array[rows.start : rows.stop, None, :] if on_rows else array[None, :, :]
        else:
            assert node.op is not None
            value = node.op.reference(*(values[id(x)] for x in node.operands), *node.params)
            value = np.asarray(value, dtype=np.float64)
        values[id(node)] = value
    return values[id(root)]
