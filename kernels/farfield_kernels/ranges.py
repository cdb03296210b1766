"""Block-sparse ranges -> tables of a launch: which rows meet which columns.

`ranges` are six arrays of int64: rows `ranges_i[c]` = (first, end) of cluster c meet the columns of
`redranges_j[slices_i[c - 1] : slices_i[c]]`, each (first, end) too; then the same the other way round
(`ranges_j`, `slices_j`, `redranges_i`), which reductions over i and the gradients of j-variables read. Rows in no
cluster meet nothing, and get the reduction of nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .errors import ArgumentError, DtypeError, ShapeError
from .expr import Array, Axis

NAMES = ("ranges_i", "slices_i", "redranges_j", "ranges_j", "slices_j", "redranges_i")


@dataclass(frozen=True, eq=False)
class Side:
    """One direction: clusters of rows, and the ranges of columns that each meets.

    Args:
        clusters: (clusters, 2): first row, end of rows.
        slices: (clusters,): end of each cluster's part of `columns`.
        columns: (ranges, 2): first column, end of columns.
    """

    clusters: Array
    slices: Array
    columns: Array

    @property
    def starts(self) -> Array:
        """(clusters,): begin of each cluster's part of `columns`."""
        return np.concatenate([np.zeros(min(1, len(self.slices)), np.int64), self.slices[:-1]])

    @property
    def pairs(self) -> int:
        """Pairs (row, column), those of overlapping column ranges counted for each."""
        ends = np.concatenate([[0], np.cumsum(self.columns[:, 1] - self.columns[:, 0])])
        per_row = ends[self.slices] - ends[self.starts]
        return int((per_row * (self.clusters[:, 1] - self.clusters[:, 0])).sum())

    def blocks(self, rows: int, most: int) -> Array:
        """(blocks, 4): the clusters and the rows between them, in pieces of at most `most` rows."""
        order = np.argsort(self.clusters[:, 0], kind="stable")
        first, end = self.clusters[order].T
        gap_first, gap_end = np.append(0, end), np.append(first, rows)
        nothing = np.zeros_like(gap_first)
        first, end = np.append(first, gap_first), np.append(end, gap_end)
        begin_range = np.append(self.starts[order], nothing)
        end_range = np.append(self.slices[order], nothing)
        pieces = -(-(end - first) // most)
        place = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        piece_first = np.repeat(first, pieces) + place * most
        piece_end = np.minimum(piece_first + most, np.repeat(end, pieces))
        columns = (piece_first, piece_end, np.repeat(begin_range, pieces), np.repeat(end_range, pieces))
        return np.ascontiguousarray(np.stack(columns, 1), np.int64)


@dataclass(frozen=True, eq=False)
class Ranges:
    """Both directions of one set of pairs."""

    i: Side
    j: Side

    def of(self, row_axis: Axis) -> Side:
        """The direction in which `row_axis` is kept."""
        return self.j if row_axis == "j" else self.i


def check_ranges(arrays: Sequence[Array], M: int, N: int, *, distinct: bool = False) -> Ranges:
    """Check the six arrays of block-sparse ranges.

    Args:
        arrays: see the module.
        M, N: rows of both axes.
        distinct: whether a row may meet no column twice, as gradients that go to a selected term need it.

    Raises:
        ArgumentError, DtypeError, ShapeError: naming the array, the value and what is allowed.
    """
    if len(arrays) != len(NAMES):
        raise ArgumentError(
            f"ranges are {len(NAMES)} arrays ({', '.join(NAMES)}), got {len(arrays)}", field="ranges"
        )
    found = [_integers(array, name) for array, name in zip(arrays, NAMES, strict=True)]
    i = _side(found[0], found[1], found[2], NAMES[:3], M, N)
    j = _side(found[3], found[4], found[5], NAMES[3:], N, M)
    weights_i, weights_j = _weights(M, 1), _weights(N, 2)
    if _fingerprint(i, weights_i, weights_j) != _fingerprint(j, weights_j, weights_i):
        other = "as many, but other ones" if i.pairs == j.pairs else j.pairs
        raise ArgumentError(
            f"ranges_i and redranges_j describe {i.pairs} pairs, ranges_j and redranges_i {other}: "
            "the second three must be the first three transposed",
            field="ranges",
        )
    if distinct:
        _check_distinct(i)
    return Ranges(i, j)


def _check_distinct(side: Side) -> None:
    cluster = np.repeat(np.arange(len(side.slices)), side.slices - side.starts)
    columns = side.columns[: len(cluster)]
    some = (columns[:, 0] < columns[:, 1]) & (side.clusters[cluster, 0] < side.clusters[cluster, 1])
    cluster, columns = cluster[some], columns[some]
    order = np.lexsort((columns[:, 0], cluster))
    cluster, columns = cluster[order], columns[order]
    twice = np.flatnonzero((cluster[1:] == cluster[:-1]) & (columns[1:, 0] < columns[:-1, 1]))
    if len(twice):
        pair = columns[twice[0] : twice[0] + 2].tolist()
        raise ArgumentError(
            f"cluster {cluster[twice[0]]} of ranges_i meets columns twice, in {pair[0]} and {pair[1]}: "
            "the gradient of a selected term would count twice",
            field="ranges.redranges_j",
        )


def _fingerprint(side: Side, of_rows: Array, of_columns: Array) -> int:
    """Sum over the pairs of the product of two weights, modulo 2**64: other pairs have another one."""
    met = np.append(np.uint64(0), np.cumsum(of_columns[side.columns[:, 1]] - of_columns[side.columns[:, 0]]))
    rows = of_rows[side.clusters[:, 1]] - of_rows[side.clusters[:, 0]]
    return int((rows * (met[side.slices] - met[side.starts])).sum(dtype=np.uint64))


def _weights(count: int, salt: int) -> Array:
    """Sums of the first 0, 1, ... of so many numbers that look random, those of splitmix64."""
    z = (np.arange(count, dtype=np.uint64) + np.uint64(salt << 40)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.append(np.uint64(0), np.cumsum(z ^ (z >> np.uint64(31)), dtype=np.uint64))


def _integers(array: Array, name: str) -> Array:
    field = f"ranges.{name}"
    if not isinstance(array, np.ndarray):
        raise ArgumentError(f"{name} is a {type(array).__name__}, an array of int64 is needed", field=field)
    if array.dtype.kind != "i":
        raise DtypeError(f"{name} is {array.dtype}, int64 is needed", field=field)
    wanted = 1 if name.startswith("slices") else 2
    if array.ndim != wanted or (wanted == 2 and array.shape[1] != 2):
        shape = "(clusters,)" if wanted == 1 else "(count, 2)"
        raise ShapeError(f"{name} has shape {array.shape}, {shape} is needed", field=field)
    return np.ascontiguousarray(array, np.int64)


def _side(clusters: Array, slices: Array, columns: Array, names: tuple[str, ...], rows: int, cols: int) -> Side:
    _check_bounds(clusters, rows, names[0])
    _check_bounds(columns, cols, names[2])
    if len(slices) != len(clusters):
        raise ShapeError(
            f"{names[1]} has {len(slices)} entries, {names[0]} {len(clusters)}", field=f"ranges.{names[1]}"
        )
    steps = np.diff(slices, prepend=0)
    if len(slices) and (steps.min() < 0 or slices[-1] > len(columns)):
        raise ArgumentError(
            f"{names[1]} must not decrease and end at most at {len(columns)}, the length of {names[2]}",
            field=f"ranges.{names[1]}",
        )
    taken = clusters[clusters[:, 0] < clusters[:, 1]]
    taken = taken[np.argsort(taken[:, 0])]
    overlap = np.flatnonzero(taken[1:, 0] < taken[:-1, 1])
    if len(overlap):
        pair = taken[overlap[0] : overlap[0] + 2].tolist()
        raise ArgumentError(f"{names[0]} overlap: {pair[0]} and {pair[1]}", field=f"ranges.{names[0]}")
    return Side(clusters, slices, columns)


def _check_bounds(ranges: Array, length: int, name: str) -> None:
    wrong = np.flatnonzero((ranges[:, 0] < 0) | (ranges[:, 1] < ranges[:, 0]) | (ranges[:, 1] > length))
    if len(wrong):
        raise ArgumentError(
            f"{name}[{wrong[0]}] is {ranges[wrong[0]].tolist()}: 0 <= first <= end <= {length} is needed",
            field=f"ranges.{name}",
        )
