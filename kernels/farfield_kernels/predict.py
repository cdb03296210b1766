"""Spec + Sizes -> Prediction: the work and the memory of a call, before anything is compiled; Rates: its time.

The unit of work is a *step*, a fused product in float32. Other operations count as many steps as they took on one
processor with AVX-512, in float64 twice as many, so that the work of a call does not depend on the machine. What a
step takes is learned from calls: seconds over steps, for each kind of call and for all together.

Nothing here reaches what compiles and runs kernels.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from .arguments import Sizes, numpy_dtype, result_bytes
from .counts import Counts
from .emit.cpp_components import TILE
from .lower import Level, Program
from .operation import Operation, Spec, read
from .schedule import SIZE, Device, block_rows, split
from .stages import Emitted, Stage, plan_call

STEPS = {
    "fma": 1.0, "add": 0.5, "divide": 4.0, "compare": 1.5, "choose": 0.5, "largest": 0.5, "load": 0.25,
    "nearest": 1.0, "any": 1.5, "any_exceeds": 2.0, "fabs": 0.5, "signed_as": 2.0, "fused": 1.5, "scaled": 1.0,
    "finite_or_zero": 1.5, "ceil": 1.0, "floor": 1.0, "trunc": 1.0, "rint": 1.0,
    "sqrt": 6.0, "rsqrt": 6.0, "exp": 9.0, "half_exp": 9.0, "exp2": 6.0, "expm1": 11.0, "log": 23.0, "log1p": 27.0,
    "sin": 24.0, "cos": 23.0, "tanh": 24.0, "sinh": 20.0, "cosh": 14.0, "atan": 19.0, "asin": 17.0, "acos": 16.0,
    "erf": 28.0, "erfc": 48.0, "pow": 60.0, "hypot": 180.0, "log2": 190.0, "log10": 310.0, "lgamma": 500.0,
    "cbrt": 550.0, "atan2": 580.0,
}  # fmt: skip
"""What an operation counts, between what it takes alone and what beside products (`farfield bench --machine` on an
EPYC with AVX-512). Those from `hypot` on are calls of the C library, lane by lane."""
READ = 16.0  # what a value of a row or column counts that is read and laid out

STEP_S = 4e-11  # of a slow machine: on two cores with AVX-512 a step took 0.8 to 2.8e-11
CALL_S = 2e-5  # of a call, whatever it computes
MULTIPROCESSORS = 160  # more than devices have: how far columns are split is not known here

LEARNED = 0.3  # part of a mean that the newest call makes up
KEPT = 1024  # kinds of calls
FIRST_STEPS = 1e8  # that the rate of a machine counts before any call was seen


@dataclass(frozen=True)
class Prediction:
    """What a call needs.

    Args:
        steps: work, in fused products of float32.
        result_bytes, argument_bytes: as the caller has them.
        device_bytes: arguments as kernels read them, results as they write them, and partial states, all of which
            lie in the memory of a device at once.
    """

    steps: float
    result_bytes: int
    argument_bytes: int
    device_bytes: int


@functools.lru_cache(maxsize=1024)
def predict(spec: Spec, sizes: Sizes, device: Device = "cpu", pairs: int | None = None) -> Prediction:
    """The work and the memory of a call; kept, as most calls are made again.

    The first prediction for a spec writes its kernels as text, as a call does; later ones take microseconds.

    Args:
        spec: what to compute.
        sizes: of its arguments (see `check_arguments`).
        device: whose memory is predicted; the work is the same on all.
        pairs: how many (i, j) each element of the batch meets, if there are ranges.

    Raises:
        FormulaError, LimitError: as for the call.
    """
    operation = read(spec)
    call = plan_call(spec, sizes.compute, "cpu")
    batches = math.prod(sizes.batch)
    steps = batches * sum(stage_steps(stage, sizes, spec.separation, pairs) for stage in call.stages)
    argument_bytes, read_bytes = _argument_bytes(operation, sizes)
    on_device = plan_call(spec, sizes.compute, device).stages
    written_bytes = sum(_written_bytes(stage.emitted, sizes) for stage in on_device)
    partial_bytes = max((_partial_bytes(stage.emitted, sizes) for stage in on_device), default=0)
    return Prediction(
        steps,
        sum(result_bytes(operation, sizes)),
        argument_bytes,
        read_bytes + written_bytes + partial_bytes,
    )


# ---- work ----------------------------------------------------------------------------------------------------


def stage_steps(stage: Stage, sizes: Sizes, separation: str, pairs: int | None) -> float:
    """Of one element of the batch."""
    rows, cols = _lengths(stage.program, sizes)
    passes = None if sizes.batch or pairs is not None else stage.passes(rows, cols, separation)
    if passes is None:
        return _steps(stage.emitted, rows, cols, rows * cols if pairs is None else pairs)
    of_columns = sum(_steps(emitted, 1, cols, cols) for emitted in passes.columns)
    return of_columns + _steps(passes.rows, rows, 1, rows)


def _steps(emitted: Emitted, rows: int, cols: int, pairs: int) -> float:
    of_row, of_column, of_pair = _steps_per_level(emitted)
    blocks = -(-rows // block_rows(emitted.schedule))  # each computes anew what depends on the column alone
    return rows * of_row + cols * blocks * of_column + pairs * of_pair


@functools.lru_cache(maxsize=1024)
def _steps_per_level(emitted: Emitted) -> tuple[float, float, float]:
    """Steps of a row, a column and a pair."""
    counts = Counts(emitted.program, emitted.schedule, TILE)
    factor = SIZE[emitted.schedule.dtype] / SIZE["float32"]

    def steps(found: Mapping[str, float]) -> float:
        return factor * sum(count * STEPS[name] for name, count in found.items())

    def of_level(level: Level) -> float:
        return steps(counts.level(level)) + READ * factor * len(emitted.program.kept(level))

    return of_level("row"), of_level("col"), sum(steps(found) for _, found in counts.pairs())


def _lengths(program: Program, sizes: Sizes) -> tuple[int, int]:
    return (sizes.N, sizes.M) if program.row_axis == "j" else (sizes.M, sizes.N)


# ---- memory --------------------------------------------------------------------------------------------------


def _argument_bytes(operation: Operation, sizes: Sizes) -> tuple[int, int]:
    """All arguments as the caller has them, and as kernels read them: an index as its halves."""
    given = taken = 0
    for slot, batch in zip(operation.arguments, sizes.batches, strict=True):
        size = math.prod(slot.shape(sizes.M, sizes.N, batch))
        given += size * numpy_dtype(slot.dtype(sizes.dtype)).itemsize
        taken += size // slot.dim * slot.width * SIZE[sizes.compute]
    return given, taken


def _written_bytes(emitted: Emitted, sizes: Sizes) -> int:
    """What a kernel writes: one row per row, in float64 where rows are summed."""
    program = emitted.program
    rows = 1 if program.over_rows else _lengths(program, sizes)[0]
    width = sum(
        output.width * (8 if output.is_index or output.is_sum else SIZE[emitted.schedule.results])
        for output in program.outputs
    )
    return math.prod(sizes.batch) * rows * width


def _partial_bytes(emitted: Emitted, sizes: Sizes) -> int:
    """States that are merged at the end, of rows or of splits of the columns."""
    program, schedule, batches = emitted.program, emitted.schedule, math.prod(sizes.batch)
    rows, cols = _lengths(program, sizes)
    splits = split(schedule, rows, cols, batches, MULTIPROCESSORS)
    if splits == 1 and not program.over_rows:
        return 0
    states = splits * rows
    if program.over_rows and schedule.device == "cuda":  # of threads that merge theirs
        states = -(-rows // block_rows(schedule)) * splits * (schedule.block // schedule.mergers)
    return batches * states * program.state_size * len(program.components) * 8


# ---- time ----------------------------------------------------------------------------------------------------


@dataclass
class _Mean:
    """Seconds and steps, of which older ones count less: long calls weigh more, as short ones say little."""

    seconds: float
    steps: float

    @property
    def step_s(self) -> float:
        return self.seconds / self.steps

    def learn(self, seconds: float, steps: float) -> None:
        self.seconds += LEARNED * (seconds - self.seconds)
        self.steps += LEARNED * (steps - self.steps)


class Rates:
    """Seconds per step of one device: of each kind of call that was seen, and of all together for the others.

    Args:
        step_s: what a step takes before any call was seen: `Limits.step_s` of a machine that was measured.
        kept: kinds of calls that are remembered, the last ones; more take no memory.
    """

    def __init__(self, step_s: float = STEP_S, kept: int = KEPT) -> None:
        self._all = _Mean(step_s * FIRST_STEPS, FIRST_STEPS)
        self._own: OrderedDict[Hashable, _Mean] = OrderedDict()
        self._kept = kept

    def seconds(self, key: Hashable, prediction: Prediction) -> float:
        """How long a call will take.

        Args:
            key: its kind, such as its spec and type.
            prediction: its work.
        """
        return CALL_S + prediction.steps * self._own.get(key, self._all).step_s

    def knows(self, key: Hashable) -> bool:
        """Whether a call of this kind was seen."""
        return key in self._own

    def learn(self, key: Hashable, prediction: Prediction, seconds: float) -> None:
        """A call of a kind took so long, compiling aside."""
        steps, taken_s = max(1.0, prediction.steps), max(0.0, seconds - CALL_S)
        self._all.learn(taken_s, steps)
        own = self._own.get(key)
        if own is None:
            self._own[key] = _Mean(taken_s, steps)
            if len(self._own) > self._kept:
                self._own.popitem(last=False)
            return
        own.learn(taken_s, steps)
        self._own.move_to_end(key)
