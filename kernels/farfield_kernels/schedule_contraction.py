"""Program -> Schedule of a CUDA kernel on tensor cores.

A warp holds tiles of 16 rows, of which each thread has two; the four threads that share them are a team. Both
matrices lie in shared memory as halves, `depth` components at a time.
"""

from __future__ import annotations

from dataclasses import replace

from .contractions import Contracted, Group, contracted
from .lower import Program
from .schedule_kinds import Schedule

SHARED_BYTES = 49_152  # static shared memory of a block, on every device
THREADS = 128
TEAM = 4  # threads of a warp that share two rows of a tile
CAPABILITY = 8  # from which there are tiles of 16 x 8 x 16 halves
STEP = 32  # components between two additions to a sum: tensor cores do not round, they cut off
DEEP = 64  # components that lie in shared memory at a time, at most
STATES = 24  # numbers of the states that a thread holds beside them, if it has more than two rows
HELD = 64  # elements of tiles that a thread holds
TILE = 256  # columns whose terms are added in float32
LEAST_ROWS, LEAST_COLUMNS = 33, 32  # below, a block of rows and a tile of columns are mostly empty
SHAPES = ((4, 32), (2, 32))  # rows of a thread, columns of a tile
WIDE = (4, 64)  # where rows become halves anew for every tile of columns
RESIDENT = {32: 3, HELD: 2}  # elements held up to which a multiprocessor has registers for so many blocks
SUMS = 64  # of a second product that a thread holds
HELD_WITH_SUMS = 96  # elements and they
SUMMED = 512  # columns whose products are added in float32, one step of the tensor cores after the other
RESIDENT_WITH_SUMS = {52: 4, 80: 3, HELD_WITH_SUMS: 2}


def plan_contraction(program: Program, direct: Schedule) -> Schedule | None:
    """The schedule on tensor cores in the place of one that computes pairs one by one; None where it must stay."""
    if {direct.dtype, *direct.stored} != {"float32"}:
        return None
    found = contracted(program)
    if found is None:
        return None
    dim = max((contraction.dim for contraction in found.contractions), default=0)
    whole = -(-dim // 16) * 16 if dim <= 16 else -(-dim // STEP) * STEP
    depth = whole if whole <= DEEP else STEP
    if found.group:
        return _plan_second(found, found.group, depth, direct)
    for rows, columns in SHAPES if dim <= depth else (WIDE, *SHAPES):
        held = rows * columns // TEAM * len(found.contractions)
        states = rows * len(program.components) * program.state_size
        if held <= HELD and (rows == 2 or states <= STATES) and _fits(found, rows, columns, depth):
            return replace(
                direct, scheme="contraction", rows=rows, block=THREADS, team=TEAM, tile=TILE, chunk=columns,
                depth=depth, in_registers=True, polynomials=0,
                resident=next(count for most, count in RESIDENT.items() if held <= most),
            )  # fmt: skip
    return None


def _plan_second(found: Contracted, group: Group, depth: int, direct: Schedule) -> Schedule | None:
    """With a second product: up to 64 of its components in one pass, up to 128 with half as many rows."""
    for rows, columns in SHAPES:
        most = SUMS * TEAM // rows
        if group.count > most and rows != SHAPES[-1][0]:
            continue
        count = -(-group.count // -(-group.count // most))
        width = -(-count // 8) * 8
        held = rows * columns // TEAM * max(1, len(found.contractions)) + rows * width // TEAM
        others = len(found.rest.weights) or len(found.rest.components)
        is_held = held <= HELD_WITH_SUMS and (rows == 2 or rows * others <= STATES)
        if is_held and _fits(found, rows, columns, depth, width):
            return replace(
                direct, scheme="second product", rows=rows, block=THREADS, team=TEAM, tile=SUMMED, chunk=columns,
                depth=depth, width=width, in_registers=True, polynomials=0,
                resident=next(count for most, count in RESIDENT_WITH_SUMS.items() if held <= most),
            )  # fmt: skip
    return None


def passes(group: Group, schedule: Schedule) -> int:
    """Over the columns, each for some components of a second product."""
    return -(-group.count // schedule.width)


def is_for(rows: int, cols: int, capability: int) -> bool:
    """Whether tiles of so many rows and columns are full enough, on a device of a compute capability."""
    return capability >= CAPABILITY and rows >= LEAST_ROWS and cols >= LEAST_COLUMNS


def pitch(depth: int) -> int:
    """Halves from one vector in shared memory to the next: eight of them meet all banks once."""
    return 2 * depth + 8


def _fits(found: Contracted, rows: int, columns: int, depth: int, width: int = 0) -> bool:
    """Whether shared memory has room: for the rows, where states meet at the end, and for the columns.

    States of a second product do not meet; its vectors lie where columns did.
    """
    of_rows, of_columns = (2 * vectors * pitch(depth) for vectors in (THREADS // TEAM * rows, columns))
    if width:
        of_columns = max(of_columns, 2 * columns * pitch(width)) + 4 * columns
    values = -(-max(1, len(found.rest.kept("col"))) // 4) * 4 + 2 * len(found.contractions)
    centres = sum(one.dim for one in found.contractions if one.kind == "distance")
    meeting = 0 if width else 8 * found.rest.state_size * THREADS
    return meeting <= of_rows and of_rows + of_columns + 4 * (values * columns + centres) <= SHARED_BYTES
