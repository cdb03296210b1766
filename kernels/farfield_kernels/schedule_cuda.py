"""Program -> Schedule for CUDA; Schedule + sizes -> the schedule that fills a device.

Counted in instructions of one thread. A multiprocessor issues four instructions of a warp per clock, its units for
special functions do one per eight clocks of a quarter of it; what is moved through the second cache to be merged
costs about as much time as a hundred instructions per number.
"""

from __future__ import annotations

import itertools
from collections import Counter
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
RESIDENT = {48: 5, 96: 3}  # values held up to which a multiprocessor has registers for so many blocks
MAX_HELD = 200  # beyond, they live in memory
MAX_PAIRS = 600  # values of pairs of all rows of a thread in the text
MERGERS = 32  # threads that merge the splits of a row
LEAST_COLUMNS = 64  # of a part; below, what a block begins and ends with costs more than its pairs
BLOCKS = 2  # of threads that a multiprocessor should have
LEAST_GAIN = 1.25  # by which another schedule must be faster to be compiled
LEAST_PAIRS = 2**18  # below, a launch takes longer than its pairs

SPECIAL = 8  # clocks of the unit for special functions, per instruction
CALLED = 8  # instructions of a function, more or less
POLYNOMIAL = 12  # instructions of an exp without that unit
COLUMN = 40  # instructions to load a column
UNIT = 600  # instructions that a thread begins and ends with
MERGED = 100  # what a number of a state costs that is merged later
_SUMS = ("$a + $b", "$a - $b")
_EXPS = {"exp($a)": 2, "exp2($a)": 1}  # instructions of each


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
    if program.reduction.scheme == "shifted sum":
        held += (chunk // 2 + program.state_size) * len(program.components) * words  # terms of a chunk live briefly
    pairs = max(1, len(program.at("pair")))
    rows = next((r for r in ROWS if r * held <= REGISTERS and r * pairs <= MAX_PAIRS), 1)
    tile, width = TILE, max(1, len(program.kept("col"))) * SIZE[dtype]
    while tile > 1 and tile * width > SHARED_BYTES * 2 // 3:
        tile //= 2
    if width + 16 > SHARED_BYTES:
        raise LimitError(f"{width} bytes per column do not fit the device's shared memory", limit=SHARED_BYTES)
    is_merged = program.state_size * THREADS * 8 <= SHARED_BYTES
    schedule = Schedule(
        "cuda", dtype, rows, THREADS, tile, min(tile, chunk), held <= MAX_HELD, "rows", stored, results,
        resident=next((count for most, count in RESIDENT.items() if rows * held <= most), 1),
        mergers=MERGERS if is_merged else 1,
    )  # fmt: skip
    return with_polynomials(program, schedule)


def with_polynomials(program: Program, schedule: Schedule) -> Schedule:
    """As many exps by polynomials as keep both units busy for the same time."""
    exps = sum(program.values[n].code in _EXPS for n in program.at("pair"))
    if schedule.dtype != "float32" or program.reduction.scheme != "fold" or not exps:
        return replace(schedule, polynomials=0)
    spare = SPECIAL * exps - per_pair(program)
    wanted = int(schedule.rows * spare / (SPECIAL + POLYNOMIAL - 1))
    return replace(schedule, polynomials=max(0, min(wanted, schedule.rows * exps)))


def per_pair(program: Program) -> int:
    """Instructions of one pair, its reading aside."""
    values, pairs = program.values, program.at("pair")
    readers: dict[int, list[str]] = {}
    for number in pairs:
        for arg in values[number].args:
            readers.setdefault(arg, []).append(values[number].code)
    summed = Counter(program.components) if program.reduction.step == "$s = $s + $t;" else Counter[int]()
    total = 0
    for number in pairs:
        code, by = values[number].code, readers.get(number, [])
        is_fused = code in ("$a * $b", "$a * $a") and (set(by) <= set(_SUMS) if by else summed[number] > 0)
        called = CALLED if "(" in code or "/" in code else 1
        total += 0 if is_fused else _EXPS.get(code, called)
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
    meeting = program.state_size * THREADS * 8
    width = (len(program.kept("col")) + 3) * SIZE[schedule.dtype]
    if team > 1:
        tile = TEAM_TILE
        while tile > team and tile * 9 // 8 * width + meeting > SHARED_BYTES:
            tile //= 2
        if tile < 2 * team or tile * 9 // 8 * width + meeting > SHARED_BYTES:
            team, tile = 1, schedule.tile
    return with_polynomials(program, replace(schedule, team=team, tile=tile))


def time(
    program: Program, schedule: Schedule, rows: int, cols: int, batches: int, multiprocessors: int
) -> float:
    """Instructions of all threads, more if they do not fill the device."""
    row_blocks = -(-rows // own_rows(schedule)) * batches
    splits = split_cuda(schedule, row_blocks, cols, multiprocessors)
    read = max(1, -(-len(program.kept("col")) // 4))
    threads = schedule.block // schedule.team
    pair = row_blocks * threads * cols * (schedule.rows * per_pair(program) + read)
    begun = row_blocks * splits * (UNIT * schedule.block)
    state = len(program.components) * program.state_size
    merged = MERGED * rows * batches * splits * state if splits > 1 else 0
    filled = min(1.0, row_blocks * splits / (BLOCKS * multiprocessors))
    return (pair + row_blocks * cols * COLUMN + begun + merged) / max(filled, 1e-9)


def split_cuda(schedule: Schedule, blocks: int, cols: int, multiprocessors: int) -> int:
    """Into how many parts the columns are split so that every multiprocessor has work.

    A part has fewer than 2**30 columns: states number them by 32 bits.
    """
    wanted = BLOCKS * multiprocessors // blocks if blocks else 1
    least = LEAST_COLUMNS if schedule.team == 1 else schedule.tile
    return max(1, cols // 2**30 + 1, min(wanted, cols // least))
