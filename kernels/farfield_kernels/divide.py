"""Spec + Sizes -> Division: a call as pieces that are computed apart, by whom and in which order does not matter.

A piece is a call too: of the same formula, on slices of some of the arguments along their first axis. Each kernel
of a call is cut for itself, so gradients of both sides become pieces of each side:

- by rows of the axis that it keeps, or along the first batch axis; its results are slices of the call's results;
- by columns, where rows are few and the reduction `nests`: the pieces' results are merged by that reduction, in
  float64. So are results that keep no axis, as gradients of parameters, whichever way the kernel is cut.

A kernel stays whole if it is a sum that separates, which takes M + N steps; if its formula reads the number of a
row of the axis to be cut, as gradients of selections do; and if its results cannot be merged where they must be.

Workers draw pieces as they become free, so each takes as many as its speed allows. Half of the work is cut into
one piece per worker, half of what is left again, and the rest into two each: large pieces cost little on the way,
small ones at the end let all workers end together.

Source: Hummel, Schonberg and Flynn, Factoring: a method for scheduling parallel loops, CACM 1992.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .arguments import Sizes
from .expr import Array, Index, topological
from .operation import Operation, Spec, Vjp
from .predict import stage_steps
from .reductions import Reduction
from .schedule import Device, block_rows
from .stages import Plan, Stage, plan_call

SMALLEST = 8  # the last pieces are this part of a worker's even share
SHARES = (2, 4, SMALLEST, SMALLEST)
"""A worker's pieces, as parts of an even share. With one of two workers stopped half of the time a call took 0.74
of the time of one worker alone, 0.75 with four equal pieces and 1.00 with one; the speeds make it 0.67."""
LEAST_ROWS = 32  # of a piece by rows, where it can be cut by columns too: two vectors of the widest processors
LEAST_COLUMNS = 4096  # of a piece by columns: below, merging costs more than it gains
MERGED = 2**18  # numbers that are merged in all: some milliseconds


@dataclass(frozen=True)
class Piece:
    """One part of a call.

    Args:
        spec: what it computes.
        cut: the arguments of which it takes a slice; it takes all of the others.
        first, end: the slice.
        results: which results of the call it computes, in its order.
        merged: those that are merged with the same ones of other pieces; of the others it computes the slice, or
            all where nothing is cut.
        share: part of the work of the call.
    """

    spec: Spec
    cut: frozenset[int]
    first: int
    end: int
    results: tuple[int, ...]
    merged: frozenset[int]
    share: float

    def sliced(self, shape: Sequence[int]) -> tuple[list[int], int]:
        """Shape of a slice of an array of this shape, and the number of elements before it."""
        return [self.end - self.first, *shape[1:]], self.first * math.prod(shape[1:])


@dataclass(frozen=True)
class Division:
    """All pieces of a call, large ones first.

    Args:
        merges: the reductions that merge results, by the number of the result.
    """

    pieces: tuple[Piece, ...]
    merges: dict[int, Reduction]

    def merge(self, result: int, parts: Sequence[Array], out: Array) -> None:
        """Write a result.

        Args:
            result: its number.
            parts: of all pieces that have it, in any order.
            out: where to, of the shape of each part.
        """
        terms = np.stack([part.reshape(-1, part.shape[-1]) for part in parts], 1)
        with np.errstate(all="ignore"):
            (merged,) = self.merges[result].reference(terms.astype(np.float64), None, 1)
        out[...] = merged.reshape(out.shape)


@dataclass(frozen=True)
class Way:
    """How one kernel is cut.

    Args:
        axis: along which; None if it stays whole.
        length: rows, columns or elements of the batch.
        unit: the ends of pieces are multiples of it.
        merges: whether all results are merged.
        words: the same for people.
    """

    axis: Literal["i", "j", "batch"] | None
    length: int = 0
    unit: int = 1
    merges: bool = False
    words: str = ""


@functools.lru_cache(maxsize=256)
def divide(spec: Spec, sizes: Sizes, workers: int, device: Device = "cpu") -> Division | None:
    """The pieces of a call without ranges, for so many workers; None if it stays whole.

    Args:
        spec: what to compute.
        sizes: of its arguments.
        workers: of about the same speed.
        device: where they compute.
    """
    call = plan_call(spec, sizes.compute, device)
    if call.zeros or workers < 2:
        return None
    steps = [stage_steps(stage, sizes, spec.separation, None) for stage in call.stages]
    total = sum(steps) or 1.0
    pieces: list[Piece] = []
    merges: dict[int, Reduction] = {}
    for stage, own in zip(call.stages, steps, strict=True):
        way = way_of(stage, call.operation, sizes, spec.separation, workers)
        merged = _merged(stage, call.operation, way)
        merges |= merged
        whole = _whole(spec, call, stage, way, sizes, frozenset(merged), own / total)
        pieces += _sliced(whole, way, workers)
    if len(pieces) < 2:
        return None
    return Division(tuple(sorted(pieces, key=lambda piece: -piece.share)), merges)


def way_of(stage: Stage, operation: Operation, sizes: Sizes, separation: str, workers: int) -> Way:
    """How one kernel of a call is cut for so many workers."""
    if sizes.batch:
        return _batch_way(stage, operation, sizes)
    is_j = stage.program.row_axis == "j"
    rows, cols = (sizes.N, sizes.M) if is_j else (sizes.M, sizes.N)
    axes: tuple[Literal["i", "j"], Literal["i", "j"]] = ("j", "i") if is_j else ("i", "j")
    row_axis, column_axis = axes
    if stage.passes(rows, cols, separation):
        return Way(None, words="whole: the sum separates")
    pieces = SMALLEST * workers
    by_rows = not _knows(stage, row_axis) and all(t.reduction.nests for t in stage.terms if t.keep == "p")
    by_columns = not _knows(stage, column_axis) and all(term.reduction.nests for term in stage.terms)
    width = sum(output.width for output in stage.program.outputs)
    merged = (1 if stage.program.over_rows else rows) * width * len(SHARES) * workers
    if by_rows and rows >= LEAST_ROWS * pieces:
        unit = _power_of_two(min(block_rows(stage.emitted.schedule), rows // (2 * pieces)))
        return Way(row_axis, rows, unit, words=f"by rows of {row_axis}")
    if by_columns and cols >= LEAST_COLUMNS * pieces and merged <= MERGED:
        unit = _power_of_two(stage.emitted.schedule.tile)
        names = " and ".join({term.reduction.name: None for term in stage.terms})
        return Way(
            column_axis, cols, unit, merges=True, words=f"by columns, rows of {column_axis}, merged by {names}"
        )
    if by_rows and rows > 1:
        return Way(row_axis, rows, words=f"by rows of {row_axis}")
    return Way(None, words="whole: rows are few, or its results cannot be merged")


def _batch_way(stage: Stage, operation: Operation, sizes: Sizes) -> Way:
    """Along the first batch axis, if all results of the kernel have it."""
    has_axis = [_has_first_axis(sizes, place) for place in range(len(sizes.batches))]
    is_summed = isinstance(operation, Vjp) and not all(has_axis[operation.wrt[place]] for place in stage.results)
    if is_summed or sizes.batch[0] < 2:
        return Way(None, words="whole: its results have no batch axis to cut")
    return Way("batch", sizes.batch[0], words="along the first batch axis")


def _has_first_axis(sizes: Sizes, place: int) -> bool:
    own = sizes.batches[place]
    return len(own) == len(sizes.batch) and own[0] == sizes.batch[0]


def _knows(stage: Stage, axis: str) -> bool:
    """Whether a formula reads the numbers of the rows of an axis: in a slice they would be others."""
    roots = [root for term in stage.terms for root in (term.formula, term.weights) if root is not None]
    return any(isinstance(node, Index) and node.axis == axis for node in topological(roots))


def _merged(stage: Stage, operation: Operation, way: Way) -> dict[int, Reduction]:
    """The results that pieces have in common, and what merges them."""
    if way.axis in (None, "batch"):
        return {}
    reductions = [term.reduction for term in stage.terms for _ in term.reduction.results]
    return {
        place: reduction
        for place, reduction in zip(stage.results, reductions, strict=True)
        if way.merges or operation.results[place].axis == "p"
    }


def _whole(
    spec: Spec, call: Plan, stage: Stage, way: Way, sizes: Sizes, merged: frozenset[int], share: float
) -> Piece:
    """One kernel of a call as a call of its own."""
    if spec.wrt:
        last = spec.wrt[-1]
        spec = replace(spec, wrt=(*spec.wrt[:-1], tuple(last[place] for place in stage.results)))
    slots = call.operation.arguments
    cut = frozenset(
        place
        for place, slot in enumerate(slots)
        if way.axis and (_has_first_axis(sizes, place) if sizes.batch else slot.axis == way.axis)
    )
    return Piece(spec, cut, 0, way.length, stage.results, merged, share)


def _sliced(whole: Piece, way: Way, workers: int) -> list[Piece]:
    """The pieces of one kernel."""
    if not whole.cut:
        return [replace(whole, merged=frozenset())]
    parts = [1 / (part * workers) for part in SHARES for _ in range(workers)]
    units = way.length / way.unit
    ends = [min(way.length, round(end * units) * way.unit) for end in itertools.accumulate(parts)]
    ends[-1] = way.length
    return [
        replace(whole, first=first, end=end, share=whole.share * (end - first) / way.length)
        for first, end in itertools.pairwise([0, *ends])
        if first < end
    ]


def _power_of_two(limit: int) -> int:
    """The largest that is not above."""
    return int(1 << max(0, limit.bit_length() - 1))
