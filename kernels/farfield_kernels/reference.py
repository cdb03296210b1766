"""The oracle: an operation evaluated by NumPy in float64, in blocks of rows. Slow and simple.

It reads the `reference` of each declaration and shares nothing with emission.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .arguments import Sizes, check_arguments, result_shapes
from .expr import INDEX_SHIFT, Array, Axis, Const, Expr, Index, Var, topological
from .operation import Operation, Slot, Vjp
from .ranges import Ranges, check_ranges
from .reductions import Result
from .terms import Term, expand

BLOCK_ELEMENTS = 2_000_000  # components of one block of terms, 16 MB
Piece = tuple[Array, Array]  # row numbers, and the numbers of the columns that they meet
Perturb = Callable[[Array], Array]


def reference(
    operation: Operation,
    arrays: Sequence[Array],
    ranges: Sequence[Array] | None = None,
    perturb: Perturb | None = None,
) -> list[Array]:
    """The results of an operation in float64 (int64 for indices).

    Args:
        operation: what to compute.
        arrays: the arguments, as the engine takes them.
        ranges: block-sparse ranges, as the engine takes them.
        perturb: changes the value of every constant and operator: with errors as large as those of rounding, the
            results show how exact any computation of them can be.

    Returns:
        One array per result slot, of the shape that the engine returns.
    """
    sizes = check_arguments(operation, [a.dtype.name for a in arrays], [a.shape for a in arrays])
    pairs = None if ranges is None else check_ranges(ranges, sizes.M, sizes.N, distinct=operation.selects)
    bound = [
        _float64(slot, array, len(own), sizes.N)
        for slot, array, own in zip(operation.arguments, arrays, sizes.batches, strict=True)
    ]
    terms = expand(operation)
    elements = []
    with np.errstate(all="ignore"):
        for element in np.ndindex(*sizes.batch):
            own_arrays = [_element(array, own, element) for array, own in zip(bound, sizes.batches, strict=True)]
            elements.append(
                [result for term in terms for result in _reduce(term, own_arrays, sizes, pairs, perturb)]
            )
    owns = [sizes.batch] * len(operation.results)
    if isinstance(operation, Vjp):
        owns = [sizes.batches[place] for place in operation.wrt]
    shapes = result_shapes(operation, sizes)
    results = []
    for place, (own, shape) in enumerate(zip(owns, shapes, strict=True)):
        parts = [np.asarray(element[place]) for element in elements]
        result = np.zeros(shape, parts[0].dtype if parts else float)
        # Where an argument has fewer batch axes, its gradient is the sum over the elements that it served.
        for element, part in zip(np.ndindex(*sizes.batch), parts, strict=True):
            at = _place(own, element)
            result[at] += part.reshape(shape[len(own) :])
        results.append(result)
    return results


def _float64(slot: Slot, array: Array, batch_axes: int, N: int) -> Array:
    """(*batch, rows, width) float64; an index as its halves, that of a pair as those of row and column."""
    rows = array.shape[batch_axes : array.ndim - len(slot.tail)]
    flat = array.reshape(*array.shape[:batch_axes], *rows, slot.dim)
    if not slot.index:
        return flat.astype(np.float64)
    numbers = [flat] if slot.index == "index" else [flat // max(1, N), flat % max(1, N)]
    parts = [part for n in numbers for part in (n >> INDEX_SHIFT, n & ((1 << INDEX_SHIFT) - 1))]
    return np.concatenate(parts, -1).astype(np.float64)


def _place(own: tuple[int, ...], element: tuple[int, ...]) -> tuple[int, ...]:
    """Where in an array with batch axes `own` the data of one element of the batch are."""
    tail = element[len(element) - len(own) :]
    return tuple(0 if length == 1 else place for length, place in zip(own, tail, strict=True))


def _element(array: Array, own: tuple[int, ...], element: tuple[int, ...]) -> Array:
    part: Array = array[_place(own, element)]
    return part


def _pieces(rows: int, cols: int, pairs: Ranges | None, row_axis: Axis) -> Iterator[Piece]:
    if pairs is None:
        yield np.arange(rows), np.arange(cols)
        return
    side = pairs.of(row_axis)
    left = np.ones(rows, bool)
    for (first, end), begin_range, end_range in zip(side.clusters, side.starts, side.slices, strict=True):
        left[first:end] = False
        met = [np.arange(a, b) for a, b in side.columns[begin_range:end_range]]
        yield np.arange(first, end), np.concatenate([np.arange(0), *met])
    yield np.flatnonzero(left), np.arange(0)


def _reduce(
    term: Term, arrays: list[Array], sizes: Sizes, pairs: Ranges | None, perturb: Perturb | None
) -> list[Array]:
    """All results of one term for one element of the batch: (rows, width) each, (width,) if both axes go."""
    row_axis: Axis = "j" if term.keep == "j" else "i"
    rows, cols = (sizes.N, sizes.M) if row_axis == "j" else (sizes.M, sizes.N)
    block = max(1, BLOCK_ELEMENTS // max(1, cols * term.formula.dim))
    computed: list[tuple[Array, Array, Array | None, Array]] = []
    for members, met in _pieces(rows, cols, pairs, row_axis):
        for first in range(0, len(members), block):
            part = members[first : first + block]
            terms, weights = (
                None if formula is None else _evaluate(formula, arrays, row_axis, part, met, perturb)
                for formula in (term.formula, term.weights)
            )
            assert terms is not None
            computed.append((part, terms, weights, met))
    if term.keep == "p":
        return _over_both(term, computed, cols)
    results = [
        np.zeros(
            (rows, result.width(term.formula.dim, term.K, _dim(term))), np.int64 if result.is_index else float
        )
        for result in term.reduction.results
    ]
    for part, terms, weights, met in computed:
        found = term.reduction.reference(terms, weights, term.K)
        for place, (result, values) in enumerate(zip(term.reduction.results, found, strict=True)):
            results[place][part] = _numbered(result, values, met)
    return results


def _over_both(term: Term, computed: list[tuple[Array, Array, Array | None, Array]], cols: int) -> list[Array]:
    """Row after row, all pairs are the terms of one reduction; a pair's number is row * cols + column."""

    def joined(parts: list[Array], dim: int) -> Array:
        order = np.argsort(np.concatenate([part for part, _, _, _ in computed] or [np.arange(0)]), kind="stable")
        by_row = [row for rows in parts for row in rows]
        return np.concatenate([np.zeros((0, dim)), *(by_row[k] for k in order)])[None]

    terms = joined([terms for _, terms, _, _ in computed], term.formula.dim)
    weights = None
    if term.weights is not None:
        weights = joined([w for _, _, w, _ in computed if w is not None], term.weights.dim)
    rows = [(row, met) for part, _, _, met in computed for row in part]
    numbers = [row * cols + met for row, met in sorted(rows, key=lambda pair: int(pair[0]))]
    flat = np.concatenate([np.arange(0), *numbers])
    found = term.reduction.reference(terms, weights, term.K)
    return [_numbered(r, values, flat)[0] for r, values in zip(term.reduction.results, found, strict=True)]


