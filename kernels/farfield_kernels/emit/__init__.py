"""Program + Schedule -> source. The same formula gives the same bytes in any process."""

from __future__ import annotations

from ..errors import LimitError
from ..lower import Program
from ..schedule import Schedule
from . import cpp, cuda, cuda_contraction, cuda_second_product

MAX_SOURCE = 2 * 2**20  # bytes; a compiler takes minutes for less than half as many


def emit(program: Program, schedule: Schedule) -> str:
    """The source of one kernel: C++ for `cpu`, CUDA C++ for `cuda`.

    Raises:
        LimitError: it is longer than `MAX_SOURCE`.
    """
    if schedule.scheme == "contraction":
        source = cuda_contraction.emit_contraction(program, schedule)
    elif schedule.scheme == "second product":
        source = cuda_second_product.emit_second_product(program, schedule)
    else:
        source = cuda.emit(program, schedule) if schedule.device == "cuda" else cpp.emit(program, schedule)
    if len(source) > MAX_SOURCE:
        sentence = f"the source of the kernel has {len(source)} bytes, at most {MAX_SOURCE} are compiled"
        raise LimitError(sentence, field="formula", limit=MAX_SOURCE)
    return source


__all__ = ["MAX_SOURCE", "emit"]
