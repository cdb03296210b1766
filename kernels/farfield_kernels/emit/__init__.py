"""Program + Schedule -> source. The same formula gives the same bytes in any process."""

from __future__ import annotations

from ..lower import Program
from ..schedule import Schedule
from . import cpp, cuda


def emit(program: Program, schedule: Schedule) -> str:
    """The source of one kernel: C++ for `cpu`, CUDA C++ for `cuda`."""
    return cuda.emit(program, schedule) if schedule.device == "cuda" else cpp.emit(program, schedule)


__all__ = ["emit"]
