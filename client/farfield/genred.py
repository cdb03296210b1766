"""Genred, written once: formula, aliases and reduction -> a routine, for any array library.

`farfield.torch` and `farfield.numpy` give it arrays; here the words are checked when the routine is made, and the
arrays when it is called, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from farfield_kernels.operation import DTYPES, Reduce, Spec, check_arguments, read

from .errors import DtypeError
from .session import Session, default_session
from .wire import Array


class Routine:
    """The checked words of one reduction, and where it is computed.

    Args:
        formula: such as `Exp(-g*SqDist(x,y))*b`.
        aliases: one declaration per argument: `x = Vi(3)` for rows of i, `Vj` for rows of j, `Pm` for parameters.
        reduction_op: `Sum`, `LogSumExp`, `Max`, `Min`, `ArgMax`, `ArgMin`, `Max_ArgMax` or `Min_ArgMin`.
        axis: the axis summed away: 1 reduces over j and gives one row per i, 0 reduces over i.
        dtype: if given, the only element type that calls accept.
        session: where to compute; default: the session of the last `farfield.connect`.

    Raises:
        FormulaError: with the place in the text. ArgumentError: axis or dtype.
    """

    def __init__(
        self,
        formula: str,
        aliases: Sequence[str],
        reduction_op: str = "Sum",
        axis: int = 0,
        dtype: str | None = None,
        *,
        session: Session | None = None,
    ) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise DtypeError(f"dtype is '{dtype}', the types are {', '.join(DTYPES)}", field="dtype")
        self.spec = Spec(formula, aliases, reduction_op, axis)  # type: ignore[arg-type]  # made a tuple there
        operation = read(self.spec)
        assert isinstance(operation, Reduce)
        self.operation = operation
        self.dtype = dtype
        self._session = session

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its words; the session is not carried along: the reader's default one computes."""
        spec = self.spec
        return type(self), (spec.formula, spec.variables, spec.reduction, spec.axis, self.dtype)

    @property
    def session(self) -> Session:
        """Where calls are computed."""
        return self._session or default_session()

    @property
    def last_timing(self) -> dict[str, float]:
        """Milliseconds by phase of this thread's last call."""
        return self.session.last_timing

    def check(self, dtypes: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> None:
        """Check the arguments of a call.

        Raises:
            ArgumentError, DtypeError, ShapeError: naming the argument.
        """
        sizes = check_arguments(self.operation, dtypes, shapes)
        if self.dtype is not None and sizes.dtype != self.dtype:
            raise DtypeError(f"this Genred takes {self.dtype}, its arguments are {sizes.dtype}", field="arguments")

    def call(self, spec: Spec, arrays: Sequence[Array]) -> list[Array]:
        """Compute `spec`, this routine's or a vjp of it."""
        return self.session.call(spec, arrays)

    def __repr__(self) -> str:
        spec = self.spec
        return f"Genred({spec.formula!r}, {list(spec.variables)}, {spec.reduction!r}, axis={spec.axis})"
