"""Block-sparse ranges for tests: which rows meet which columns, as the six arrays of a call."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from farfield_kernels.expr import Array

Interval = tuple[int, int]
Cluster = tuple[Interval, Sequence[Interval]]


def six_arrays(clusters: Sequence[Cluster], N: int) -> list[Array]:
    """`ranges_i, slices_i, redranges_j` of the clusters, and the same pairs the other way round.

    Args:
        clusters: (rows, ranges of columns), in any order; a column in two ranges of a cluster is met twice.
        N: columns.
    """
    cuts = sorted({0, N, *(cut for _, met in clusters for interval in met for cut in interval)})
    turned = [
        (own, [rows for rows, met in clusters for first, end in met if first <= own[0] < own[1] <= end])
        for own in itertools.pairwise(cuts)
    ]
    return [*_side(clusters), *_side([cluster for cluster in turned if cluster[1]])]


def _side(clusters: Sequence[Cluster]) -> list[Array]:
    rows = [rows for rows, _ in clusters]
    met = [interval for _, intervals in clusters for interval in intervals]
    slices = np.cumsum([len(intervals) for _, intervals in clusters], dtype=np.int64)
    return [np.array(rows, np.int64).reshape(-1, 2), slices, np.array(met, np.int64).reshape(-1, 2)]


SIZES = (40, 50)

# Rows 10, 11 and 20..24 are in no cluster; one cluster has no rows, one no columns, one an empty range.
BLOCKS: tuple[Cluster, ...] = (
    ((25, 40), ((10, 45),)),
    ((0, 10), ((30, 50), (0, 20))),
    ((10, 10), ((0, 50),)),
    ((12, 20), ()),
    ((24, 25), ((5, 5), (49, 50))),
)
OVERLAPPING: tuple[Cluster, ...] = (((0, 25), ((0, 30), (20, 50))), ((25, 40), ((7, 8), (7, 8))))
NOTHING: tuple[Cluster, ...] = ()
EVERYTHING: tuple[Cluster, ...] = (((0, 40), ((0, 50),)),)
CASES = {"blocks": BLOCKS, "nothing": NOTHING, "everything": EVERYTHING}

WIDE = (600, 1500)  # beyond one block of rows and one tile of columns
WIDE_BLOCKS: tuple[Cluster, ...] = (
    ((300, 580), ((0, 1100), (1200, 1500))),
    ((0, 258), ((3, 4), (255, 800))),
    ((260, 300), ((1499, 1500), (0, 1))),
)

FEW = (8, 9)  # so few that no two terms nearly tie
FEW_BLOCKS: tuple[Cluster, ...] = (
    ((4, 7), ((1, 6),)),
    ((0, 3), ((5, 9), (0, 2))),
    ((3, 3), ((0, 9),)),
    ((7, 8), ()),
)


def blocks(case: str = "blocks") -> list[Array]:
    """The six arrays of a case of 40 rows and 50 columns."""
    return six_arrays((CASES | {"overlapping": OVERLAPPING})[case], SIZES[1])
