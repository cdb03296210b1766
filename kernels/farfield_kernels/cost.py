"""Program + Schedule + sizes -> Cost: the operations of a CPU kernel, and the time below which it cannot end.

Operations are those of `counts.py`, phase by phase. The limit of a phase is what its operations take of the units
that fuse products and sums, or the time of one class alone if that is longer; filling tiles, merging states and
waiting for results are not in it, so that no kernel reaches it. A call takes at least the limits of its phases,
and at least as long as reading its arguments and writing its results once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .build import processor
from .counts import Counts
from .emit.cpp_components import TILE, TILE_AVX512
from .execute import Work
from .launch import SMALLEST_SHARED_WORK, thread_count
from .lower import Level, Program
from .machine import Limits
from .schedule import SIZE, Schedule, block_rows, split
from .stages import Stage


@dataclass(frozen=True)
class Phase:
    """Some operations, each done `times` in all, counted in lanes.

    Args:
        what: in words.
        per: what it is done for: pair, row or column.
        operations: class -> how many of it for one.
    """

    what: str
    per: str
    operations: Mapping[str, float]
    times: float

    def limit_s(self, limits: Limits, dtype: str) -> float:
        """Seconds of one core."""
        rates = limits.rates[dtype]
        taken = sum(count * rates[name].taken_ns for name, count in self.operations.items())
        alone = [count * rates[name].alone_ns for name, count in self.operations.items()]
        return max(taken, *alone, 0.0) * 1e-9 * self.times / limits.lanes[dtype]


@dataclass(frozen=True)
class Cost:
    """What a call of one or several kernels, one after the other, costs.

    Args:
        dtype: that they compute in.
        moved_bytes: the arguments and results.
        threads: that can take part.
    """

    dtype: str
    phases: tuple[Phase, ...]
    moved_bytes: int
    threads: int

    def compute_s(self, limits: Limits) -> float:
        """Seconds of arithmetic, of all threads together."""
        return sum(phase.limit_s(limits, self.dtype) for phase in self.phases)

    def memory_s(self, limits: Limits) -> float:
        """Seconds of reading and writing, of all threads together."""
        return self.moved_bytes / (limits.read_gb_s * 1e9)

    def cpu_s(self, limits: Limits) -> float:
        """The limit of the processor time, of all threads together."""
        return max(self.compute_s(limits), self.memory_s(limits))

    def wall_s(self, limits: Limits) -> float:
        """The limit of the time."""
        return self.cpu_s(limits) / self.threads


def operations(program: Program, schedule: Schedule, per: Level) -> dict[str, float]:
    """The operations for one pair, row or column, all phases together."""
    total: dict[str, float] = {}
    for phase in _phases(program, schedule, {per: 1.0}):
        for name, count in phase.operations.items():
            total[name] = total.get(name, 0) + count
    return total


def cost(program: Program, schedule: Schedule, rows: int, cols: int, batches: int = 1) -> Cost:
    """The cost of one launch over all pairs.

    Args:
        program: the kernel.
        schedule: its schedule, for the CPU.
        rows: length of the kept axis.
        cols: length of the reduced axis.
        batches: elements of the batch.
    """
    assert schedule.device == "cpu"
    levels: tuple[tuple[Level, int], ...] = (("row", rows), ("col", cols), ("pair", rows * cols))
    steps = batches * sum(times * (1 + len(program.at(level))) for level, times in levels)
    threads = thread_count() if steps > SMALLEST_SHARED_WORK else 1
    blocks = -(-rows // block_rows(schedule))
    splits = split(schedule, rows, cols, batches, threads) if threads > 1 else 1
    times = {"row": rows * splits * batches, "col": cols * blocks * batches, "pair": rows * cols * batches}
    return Cost(
        schedule.dtype,
        tuple(_phases(program, schedule, times)),
        moved_bytes(program, schedule, rows, cols) * batches,
        max(1, min(threads, blocks * splits * batches)),
    )


def stage_costs(work: Work, stage: Stage) -> tuple[Cost, ...]:
    """The costs of the kernels that a stage runs, one after the other; ranges count as all pairs."""
    kernels = work.first_choice(stage)
    rows, cols = work.lengths(stage.program)
    if len(kernels) == 1:
        return (cost(*kernels[0].parts[:2], rows, cols, work.batches),)
    *columns, last = kernels
    passes = [cost(*emitted.parts[:2], 1, cols) for emitted in columns]
    return (*passes, cost(*last.parts[:2], rows, 1))


def register_tile() -> tuple[int, int]:
    """Vectors of rows and columns of a register tile, on this processor."""
    return TILE_AVX512 if "avx512f" in processor() else TILE


def moved_bytes(program: Program, schedule: Schedule, rows: int, cols: int) -> int:
    """Bytes of the arguments and results of one element of a batch."""
    lengths = {"row": rows, "col": cols}
    of = {value.argument: value.level for value in program.values if value.position is not None}
    read = sum(
        width * SIZE[dtype] * lengths.get(of[position], 1)
        for (position, width), dtype in zip(program.widths, schedule.stored, strict=True)
    )
    written = sum(
        output.width * (8 if output.is_index or output.is_sum else SIZE[schedule.results])
        for output in program.outputs
    )
    return read + written * (1 if program.over_rows else rows)


# ---- phases --------------------------------------------------------------------------------------------------


def _phases(program: Program, schedule: Schedule, times: Mapping[str, float]) -> Iterable[Phase]:
    """What is done for each of the levels in `times`."""
    counts = Counts(program, schedule, register_tile())
    levels: tuple[tuple[Level, str], ...] = (("row", "row"), ("col", "column"))
    for level, name in levels:
        if level in times and (found := counts.level(level)):
            yield Phase(f"once per {name}", name, found, times[level])
    if "pair" in times:
        for what, found in counts.pairs():
            yield Phase(what, "pair", found, times["pair"])
