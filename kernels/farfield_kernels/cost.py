"""Program + Schedule + sizes -> Cost: the operations of a CPU kernel, and the time below which it cannot end.

Operations are counted in the text that is emitted, phase by phase: what is computed once per row, once per column
and block of rows, and per pair in straight text, in each sum over components and in each family of results. The
limit of a phase is what its operations take of the units that fuse products and sums, or the time of one class
alone if that is longer; filling tiles, merging states and waiting for results are not in it, so that no kernel
reaches it. A call takes at least the limits of its phases, and at least as long as reading its arguments and
writing its results once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .build import processor
from .emit.cpp_components import AT_A_TIME, TILE, TILE_AVX512
from .emit.cpp_pairs import Pairs
from .execute import Work
from .launch import SMALLEST_SHARED_WORK, thread_count
from .lower import Level, Program
from .machine import Limits
from .roll import Body, Family
from .schedule import SIZE, Schedule, block_rows, split
from .stages import Stage
from .tally import Tally

STEPS = {"shifted sum": "$m = $t > $m ? $t : $m; $e = exp($t - $m);", "selection": "if ($t > $worst) { }"}
"""What is done with each term, where that is not all of the reduction's `step`: a shifted sum finds the maximum
before it adds, a selection compares each term and takes in few."""


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
        _moved_bytes(program, schedule, rows, cols) * batches,
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


def _moved_bytes(program: Program, schedule: Schedule, rows: int, cols: int) -> int:
    """Of the arguments and results of one element of a batch."""
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
    counts = _Counts(program, schedule)
    levels: tuple[tuple[Level, str], ...] = (("row", "row"), ("col", "column"))
    for level, name in levels:
        if level in times and (found := counts.level(level)):
            yield Phase(f"once per {name}", name, found, times[level])
    if "pair" in times:
        for what, found in counts.pairs():
            yield Phase(what, "pair", found, times["pair"])


class _Counts(Pairs):
    """Counts in the text of one kernel; what is emitted for its pairs is what `Pairs` says."""

    def tally(self) -> Tally:
        return Tally(self.schedule.dtype)

    def level(self, level: Level) -> dict[str, float]:
        """What is computed of a row or a column alone."""
        tally, names = self.tally(), dict[int, int]()
        for number in self.program.at(level):
            self._value(tally, names, number, level)
        return {**tally.count(names[number] for number in self.program.kept(level))}

    def _value(self, tally: Tally, names: dict[int, int], number: int, level: Level) -> None:
        """Name a value: computed at its level, there already at others and where a loop left it."""
        value = self.values[number]
        if value.level == "constant":
            names[number] = tally.constant if value.args else tally.value(value.code, ())
        elif value.is_load or value.level != level or number in self.folds:
            names[number] = tally.leaf()
        else:
            for arg in value.args:
                if arg not in names:
                    self._value(tally, names, arg, level)
            names[number] = tally.value(value.code, [names[arg] for arg in value.args])

    def pairs(self) -> Iterable[tuple[str, dict[str, float]]]:
        """(in words, for one pair) of each phase."""
        for fold in self.rolls.folds:
            tally = self.tally()
            result = self._body(tally, fold.body)
            found = tally.count([tally.node("add", (tally.leaf(), result))])
            of_all = _times(found, self._vectors(fold.body, register_tile()), fold.body.count)
            yield f"a sum over {fold.body.count} components", of_all
        yield "straight text", self._straight()
        for kind, families in (("results", self.rolls.components), ("weights", self.rolls.weights)):
            for family in families:
                yield f"{family.body.count} {kind}", self._family(family)

    def _straight(self) -> dict[str, float]:
        tally, names = self.tally(), dict[int, int]()
        results: list[int] = []
        for number in sorted(self.straight):
            if self.values[number].level == "pair":
                self._value(tally, names, number, "pair")
        for o, number in self.components:
            if number not in names:
                self._value(tally, names, number, "pair")
            results += self._step(tally, names[number], names if o == self.components[0][0] else None)
        families = (*self.rolls.components, *self.rolls.weights)
        kept = [n for family in families for n in family.body.scalars() if self.values[n].level == "pair"]
        found = tally.count([*results, *(names[n] for n in kept)])
        wanted = {n for n in self.straight if self.values[n].level == "pair"}
        read = {arg for n in wanted - self.folds.keys() for arg in self.values[n].args} | set(self.program.weights)
        read.update(number for _, number in self.components)
        columns = len(read.intersection(self.program.kept("col")) & self.straight)
        loads = columns if self.is_across else columns / self.schedule.rows
        loads += len(wanted & self.folds.keys()) + {"shifted sum": 2, "selection": 1}.get(
            self.program.reduction.scheme, 0
        ) * len(self.components)
        if not self.in_registers:
            loads += len(read.intersection(self.program.kept("row")) & self.straight)
            loads += sum(len(self.scalars(o, 0)) for o, _ in self.components)
        return _times(found, loads, 1)

    def _step(self, tally: Tally, term: int, weights: dict[int, int] | None) -> list[int]:
        """The state after one term; a weighted reduction has one component, whose weights are `weights`."""
        reduction = self.program.reduction
        names = {f"${field.name}": tally.leaf() for field in self.fields} | {"$t": term, "$c": tally.constant}
        names = tally.run(STEPS.get(reduction.scheme, reduction.step), names)
        results = [names[f"${field.name}"] for field in self.fields if field.each == ""]
        if not reduction.step_each:
            return results
        field = next((field.name for field in self.fields if field.each == "W"), self.sum_field)
        if not self.program.weights:
            return [*results, tally.run(reduction.step_each, _with_local(names))[f"${field}"]]
        if self.rolls.weights:
            results.append(names["$e"])
        for _, number in self.weights:
            assert weights is not None
            if number not in weights:
                self._value(tally, weights, number, "pair")
            each = _with_local(names) | {f"${field}": tally.leaf(), "$w": weights[number]}
            results.append(tally.run(reduction.step_each, each)[f"${field}"])
        return results

    def _family(self, family: Family) -> dict[str, float]:
        tally = self.tally()
        result = self._body(tally, family.body)
        if family in self.rolls.weights:
            names = {f"${self.sum_field}": tally.leaf(), "$e": tally.leaf(), "$w": result}
            results = [tally.run(self.program.reduction.step_each, names)[f"${self.sum_field}"]]
        else:
            results = self._step(tally, result, None)
        return _times(tally.count(results), self._vectors(family.body, None), family.body.count)

    def _body(self, tally: Tally, body: Body) -> int:
        """The value of one component."""
        names = dict[int, int]()
        leaves = []
        for leaf in body.leaves:
            if self.values[leaf.value].level == "constant":
                self._value(tally, names, leaf.value, "pair")
            leaves.append(names[leaf.value] if leaf.value in names else tally.leaf())
        steps: list[int] = []
        for code, args in body.steps:
            steps.append(tally.value(code, [steps[arg] if arg >= 0 else leaves[-1 - arg] for arg in args]))
        return steps[body.result] if body.result >= 0 else leaves[-1 - body.result]

    def _vectors(self, body: Body, tile: tuple[int, int] | None) -> float:
        """What is read for one component and pair: of a register tile, or of a family."""
        (rows, columns), read = tile or (self.schedule.rows, 1), 0.0
        for leaf in body.leaves:
            if leaf.kind == "row":
                read += 1 / columns
            elif leaf.kind in ("col", "p"):
                read += 1 / rows
            elif tile is None and self.values[leaf.value].level in ("pair", "col"):
                read += 1 / AT_A_TIME / (1 if self.values[leaf.value].level == "pair" else rows)
        return read


def _times(found: Counter[str], loads: float, count: int) -> dict[str, float]:
    return {name: number * count for name, number in (*found.items(), ("load", loads)) if number}


def _with_local(names: Mapping[str, int]) -> dict[str, int]:
    """What a step named, for the step of each weight: there its variable `e` is `$e`."""
    return {**names, **({"e": names["e"]} if "e" in names else {})}
