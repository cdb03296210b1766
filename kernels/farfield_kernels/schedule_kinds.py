"""What a schedule is: the part of the walk over rows and columns that is emitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Schedule:
    """The part of the walk that is emitted.

    Args:
        device: `cpu` or `cuda`.
        dtype: `float32` or `float64`.
        rows: SIMD vectors of rows (cpu) or rows per thread (cuda) held in registers.
        block: rows that share one pass over the column tiles (cpu), or threads of a block (cuda).
        tile: columns per tile; a lane state is merged into doubles after each, which bounds rounding.
        chunk: columns whose terms lie in memory at a time, in shifted sums, selections and loops over components.
        lanes: whether a vector holds several rows or, for few rows, several columns (cpu).
        in_registers: whether row values and lane state are held across the column loop; else they live in memory.
        stored: element type of each argument that is read, in the order of `Program.widths`; converted when read.
        results: element type of the floating-point results.
        scheme: how pairs are computed: `direct` is one by one, `contraction` as products of matrices; as
            `second product` their sums are one too (cuda).
        team: threads that share the columns of their rows (cuda).
        resident: blocks of threads that a multiprocessor has registers for: what the compiler may use (cuda).
        mergers: threads that merge what splits of the columns left of a row, or whose states become one before
            they are written, where both axes are reduced (cuda).
        polynomials: of the exps of a column, for all rows of a thread, those that are polynomials (cuda).
        depth: components of a contraction that lie in shared memory at a time (cuda).
        width: components of a second product that are summed in one pass over the columns (cuda).
    """

    device: Device
    dtype: str
    rows: int
    block: int
    tile: int
    chunk: int
    in_registers: bool
    lanes: Literal["rows", "columns"]
    stored: tuple[str, ...]
    results: str
    scheme: Literal["direct", "contraction", "second product"] = "direct"
    team: int = 1
    resident: int = 1
    mergers: int = 1
    polynomials: int = 0
    depth: int = 0
    width: int = 0


SIZE = {"float32": 4, "float64": 8}  # bytes