def _dim(term: Term) -> int:
    return 0 if term.weights is None else term.weights.dim


def _numbered(result: Result, values: Array, met: Array) -> Array:
    """Places among the columns that were met become their numbers."""
    if result.kind != "column" or not len(met):
        return values
    return np.where(values < 0, values, met[np.maximum(values, 0)])


def _evaluate(
    root: Expr, arrays: list[Array], row_axis: Axis, rows: Array, cols: Array, perturb: Perturb | None
) -> Array:
    """Values of a formula: (rows, cols, dim)."""
    values: dict[int, Array] = {}
    for node in topological([root]):
        if isinstance(node, Const):
            value = np.full((1, 1, 1), node.value)
        elif isinstance(node, Index):
            numbers = rows[:, None, None] if node.axis == row_axis else cols[None, :, None]
            value = numbers >> INDEX_SHIFT if node.half == "high" else numbers & ((1 << INDEX_SHIFT) - 1)
        elif isinstance(node, Var):
            array = arrays[node.position]
            if node.axis == "p":
                value = array[None, None, :]
            else:
                value = array[rows, None, :] if node.axis == row_axis else array[None, cols, :]
        else:
            assert node.op is not None
            value = node.op.reference(*(values[id(x)] for x in node.operands), *node.params)
            value = np.asarray(value, dtype=np.float64)
        if perturb is not None and not isinstance(node, Index | Var):
            value = perturb(value)
        values[id(node)] = value
    return np.broadcast_to(values[id(root)], (len(rows), len(cols), root.dim))
