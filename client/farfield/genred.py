"""Genred, written once: formula, aliases and reduction -> a routine, for any array library.

`farfield.torch` and `farfield.numpy` give it arrays; here the words are checked when the routine is made, and the
arrays when it is called, before anything is sent.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from farfield_kernels.arguments import Sizes, check_arguments
from farfield_kernels.operation import STORED, Reduce, Spec, read
from farfield_kernels.ranges import check_ranges

from .errors import ArgumentError, DtypeError
from .session import Session, default_session
from .wire import Array


class Routine:
    """The checked words of one reduction, and where it is computed.

    Args:
        formula: such as `Exp(-g*SqDist(x,y))*b`.
        aliases: one declaration per argument: `x = Vi(3)` for rows of i, `Vj` for rows of j, `Pm` for parameters.
        reduction_op: such as `Sum`, `LogSumExp`, `Max` or `KMin`; None if the formula names it itself.
        axis: the axis summed away: 1 reduces over j and gives one row per i, 0 reduces over i, None over both.
        dtype: if given, the only element type that calls accept.
        opt_arg: how many terms KMin and KMax select.
        formula2: the weights of SumSoftMaxWeight and other weighted reductions.
        dtype_acc: `float64` sums float32 as exactly as if in double.
        use_double_acc: the same as `dtype_acc="float64"`.
        sum_scheme: `kahan_scheme` carries rounding errors along; all others are sums of blocks in double.
        nan_policy: whether NaN wins every selection (`propagate`, as in NumPy) or none (`ignore`).
        separation: whether a sum of products of a row's and a column's part may be computed in M + N steps:
            `auto` where it saves time and loses no accuracy, `on` wherever it loses none, `off` never.
        session: where to compute; default: the session of the last `farfield.connect`.

    Raises:
        FormulaError: with the place in the text. ArgumentError: any other word. DtypeError: dtype.
    """

    def __init__(
        self,
        formula: str,
        aliases: Sequence[str],
        reduction_op: str | None = "Sum",
        axis: int | None = 0,
        dtype: str | None = None,
        opt_arg: int | None = None,
        formula2: str | None = None,
        *,
        dtype_acc: str = "auto",
        use_double_acc: bool = False,
        sum_scheme: str = "auto",
        nan_policy: str = "propagate",
        separation: str = "auto",
        session: Session | None = None,
    ) -> None:
        if dtype is not None and dtype not in STORED:
            raise DtypeError(f"dtype is '{dtype}', the types are {', '.join(STORED)}", field="dtype")
        self.spec = Spec(
            formula,
            aliases,  # type: ignore[arg-type]  # made a tuple there
            reduction_op,
            axis,
            formula2=formula2,
            opt_arg=opt_arg,
            nan_policy=nan_policy,
            separation=separation,
            sum_scheme=sum_scheme,
            dtype_acc="float64" if use_double_acc else dtype_acc,
        )
        operation = read(self.spec)
        assert isinstance(operation, Reduce)
        self.operation = operation
        self.dtype = dtype
        self._session = session

    def __getstate__(self) -> dict[str, Any]:
        """Pickled by its words; the session is not carried along: the reader's default one computes."""
        return {"spec": self.spec, "dtype": self.dtype}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.spec, self.dtype, self._session = state["spec"], state["dtype"], None
        operation = read(self.spec)
        assert isinstance(operation, Reduce)
        self.operation = operation

    @property
    def session(self) -> Session:
        """Where calls are computed."""
        return self._session or default_session()

    @property
    def last_timing(self) -> dict[str, float]:
        """Milliseconds by phase of this thread's last call."""
        return self.session.last_timing

    def check(self, dtypes: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> Sizes:
        """Check the arguments of a call.

        Raises:
            ArgumentError, DtypeError, ShapeError: naming the argument.
        """
        return _check(self.spec, self.dtype, tuple(dtypes), tuple(map(tuple, shapes)))

    def check_ranges(self, ranges: Sequence[Any] | None, sizes: Sizes) -> tuple[Array, ...] | None:
        """The six arrays of block-sparse ranges as NumPy arrays of int64, checked; None without ranges.

        Raises:
            ArgumentError, DtypeError, ShapeError: naming the array.
        """
        if ranges is None:
            return None
        if not isinstance(ranges, Sequence):
            raise ArgumentError(
                f"ranges are a {type(ranges).__name__}, a tuple of arrays is needed", field="ranges"
            )
        arrays = [np.asarray(array) for array in ranges]
        check_ranges(arrays, sizes.M, sizes.N)
        return tuple(np.ascontiguousarray(array, np.int64) for array in arrays)

    def call(self, spec: Spec, arrays: Sequence[Array], ranges: Sequence[Array] | None = None) -> list[Array]:
        """Compute `spec`, this routine's or a derivative of it."""
        return self.session.call(spec, arrays, ranges)

    def __repr__(self) -> str:
        spec = self.spec
        return f"Genred({spec.formula!r}, {list(spec.variables)}, {spec.reduction!r}, axis={spec.axis})"


@functools.lru_cache(maxsize=1024)
def _check(spec: Spec, wanted: str | None, dtypes: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]) -> Sizes:
    """Kept, as most calls are made again."""
    sizes = check_arguments(read(spec), dtypes, shapes)
    if wanted is not None and sizes.dtype != wanted:
        raise DtypeError(f"this Genred takes {wanted}, its arguments are {sizes.dtype}", field="arguments")
    accumulator = spec.dtype_acc
    if accumulator != "auto" and STORED.index(accumulator) < STORED.index(sizes.dtype):
        raise DtypeError(
            f"dtype_acc is {accumulator}, which holds less than the arguments' {sizes.dtype}", field="dtype_acc"
        )
    return sizes
