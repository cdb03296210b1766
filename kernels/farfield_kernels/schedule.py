"""Program + device -> Schedule: how a kernel walks over its rows and columns.

The walk is the same on both devices. A *block* of rows goes through the columns in *tiles*; what depends on the
column alone is computed once per tile, and rows are held `rows` at a time in registers, so that each column value
read serves several rows. Columns may also be *split* between workers, whose states are merged at the end: that
is how few rows keep every core busy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .lower import Program
from .roll import Rolls, places, roll, straight
from .schedule_cuda import for_one_row, own_rows, plan_cuda, split_cuda
from .schedule_cuda import for_sizes as for_sizes
from .schedule_kinds import SIZE as SIZE
from .schedule_kinds import Device as Device
from .schedule_kinds import Schedule as Schedule

L2_BYTES = 262_144  # of a row block, and of a column tile: both stay in the second cache
REGISTERS = 24  # values held across the column loop before rows are halved; 32 zmm exist
STEP = (
    48  # columns: tiles and chunks of loops over components are multiples of it, as it is of every register tile
)

ROWS = {"fold": 2, "shifted sum": 1, "selection": 2}
"""Vectors of rows at a time in straight text on the CPU; one, where a chunk is passed over several times."""
TILE_FACTOR = {"fold": 1, "shifted sum": 4, "selection": 32}
"""How much longer a tile is than for a sum: a shifted sum merges with exp, a selection with a loop per entry, and
then must find its K terms anew."""


def plan(
    program: Program,
    device: Device,
    dtype: str,
    *,
    stored: Callable[[int], str] | None = None,
    results: str | None = None,
) -> Schedule:
    """Choose the schedule of one kernel, for many rows and columns.

    Args:
        program: what it computes.
        device: `cpu` or `cuda`.
        dtype: the type that it computes in.
        stored: the element type of the argument at a position, if not `dtype`.
        results: the element type of its floating-point results, if not `dtype`.
    """
    kinds = tuple(stored(position) if stored else dtype for position, _ in program.widths)
    if device == "cuda":
        return plan_cuda(program, dtype, kinds, results or dtype)
    scalars = sum(program.entries(field) for field in program.reduction.state if field.each != "K")
    held = len(program.kept("row")) + scalars * len(program.components)
    rows = ROWS[program.reduction.scheme]
    while rows > 1 and rows * held > REGISTERS:
        rows //= 2
    in_registers = held <= 2 * REGISTERS  # a few spills cost less than going through memory
    rolls = roll(program)
    if rolls:
        return _rolled(program, rolls, dtype, kinds, results or dtype)
    tile, chunk = 256 * TILE_FACTOR[program.reduction.scheme], 8
    while tile > 1024 and tile * len(program.kept("col")) * SIZE[dtype] > L2_BYTES:
        tile //= 2
    if program.reduction.scheme != "fold":
        chunk = max(8, 128 // len(program.components))
    block = 256 if held <= 64 else 64
    return Schedule("cpu", dtype, rows, block, tile, chunk, in_registers, "rows", kinds, results or dtype)


def _rolled(program: Program, rolls: Rolls, dtype: str, stored: tuple[str, ...], results: str) -> Schedule:
    """Of a CPU kernel with loops over components; what they read lies in memory, near enough to a core."""
    slots = [len(places(program, level)) for level in ("row", "col")]
    components = len(program.components) - sum(family.body.count for family in rolls.components)
    weights = len(program.weights) - sum(family.body.count for family in rolls.weights)
    per_component = sum(weights if field.each == "W" else 1 for field in program.reduction.state)
    held = components * per_component + len(straight(program, rolls).intersection(program.kept("row")))
    size = SIZE[dtype]
    block, tile = 256, 5 * STEP * TILE_FACTOR[program.reduction.scheme]
    while block > 32 and block * slots[0] * size > L2_BYTES:
        block //= 2
    while tile > STEP and tile * slots[1] * size > L2_BYTES:
        tile = max(STEP, tile // 2 // STEP * STEP)
    in_registers = held <= 2 * REGISTERS
    return Schedule("cpu", dtype, 2, block, tile, 2 * STEP, in_registers, "rows", stored, results)


FEW_ROWS = 16  # up to which vectors of columns are faster: a vector of rows would be partly empty
MANY_COLUMNS = 4096  # from which that is worth a kernel of its own
STRAIGHT = 200  # pair operations up to which the text stays short


def for_few_rows(program: Program, schedule: Schedule) -> Schedule | None:
    """The schedule for one row or a few, if there is one.

    On the CPU it has vectors of columns, for reductions that can merge columns in any order.
    """
    if schedule.device == "cuda":
        return for_one_row(program, schedule)
    fields, step = program.reduction.state, program.reduction.step
    in_order = any(field.kind != "number" or field.each == "K" for field in fields) or "$c" in step
    if in_order or roll(program) or len(program.at("pair")) > STRAIGHT:
        return None
    chunk = 512 if program.reduction.scheme == "fold" else 256
    return replace(schedule, rows=1, block=64, tile=512, chunk=chunk, lanes="columns", in_registers=True)


def block_rows(schedule: Schedule) -> int:
    """Rows of one unit of work."""
    return own_rows(schedule) if schedule.device == "cuda" else schedule.block


def split(schedule: Schedule, rows: int, cols: int, batches: int, workers: int) -> int:
    """Into how many parts the columns are split so that `workers` cores or multiprocessors all have work."""
    blocks = -(-rows // block_rows(schedule)) * batches
    if schedule.device == "cuda":
        return split_cuda(schedule, blocks, cols, workers)
    wanted = 4 * workers
    if blocks == 0 or blocks >= wanted:
        return 1
    least = 4 * schedule.tile  # columns per part below which merging costs more than it gains
    return max(1, min(wanted // blocks, cols // least))
