"""Spec -> Operation: what a call computes, which arrays it takes and which it returns.

A `Spec` is the words of a request, hashable and small: formula, variables, reduction, axis, and one list of
argument numbers per order of derivative. `read` turns it into an `Operation`, either a `Reduce` or the `Vjp` of
an operation. The vjp of an operation takes the operation's arguments, then the saved results its gradient needs,
then one cotangent per differentiable result; it returns one gradient per argument asked for. As that is an
operation again, every order of derivative comes from the same three rules.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .errors import ArgumentError, DtypeError, FormulaError, NotYetAvailable, ShapeError
from .expr import Axis, Expr
from .parse import parse_formula, parse_reduction, parse_variables
from .reductions import Reduction

DTYPES = ("float32", "float64")
INDEX_DTYPE = "int64"
MAX_ORDER = 4  # derivatives of derivatives in one request


@dataclass(frozen=True)
class Spec:
    """The words of one call.

    Args:
        formula: such as `Square(p-a)*Exp(x+y)`.
        variables: one declaration per argument, such as `x = Vi(3)`.
        reduction: such as `Sum`.
        axis: the axis summed away: 1 reduces over j and keeps i, 0 reduces over i and keeps j.
        wrt: per order of derivative, the argument numbers whose gradients are asked for.
    """

    formula: str
    variables: tuple[str, ...]
    reduction: str = "Sum"
    axis: int = 1
    wrt: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        for field in ("formula", "reduction"):
            if not isinstance(value := getattr(self, field), str):
                raise FormulaError(f"{field} is a {type(value).__name__}, a string is needed", field=field)
        variables = self.variables
        if isinstance(variables, str) or not isinstance(variables, Iterable):
            raise FormulaError("variables are a list of declarations such as ['x = Vi(3)']", field="variables")
        object.__setattr__(self, "variables", tuple(variables))
        for place, text in enumerate(self.variables):
            if not isinstance(text, str):
                raise FormulaError(f"a declaration is a {type(text).__name__}", field=f"variables[{place}]")
        object.__setattr__(self, "axis", _integer(self.axis, "axis"))
        orders = tuple(_integers(order) for order in self.wrt)
        object.__setattr__(self, "wrt", orders)

    def vjp(self, wrt: Iterable[int]) -> Spec:
        """The spec of the vector-Jacobian product of this call with respect to the arguments `wrt`.

        If the reduction's gradient needs a result that it does not return (the place of a maximum), this is the
        vjp of the reduction that does return it: call that one forward.
        """
        saving = parse_reduction(self.reduction).saving or self.reduction
        return replace(self, reduction=saving, wrt=(*self.wrt, _integers(wrt)))


def _integer(value: object, what: str) -> int:
    """A Python int: from any integer type, but not from a bool or a float that happens to be whole."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ArgumentError(f"{what} is {value!r}, an integer is needed", field=what)
    return operator.index(value)


