"""Operation + types and shapes of arrays -> Sizes: checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import ArgumentError, DtypeError, LimitError, ShapeError
from .expr import Axis
from .operation import DTYPES, INDEX_DTYPE, STORED, Operation, Outline, Reduce, Slot

MAX_BATCH_AXES = 16
MAX_BATCH = 2**22  # elements; each takes an entry in a table, whatever its size


@dataclass(frozen=True)
class Sizes:
    """What the arrays of one call say.

    Args:
        dtype: element type of the floats.
        M, N: rows of axis i and of axis j; 1 if no argument has that axis.
        batch: the batch axes of the call, to which those of each argument broadcast.
        batches: the batch axes of each argument.
    """

    dtype: str
    M: int
    N: int
    batch: tuple[int, ...] = ()
    batches: tuple[tuple[int, ...], ...] = ()

    @property
    def compute(self) -> str:
        """The type that kernels compute in: half precision is storage only."""
        return self.dtype if self.dtype in DTYPES else "float32"

    @property
    def pairs(self) -> int:
        """Pairs (i, j) of all batch elements together."""
        return math.prod(self.batch) * self.M * self.N


def check_arguments(
    operation: Operation | Outline, dtypes: Sequence[str], shapes: Sequence[tuple[int, ...]]
) -> Sizes:
    """Check the arrays of a call against its variables, all of them, before anything is computed.

    Args:
        operation: what is called.
        dtypes: NumPy names, one per array.
        shapes: one per array; batch axes come first.

    Returns:
        The common float type, M and N, and the batch axes.

    Raises:
        ArgumentError: the number of arrays.
        DtypeError: an element type.
        ShapeError: a shape; the message names the argument and what was expected.
    """
    slots = operation.arguments
    if len(shapes) != len(slots):
        named = ", ".join(slot.name for slot in slots)
        raise ArgumentError(f"{len(slots)} arguments are needed ({named}), got {len(shapes)}", field="arguments")
    first: str | None = None
    rows: dict[Axis, tuple[int, str]] = {}
    batch: tuple[int, ...] = ()
    batches = []
    for place, (slot, dtype, shape) in enumerate(zip(slots, dtypes, shapes, strict=True)):
        field = f"arguments[{place}]"
        label = f"argument {place} ({slot.name})"
        if slot.is_index:
            if dtype != INDEX_DTYPE:
                raise DtypeError(f"{label} holds indices: {INDEX_DTYPE} is needed, got {dtype}", field=field)
        else:
            _check_float(dtype, label, field)
            if first is None:
                first, first_label = dtype, label
            if dtype != first:
                raise DtypeError(
                    f"{label} is {dtype}, but {first_label} is {first}: convert one of them", field=field
                )
        batches.append(_batch_axes(slot, shape, rows, label, field))
        try:
            batch = np.broadcast_shapes(batch, batches[-1])
        except ValueError:
            raise ShapeError(
                f"{label} has batch axes {batches[-1]}, which do not broadcast with {batch}", field=field
            ) from None
    if math.prod(batch) > MAX_BATCH:
        raise LimitError(
            f"the batch axes {batch} have more than {MAX_BATCH} elements", field="arguments", limit=MAX_BATCH
        )
    if first is None:
        raise ArgumentError("a formula without variables has no element type", field="variables")
    M, N = (rows[axis][0] if axis in rows else 1 for axis in ("i", "j"))
    return Sizes(first, M, N, batch, tuple(batches))


def _check_float(dtype: str, label: str, field: str) -> None:
    if dtype in STORED:
        return
    if dtype.startswith(("int", "uint", "bool")):
        raise DtypeError(f"{label} is {dtype}: write .float() or .astype('float32') to cast it", field=field)
    raise DtypeError(f"{label} is {dtype}; the types are {', '.join(STORED)}", field=field)


def _batch_axes(
    slot: Slot, shape: tuple[int, ...], rows: dict[Axis, tuple[int, str]], label: str, field: str
) -> tuple[int, ...]:
    """The batch axes of one argument, its rows and tail being right."""
    counted = 0 if slot.axis == "p" else 1
    own = len(slot.tail) + counted
    if len(shape) < own or tuple(shape[len(shape) - len(slot.tail) :]) != slot.tail:
        axes = [*(["M" if slot.axis == "i" else "N"] if counted else []), *map(str, slot.tail)]
        wanted = f"({axes[0]},)" if len(axes) == 1 else f"({', '.join(axes)})"
        raise ShapeError(
            f"{label} has shape {tuple(shape)}, {wanted} is needed, with batch axes before it if any", field=field
        )
    if counted:
        found = shape[len(shape) - own]
        count, other = rows.setdefault(slot.axis, (found, label))
        if found != count:
            raise ShapeError(f"{label} has {found} rows, but {other} has {count}", field=field)
    batch = tuple(shape[: len(shape) - own])
    if len(batch) > MAX_BATCH_AXES:
        raise ShapeError(f"{label} has {len(batch)} batch axes", field=field, limit=MAX_BATCH_AXES)
    return batch


def result_shapes(operation: Operation | Outline, sizes: Sizes) -> list[tuple[int, ...]]:
    """Shape of each result array: a gradient has its argument's, everything else all batch axes."""
    if not isinstance(operation, Reduce) and operation.wrt is not None:
        return [
            slot.shape(sizes.M, sizes.N, sizes.batches[place])
            for place, slot in zip(operation.wrt, operation.results, strict=True)
        ]
    return [slot.shape(sizes.M, sizes.N, sizes.batch) for slot in operation.results]


def result_bytes(operation: Operation | Outline, sizes: Sizes) -> list[int]:
    """Bytes of each result array."""
    return [
        math.prod(shape) * numpy_dtype(slot.dtype(sizes.dtype)).itemsize
        for slot, shape in zip(operation.results, result_shapes(operation, sizes), strict=True)
    ]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy type of that name; bfloat16 is that of ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)
