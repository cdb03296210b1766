"""The table of formulas that Farfield and its peer both compute."""

from __future__ import annotations

from . import elementwise, users, vectors
from .row import Row, in_float32

_rows = [row for module in (elementwise, vectors, users) for section in module.SECTIONS for row in section.rows]
_single = [
    row
    for row in _rows
    if row.is_smooth and not row.aliases and row.reduction in ("Sum", "LogSumExp") and row.is_continuous
]

ROWS: tuple[Row, ...] = (*_rows, *in_float32(_single[::5]))
"""Every row; a fifth of those without jumps once more in float32."""
