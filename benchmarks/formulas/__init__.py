"""The table of formulas that Farfield and its peer both compute."""

from __future__ import annotations

from . import elementwise, users, vectors
from .row import Row, in_float32

_rows = [row for module in (elementwise, vectors, users) for section in module.SECTIONS for row in section.rows]
_fifth = [
    row
    for row in _rows
    if row.is_smooth
    and row.is_continuous
    and row.reduction in ("Sum", "LogSumExp")
    and not row.aliases
    and row.dtype == "float64"
    and "BSpline" not in row.formula  # which has rows in float32
    and int(row.key, 16) % 5 == 0  # a fifth, whatever rows are added
]

ROWS: tuple[Row, ...] = (*_rows, *in_float32(_fifth))
"""Every row; a fifth of those without jumps once more in float32."""
