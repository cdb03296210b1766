"""Values -> C statements that mean the same in both back ends.

In C++ the type `V` is a SIMD vector of rows (or, in a tile, of columns); in CUDA it is one number. A value n is
the C variable `vn`; a row or pair value exists once per row held in registers and is `vn_r`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable

from ..lower import Level, Output, Program, Value
from ..schedule import Schedule

_PLACE = re.compile(r"\$(\w+)")
_FUNCTION = re.compile(r"\b([a-z_]\w*)\(")


def fill(text: str, names: dict[str, str]) -> str:
    """Replace each `$name` in `text`."""
    return _PLACE.sub(lambda match: names[match[1]], text)


def functions(text: str) -> set[str]:
    """Names that `text` calls."""
    return set(_FUNCTION.findall(text))


def operand(program: Program, number: int, r: int | None) -> str:
    """How a statement for row `r` (None: outside the rows) names a value; constants are written out."""
    value = program.values[number]
    if value.level == "constant" and not value.args and value.code:
        return value.code
    per_row = value.level in ("row", "pair") and r is not None
    return f"v{number}_{r}" if per_row else f"v{number}"


def is_inlined(value: Value) -> bool:
    """Literal constants have no statement of their own."""
    return value.level == "constant" and not value.args


def statement(program: Program, number: int, r: int | None = None) -> str:
    """`const V vn = ...;` for a computed value."""
    value = program.values[number]
    names = dict(zip("abc", (operand(program, arg, r) for arg in value.args), strict=False))
    return f"const V {operand(program, number, r)} = {fill(value.code, names)};"


def statements(program: Program, level: Level, r: int | None = None, only: set[int] | None = None) -> list[str]:
    """The computed values of one level, in order; of those in `only`, if given."""
    return [
        statement(program, number, r)
        for number in program.at(level)
        if not program.values[number].is_load
        and not is_inlined(program.values[number])
        and (only is None or number in only)
    ]


def below(program: Program, roots: Iterable[int], stop: Container[int] = ()) -> set[int]:
    """The values that `roots` are computed from, and themselves; not what those in `stop` are computed from."""
    found: set[int] = set()
    stack = list(roots)
    while stack:
        number = stack.pop()
        if number not in found:
            found.add(number)
            if number not in stop:
                stack.extend(program.values[number].args)
    return found


def sizes(program: Program) -> dict[str, str]:
    """What `$K` and `$W` stand for in the texts of the reduction."""
    return {"K": str(program.K), "W": str(len(program.weights))}


def slots(program: Program) -> dict[str, tuple[int, int]]:
    """Field -> (first slot, number of slots) within the state of one component."""
    found, first = {}, 0
    for field in program.reduction.state:
        found[field.name] = (first, program.entries(field))
        first += program.entries(field)
    return found


C_TYPES = {"float32": "float", "float64": "double"}


def c_type(dtype: str, schedule: Schedule) -> str:
    """The C type of an array's elements: `T` for the kernel's own type."""
    return "T" if dtype == schedule.dtype else C_TYPES[dtype]


def out_type(output: Output, schedule: Schedule) -> str:
    """The C type of what an output writes."""
    return "i64" if output.is_index else "f64" if output.is_sum else c_type(schedule.results, schedule)


def finish(program: Program, schedule: Schedule, output: Output, target: str, state: dict[str, str]) -> list[str]:
    """Statements that write one output for component `o`: `target` is the row's first element, `state` names the
    fields of the wide state."""
    result = output.result
    names = sizes(program) | state
    kind = out_type(output, schedule)

    def write(place: str, value: str) -> str:
        return f"{target}[{place}] = ({kind})({fill(value, names)});"

    place = f"o - {output.first}" if output.first else "o"
    lines = [] if result.head is None else [write("0", result.head)]
    if result.each == "":
        lines.append(write(place, result.finish))
    elif result.each == "K":
        entry = write(f"q * {output.count} + {place}", result.finish)
        lines.append(f"for (int q = 0; q < {program.K}; q++) {entry}")
    else:
        ahead = "q" if result.head is None else "1 + q"
        entries = len(program.weights) - result.skip
        lines.append(f"for (int q = 0; q < {entries}; q++) {write(ahead, result.finish)}")
    return lines


NOWHERE = 2**30  # column of an entry that stands for the worst of the terms selected in earlier tiles


def carried(program: Program, wide: Callable[[str], str]) -> dict[str, str]:
    """Field -> what its entries are at the begin of a tile, if terms are selected; `wide` gives the C text of a
    field of the wide state."""
    if not program.reduction.takes_count:
        return {}
    last = f"[{program.K - 1}]"
    places = next(field.name for field in program.reduction.state if field.kind == "column")
    begins = {}
    for field in program.reduction.state:
        value = f"KI({NOWHERE})" if field.kind == "column" else f"K({wide(field.name)}{last})"
        begins[field.name] = f"{wide(places)}{last} < 0 ? {field.identity} : {value}"
    return begins


def title(program: Program) -> str:
    """What the first line of a source says."""
    over = "both axes" if program.over_rows else "columns"
    return f"{program.reduction.name} over {over}, rows are {program.row_axis}"


def indent(lines: list[str], by: int) -> str:
    """Join lines, each set in by `by` spaces."""
    return "\n".join(" " * by + line for line in lines)


def block(head: str, body: list[str]) -> list[str]:
    """`head { body }`, or nothing around nothing."""
    return [f"{head} {{".strip(), *("  " + line for line in body), "}"] if body else []
