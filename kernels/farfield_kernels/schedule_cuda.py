"""Program -> Schedule for CUDA; Schedule + sizes -> the schedule that fills a device.

Counted in instructions of one thread. A multiprocessor issues four instructions of a warp per clock, its units for
special functions do one per eight clocks of a quarter of it; what is moved through the second cache to be merged
costs about as much time as a hundred instructions per number.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from .errors import LimitError
from .lower import Program
from .schedule_kinds import SIZE, Schedule

SHARED_BYTES = 49_152  # static shared memory of a block, on every device
THREADS = 128  # of a block
TILE = 256  # columns: so many float32 terms are added before they are merged into doubles
TEAM_TILE = 1024  # columns of the tile of a team: at least 8 of each thread
TEAMS = (1, 8, 32, THREADS)  # threads that share rows
ROWS = (8, 4, 2, 1)
REGISTERS = 64  # values of 32 bits that the rows of a thread hold, besides those of the column and the pair
MAX_REGISTERS = 112  # where more rows are needed, lest shared memory is slower than arithmetic
RESIDENT = {40: 5, 48: 4, 96: 3}  # values held up to which a multiprocessor has registers for so many blocks
MAX_HELD = 200  # beyond, they live in memory
MAX_PAIRS = 600  # values of pairs of all rows of a thread in the text
WARP = 32  # threads
MERGERS = WARP  # threads that merge the splits of a row
LEAST_COLUMNS = 64  # of a part; below, what a block begins and ends with costs more than its pairs
BLOCKS = 2  # of threads that a multiprocessor should have
ROUNDS = (2, 3, 4, 6, 8)  # of them: more where fewer would leave some multiprocessors idle at the end
UNEVEN = 1.05  # how much of that is tolerated
LEAST_GAIN = 1.25  # by which another schedule must be faster to be compiled
LEAST_PAIRS = 2**18  # below, a launch takes longer than its pairs

READ = 4  # clocks that the warps of a multiprocessor wait for one value of a column: 128 bytes come per clock
SPECIAL = 8  # clocks of the unit for special functions, per instruction
CALLED = 8  # instructions of a function, more or less
POLYNOMIAL = 12  # instructions of an exp without that unit
COLUMN = 40  # instructions to load a column
UNIT = 600  # instructions that a thread begins and ends with
MERGED = 100  # what a number of a state costs that is merged later
_SUMS = ("$a + $b", "$a - $b")
EXPS = {"exp($a)": 2, "exp2($a)": 1}
"""Instructions of each."""


def plan_cuda(program: Program, dtype: str, stored: tuple[str, ...], results: str) -> Schedule:
    """The schedule for many rows.

    Raises:
        LimitError: the values kept per column do not fit the device's shared memory.
    """
    words = SIZE[dtype] // 4
    scalars = len(program.components) * program.state_size * words
    chunk = max(1, 8 // len(program.components))
    held = len(program.kept("row")) * words + scalars
    if not program.reduction.is_exact:
        held += 2 * scalars // words  # the wide state
    briefly = 0
    if program.reduction.scheme == "shifted sum":  # half of the terms of a chunk, on average
        briefly = chunk * len(program.components) * words // 2
        held += program.state_size * len(program.components) * words + briefly
    pairs = max(1, len(program.at("pair")))
    rows = next((r for r in ROWS if r * held <= REGISTERS and r * pairs <= MAX_PAIRS), 1)
    while (
        rows < 8
        and rows * per_pair(program) < READ * words * width_of(program)
        and 2 * rows * held <= MAX_REGISTERS
    ):
        rows *= 2
    tile, width = TILE, width_of(program) * SIZE[dtype]
    while tile > 1 and tile * width > SHARED_BYTES * 2 // 3:
        tile //= 2
    if width + 16 > SHARED_BYTES:
        raise LimitError(f"{width} bytes per column do not fit the device's shared memory", limit=SHARED_BYTES)
    schedule = Schedule(
        "cuda", dtype, rows, THREADS, tile, min(tile, chunk), held <= MAX_HELD, "rows", stored, results,
        resident=next((count for most, count in RESIDENT.items() if rows * words * (held + briefly) <= most), 1),
        mergers=_mergers(program, tile * (width + 3 * SIZE[dtype])),
    )  # fmt: skip
    return with_polynomials(program, schedule)


def _mergers(program: Program, tile_bytes: int) -> int:
    """Threads whose states shared memory has room for: of rows, each warp has one there, else each thread."""
    if program.over_rows:
        return THREADS if tile_bytes + meeting_bytes(program) <= SHARED_BYTES else WARP
    return MERGERS if meeting_bytes(program) <= SHARED_BYTES else 1


def meeting_bytes(program: Program) -> int:
    """Of the states that meet in shared memory: of warps where both axes are reduced, else of threads."""
    return program.state_size * 8 * (THREADS // WARP if program.over_rows else THREADS)


def with_polynomials(program: Program, schedule: Schedule) -> Schedule:
    """As many exps by polynomials as keep both units busy for the same time."""
    exps = sum(program.values[n].code in EXPS for n in program.at("pair"))
    if schedule.dtype != "float32" or program.reduction.scheme != "fold" or not exps:
        return replace(schedule, polynomials=0)
    spare = SPECIAL * exps - per_pair(program)
    wanted = int(schedule.rows * spare / (SPECIAL + POLYNOMIAL - 1))
    return replace(schedule, polynomials=max(0, min(wanted, schedule.rows * exps)))


def width_of(program: Program) -> int:
    """Values of a column."""
    return max(1, len(program.kept("col")))


def per_pair(program: Program) -> int:
    """Instructions of one pair, its reading aside."""
    values, pairs = program.values, program.at("pair")
    readers: dict[int, list[int]] = {}
    for number in pairs:
        for arg in values[number].args:
            readers.setdefault(arg, []).append(number)
    is_sum = program.reduction.step == "$s = $s + $t;"
    fused: set[int] = set()  # sums that are one instruction with a product
    total = 0
    for number in pairs:
        code, by = values[number].code, set(readers.get(number, ()))
        is_product = code in ("$a * $b", "$a * $a")
        if is_product and by and all(values[n].code in _SUMS for n in by) and not by & fused:
            fused |= by
        elif not (is_product and not by and is_sum and program.components.count(number) == 1):
            total += EXPS.get(code, CALLED if "(" in code or "/" in code else 1)
    steps = len(program.components) + 2 * len(program.weights)
    return total + steps * (3 if program.reduction.scheme == "shifted sum" else 1)


# ---- for some sizes ------------------------------------------------------------------------------------------


def for_sizes(
    program: Program, schedule: Schedule, rows: int, cols: int, batches: int, multiprocessors: int
) -> Schedule:
    """The schedule that takes least time for so many rows and columns; `schedule` unless another saves much."""
    if rows * cols * batches < LEAST_PAIRS or not schedule.in_registers:
        return schedule
    of_rows = [r for r in ROWS if r <= schedule.rows and (r == schedule.rows or 4 * r == schedule.rows or r == 1)]
    least, best = LEAST_GAIN * time(program, schedule, rows, cols, batches, multiprocessors), schedule
    least /= LEAST_GAIN**2
    for r, team in itertools.product(of_rows, TEAMS):
        found = with_team(program, replace(schedule, rows=r), team)
        taken = time(program, found, rows, cols, batches, multiprocessors)
        if taken < least:
            least, best = taken, found
    return best


def for_one_row(program: Program, schedule: Schedule) -> Schedule:
    """The schedule with one row that all threads of a block share."""
    return with_team(program, replace(schedule, rows=1), THREADS)


def own_rows(schedule: Schedule) -> int:
    """Rows of a block."""
    return schedule.block // schedule.team * schedule.rows


def with_team(program: Program, schedule: Schedule, team: int) -> Schedule:
    """The schedule with rows shared by so many threads, if shared memory has room for their states."""
    tile = schedule.tile
    meeting = meeting_bytes(program)
    width = (len(program.kept("col")) + 3) * SIZE[schedule.dtype]
    if team > 1:
        tile = TEAM_TILE
        while tile > team and tile * 9 // 8 * width + meeting > SHARED_BYTES:
            tile //= 2
        if tile < 2 * team or tile * 9 // 8 * width + meeting > SHARED_BYTES:
            team, tile = 1, schedule.tile
    return with_polynomials(program, replace(schedule, team=team, tile=tile))


def time(program: Program, schedule: Schedule, rows: int, cols: int, batches: int, multiprocessors: int) -> float:
    """Instructions of all threads, more if they do not fill the device."""
    row_blocks = -(-rows // own_rows(schedule)) * batches
    splits = split_cuda(schedule, row_blocks, cols, multiprocessors)
    words = width_of(program) * SIZE[schedule.dtype] // 4
    threads = schedule.block // schedule.team
    column = max(schedule.rows * per_pair(program) + -(-words // 4), READ * words)
    pair = row_blocks * threads * cols * column
    begun = row_blocks * splits * (UNIT * schedule.block)
    state = len(program.components) * program.state_size
    merged = MERGED * splits * state * (row_blocks if program.over_rows else rows * batches)
    merged = merged if splits > 1 else 0
    return (pair + row_blocks * cols * COLUMN + begun + merged) * idle(row_blocks * splits, multiprocessors)


def idle(blocks: int, multiprocessors: int) -> float:
    """How much longer so many blocks take than if all multiprocessors were busy to the end."""
    if not blocks:
        return 1.0
    most = -(-blocks // multiprocessors)
    return most * multiprocessors / blocks / min(1.0, most / BLOCKS)


def split_cuda(schedule: Schedule, blocks: int, cols: int, multiprocessors: int) -> int:
    """Into how many parts the columns are split so that every multiprocessor has work.

    A part has fewer than 2**30 columns: states number them by 32 bits.
    """
    least = LEAST_COLUMNS if schedule.team == 1 else schedule.tile
    needed, most = cols // 2**30 + 1, max(1, cols // least)
    if not blocks:
        return needed
    wanted = {max(needed, min(most, times * multiprocessors // blocks)) for times in ROUNDS}
    even = [count for count in wanted if idle(blocks * count, multiprocessors) <= UNEVEN]
    return min(even) if even else min(wanted, key=lambda count: (idle(blocks * count, multiprocessors), count))
