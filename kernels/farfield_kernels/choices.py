"""Stage + sizes -> lines of text: which kernel a call runs, by which rule, and the time below which it cannot end.

The rules themselves are those of `execute.Work` and `schedule.py`; here they are said with their numbers.
"""

from __future__ import annotations

from .cost import Cost, operations, register_tile, stage_costs
from .cuda_launch import multiprocessors
from .emit.cpp_components import AT_A_TIME
from .execute import Work
from .machine import Limits
from .roll import LEAST, roll
from .schedule import FEW_ROWS, MANY_COLUMNS, block_rows, split
from .separate import GAIN, LEAST_PAIRS
from .stages import Emitted, Separated, Stage

TO_MEASURE = "run 'farfield bench --machine' for a predicted time"


def chosen(work: Work, stage: Stage, limits: Limits | None) -> list[str]:
    """What a call of these sizes runs, and why; how long it takes at least.

    Args:
        work: the call, its sizes and whether separation is asked for.
        stage: one of its kernels.
        limits: of this machine, if they were measured.
    """
    rows, cols = work.lengths(stage.program)
    separated = work.separated(stage)
    emitted = work.over_pairs(stage)
    way = "passes" if separated else "pairs"
    if not separated and emitted.schedule.scheme == "contraction":
        way = "pairs, on tensor cores"
    elif not separated and emitted.schedule.scheme == "second product":
        way = f"pairs and their sums, on tensor cores, {emitted.schedule.width} components at a time"
    elif not separated and emitted.schedule.team > 1:
        way = f"pairs, {emitted.schedule.team} threads share the columns of a row"
    elif not separated and emitted.schedule.lanes == "columns":
        way = "pairs, several columns in a vector"
    lines = [f"  chosen     for {rows} rows and {cols} columns: by {way}"]
    lines.append(f"  passes     {_separation(work, stage, separated)}")
    if stage.emitted.schedule.device != "cpu":
        return lines if separated else [*lines, *_grid(work, stage, emitted)]
    if not separated:
        lines += [] if emitted is stage.emitted else [walk(emitted)]  # one that is not shown yet
        lines += _listed("scheme", _scheme(work, stage, emitted))
    return [*lines, f"  limit      {_limit(stage_costs(work, stage), limits)}"]


def walk(emitted: Emitted) -> str:
    """The schedule of a kernel."""
    schedule = emitted.schedule
    return (
        f"  schedule   {schedule.device}, {schedule.dtype}: {schedule.rows} rows in registers, "
        f"blocks of {schedule.block}, tiles of {schedule.tile} columns"
    )


def _grid(work: Work, stage: Stage, emitted: Emitted) -> list[str]:
    """How a CUDA kernel fills the device."""
    (rows, cols), schedule = work.lengths(stage.program), emitted.schedule
    row_blocks = -(-rows // block_rows(schedule)) * work.batches
    parts = split(schedule, rows, cols, work.batches, multiprocessors())
    filled = f"{row_blocks} blocks of rows x {parts} parts of the columns on {multiprocessors()} multiprocessors"
    return [] if work.pairs is not None else [walk(emitted), f"  grid       {filled}"]


def _listed(label: str, texts: list[str]) -> list[str]:
    return [f"  {label if k == 0 else '':<10} {text}" for k, text in enumerate(texts)]


def _separation(work: Work, stage: Stage, separated: Separated | None) -> str:
    """Whether passes are taken, and why."""
    rows, cols = work.lengths(stage.program)
    pairs = rows * cols
    few = f"{pairs} pairs are fewer than {LEAST_PAIRS}"
    if work.separation == "off":
        return "no: separation is off"
    if not separated and pairs < (LEAST_PAIRS if work.separation == "auto" else 1):
        return f"no: {few}" if pairs else "no: there are no pairs"
    if stage.separated is None:
        return "no: the sum does not separate"
    if work.separation == "on":
        return "yes: separation is on"
    factor = max(GAIN * (separation.rank + 1) for separation in stage.separated.separations)
    steps = f"{factor} x ({rows} + {cols})"
    if not separated:
        return f"no: {pairs} pairs are not more than {steps}"
    return f"yes: {pairs} pairs are at least {LEAST_PAIRS}, and more than {steps}"


def _scheme(work: Work, stage: Stage, emitted: Emitted) -> list[str]:
    """How the kernel over pairs uses vectors, registers and threads."""
    rows, cols = work.lengths(stage.program)
    schedule, rolls = emitted.schedule, roll(emitted.program)
    if schedule.lanes == "columns":
        why = f"{rows} rows are at most {FEW_ROWS}, {cols} columns at least {MANY_COLUMNS}"
        lines = [f"columns in lanes: {why}"]
    else:
        if rows > FEW_ROWS:
            why = f"{rows} rows are more than {FEW_ROWS}"
        elif cols < MANY_COLUMNS:
            why = f"{cols} columns are fewer than {MANY_COLUMNS}"
        else:
            why = "loops, and reductions that take columns in their order, leave no choice"
        lines = [f"rows in lanes, {schedule.rows} vectors at a time: {why}"]
    for fold in rolls.folds:
        vectors, columns = register_tile()
        tile = f"{vectors} vector{'s' if vectors > 1 else ''} x {columns} columns"
        lines.append(f"a sum over {fold.body.count} components, at least {LEAST}: register tile of {tile}")
    for kind, families in (("results", rolls.components), ("weights", rolls.weights)):
        for family in families:
            count, some = family.body.count, f"{AT_A_TIME} at a time over {schedule.chunk} columns"
            lines.append(f"{count} {kind}, at least {LEAST}: {some}")
    (cost,) = stage_costs(work, stage)
    parts = split(schedule, rows, cols, work.batches, cost.threads) if cost.threads > 1 else 1
    if parts > 1:
        lines.append(f"columns split into {parts} parts: so {cost.threads} threads have work")
    return lines


def _limit(costs: tuple[Cost, ...], limits: Limits | None) -> str:
    """The predicted time."""
    if limits is None:
        return TO_MEASURE
    cpu_ms, wall_ms = (
        1e3 * sum(of) for of in zip(*((c.cpu_s(limits), c.wall_s(limits)) for c in costs), strict=True)
    )
    threads = max(cost.threads for cost in costs)
    on = f"{threads} threads, {cpu_ms:.3g} ms of CPU time" if threads > 1 else "1 thread"
    memory = all(cost.memory_s(limits) > cost.compute_s(limits) for cost in costs)
    return f"at least {wall_ms:.3g} ms on {on}: what {'memory' if memory else 'arithmetic'} takes at full speed"


def per_pair(emitted: Emitted) -> list[str]:
    """The operations of a pair, those of CPU kernels alone."""
    if emitted.schedule.device != "cpu":
        return []
    found = operations(emitted.program, emitted.schedule, "pair")
    parts = [f"{count:g} {name}" for name, count in sorted(found.items()) if count and name != "load"]
    return [f"  per pair   {', '.join(parts)}"] if parts else []
