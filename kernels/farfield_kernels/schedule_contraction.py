"""Program -> Schedule of a CUDA kernel on tensor cores.

A warp holds tiles of 16 rows, of which each thread has two; the four threads that share them are a team. Both
matrices lie in shared memory as halves, `depth` components at a time.
"""

from __future__ import annotations

from dataclasses import replace

from .contractions import Contracted, contracted
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


def plan_contraction(program: Program, direct: Schedule) -> Schedule | None:
    """The schedule on tensor cores in the place of one that computes pairs one by one; None where it must stay."""
    if {direct.dtype, *direct.stored} != {"float32"}:
        return None
    found = contracted(program)
    if found is None:
        return None
    dim = max(contraction.dim for contraction in found.contractions)
    whole = -(-dim // 16) * 16 if dim <= 16 else -(-dim // STEP) * STEP
    depth = whole if whole <= DEEP else STEP
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


def is_for(rows: int, cols: int, capability: int) -> bool:
    """Whether tiles of so many rows and columns are full enough, on a device of a compute capability."""
    return capability >= CAPABILITY and rows >= LEAST_ROWS and cols >= LEAST_COLUMNS


def pitch(depth: int) -> int:
    """Halves from one row in shared memory to the next: eight rows of a matrix meet all banks once."""
    return depth + 8


def _fits(found: Contracted, rows: int, columns: int, depth: int) -> bool:
    """Whether shared memory has room: for the rows, where states meet at the end, and for the columns."""
    of_rows, of_columns = (4 * vectors * pitch(depth) for vectors in (THREADS // TEAM * rows, columns))
    values = -(-max(1, len(found.rest.kept("col"))) // 4) * 4 + 2 * len(found.contractions)
    centres = sum(one.dim for one in found.contractions if one.kind == "distance")
    meeting = 8 * found.rest.state_size * THREADS
    return meeting <= of_rows and of_rows + of_columns + 4 * (values * columns + centres) <= SHARED_BYTES
