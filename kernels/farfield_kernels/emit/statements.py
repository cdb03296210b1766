"""Values -> C statements that mean the same in both back ends.

In C++ the type `V` is a SIMD vector of rows (or, in a tile, of columns); in CUDA it is one number. A value n is
the C variable `vn`; a row or pair value exists once per row held in registers and is `vn_r`.
"""

from __future__ import annotations

import re

from ..lower import Level, Program, Value

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


def statements(program: Program, level: Level, r: int | None = None) -> list[str]:
    """The computed values of one level, in order."""
    return [
        statement(program, number, r)
        for number in program.at(level)
        if not program.values[number].is_load and not is_inlined(program.values[number])
    ]


def step(program: Program, state: dict[str, str], term: str, column: str, shift: str = "") -> str:
    """The reduction's step, given the C names of the lane state's fields, the term and its column."""
    return "{ " + fill(program.reduction.step, state | {"t": term, "c": column, "h": shift}) + " }"


def merge(program: Program, earlier: dict[str, str], later: dict[str, str]) -> str:
    """The reduction's merge of two wide states, given the C names of their fields."""
    names = dict(earlier) | {f"{name}2": text for name, text in later.items()}
    return fill(program.reduction.merge, names)


def indent(lines: list[str], by: int) -> str:
    """Join lines, each set in by `by` spaces."""
    return "\n".join(" " * by + line for line in lines)