def _integers(values: object) -> tuple[int, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ArgumentError(f"wrt is {values!r}, a list of argument numbers is needed", field="wrt")
    return tuple(_integer(value, "wrt") for value in values)


@dataclass(frozen=True)
class Slot:
    """One array of a call: `dim` components per row of `axis` (`p`: one row), floats or int64 indices."""

    name: str
    axis: Axis
    dim: int
    is_index: bool = False

    def shape(self, M: int, N: int) -> tuple[int, ...]:
        """Shape of the array: (M, dim), (N, dim) or (dim,)."""
        return (self.dim,) if self.axis == "p" else (M if self.axis == "i" else N, self.dim)

    def dtype(self, dtype: str) -> str:
        """Element type of the array in a call whose floats are `dtype`."""
        return INDEX_DTYPE if self.is_index else dtype


@dataclass(frozen=True, eq=False)
class Reduce:
    """One reduction of one formula."""

    formula: Expr
    reduction: Reduction
    over: Literal["i", "j"]
    arguments: tuple[Slot, ...]

    @property
    def keep(self) -> Axis:
        """The axis of the results."""
        return "j" if self.over == "i" else "i"

    @property
    def results(self) -> tuple[Slot, ...]:
        """One array per result of the reduction."""
        return tuple(
            Slot("result", self.keep, self.formula.dim, result.is_index) for result in self.reduction.results
        )

    @property
    def saved(self) -> tuple[int, ...]:
        """Which results the vjp takes besides the arguments."""
        return () if self.reduction.saves is None else (self.reduction.saves,)


@dataclass(frozen=True, eq=False)
class Vjp:
    """Gradients of `of` with respect to its arguments `wrt`."""

    of: Operation
    wrt: tuple[int, ...]

    @property
    def arguments(self) -> tuple[Slot, ...]:
        """Those of `of`, its saved results, one cotangent per differentiable result."""
        results = self.of.results
        saved = tuple(results[place] for place in self.of.saved)
        return self.of.arguments + saved + tuple(slot for slot in results if not slot.is_index)

    @property
    def results(self) -> tuple[Slot, ...]:
        """One gradient per argument in `wrt`, of its shape."""
        return tuple(self.of.arguments[place] for place in self.wrt)

    @property
    def saved(self) -> tuple[int, ...]:
        """None: a gradient is an explicit formula of its arguments."""
        return ()


Operation = Reduce | Vjp


@functools.lru_cache(maxsize=1024)
def read(spec: Spec) -> Operation:
    """Check the words of a call and build its operation. Cached: the same spec is read once.

    Raises:
        FormulaError: formula, variables, reduction or axis are wrong.
        ArgumentError: `wrt` names an argument that does not exist or has no gradient.
    """
    variables = parse_variables(spec.variables)
    reduction = parse_reduction(spec.reduction)
    if spec.axis not in (0, 1):
        raise FormulaError(f"axis is 0 or 1, got {spec.axis}", field="axis")
    formula = parse_formula(spec.formula, variables)
    slots = tuple(Slot(found.name, found.axis, found.dim) for found in variables)
    operation: Operation = Reduce(formula, reduction, "j" if spec.axis == 1 else "i", slots)
    if len(spec.wrt) > MAX_ORDER:
        raise ArgumentError(f"order {len(spec.wrt)} is above {MAX_ORDER}", field="wrt", limit=MAX_ORDER)
    for wrt in spec.wrt:
        operation = _vjp(operation, wrt)
    return operation


def _vjp(operation: Operation, wrt: tuple[int, ...]) -> Vjp:
    if isinstance(operation, Reduce) and operation.reduction.gradient is None:
        name, saving = operation.reduction.name, operation.reduction.saving
        instead = f"; take that of {saving}" if saving else ""
        raise ArgumentError(f"{name} has no gradient of its own{instead}", field="reduction")
    arguments = operation.arguments
    if not wrt or len(set(wrt)) < len(wrt):
        raise ArgumentError(f"wrt names each argument once and at least one, got {list(wrt)}", field="wrt")
    for place in wrt:
        if not 0 <= place < len(arguments):
            raise ArgumentError(f"wrt {place} is not one of 0..{len(arguments) - 1}", field="wrt")
        if arguments[place].is_index:
            raise ArgumentError(f"argument {place} holds indices and has no gradient", field="wrt")
    return Vjp(operation, wrt)


@dataclass(frozen=True)
class Sizes:
    """What the arrays of one call say: their float type and the numbers of rows."""

    dtype: str
    M: int
    N: int


def check_arguments(operation: Operation, dtypes: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> Sizes:
    """Check the arrays of a call against its variables, all of them, before anything is computed.

    Args:
        operation: what is called.
        dtypes: NumPy names, one per array.
        shapes: one per array.

    Returns:
        The common float type, M (1 if no argument has axis i) and N (likewise for j).

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
        _check_shape(slot, shape, rows, label, field)
    if first is None:
        raise ArgumentError("a formula without variables has no element type", field="variables")
    M, N = (rows[axis][0] if axis in rows else 1 for axis in ("i", "j"))
    return Sizes(first, M, N)


def _check_float(dtype: str, label: str, field: str) -> None:
    if dtype in DTYPES:
        return
    if dtype in ("float16", "bfloat16"):
        raise NotYetAvailable(
            f"{label} is {dtype}, which is known but not yet available; use float32", field=field
        )
    if dtype.startswith(("int", "uint", "bool")):
        raise DtypeError(f"{label} is {dtype}: write .float() or .astype('float32') to cast it", field=field)
    raise DtypeError(f"{label} is {dtype}; the types are {', '.join(DTYPES)}", field=field)


def _check_shape(
    slot: Slot, shape: tuple[int, ...], rows: dict[Axis, tuple[int, str]], label: str, field: str
) -> None:
    wanted = f"({slot.dim},)" if slot.axis == "p" else f"({'M' if slot.axis == 'i' else 'N'}, {slot.dim})"
    if len(shape) != (1 if slot.axis == "p" else 2) or shape[-1] != slot.dim:
        raise ShapeError(f"{label} has shape {tuple(shape)}, {wanted} is needed", field=field)
    if slot.axis != "p":
        count, other = rows.setdefault(slot.axis, (shape[0], label))
        if shape[0] != count:
            raise ShapeError(f"{label} has {shape[0]} rows, but {other} has {count}", field=field)


def result_bytes(operation: Operation, sizes: Sizes) -> list[int]:
    """Bytes of each result array."""
    return [
        int(np.prod(slot.shape(sizes.M, sizes.N), dtype=object)) * np.dtype(slot.dtype(sizes.dtype)).itemsize
        for slot in operation.results
    ]
