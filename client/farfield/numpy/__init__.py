"""Farfield for NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from farfield_kernels.operation import Spec, Vjp, read

from ..errors import ArgumentError
from ..genred import Routine
from ..wire import Array

__all__ = ["Genred"]


class Genred(Routine):
    """A reduction of a formula over one axis, on NumPy arrays. Arguments: see `farfield.genred.Routine`.

    Example:
        >>> routine = Genred("Exp(-SqDist(x,y))", ["x = Vi(2)", "y = Vj(2)"], axis=1)
        >>> routine(np.zeros((1, 2)), np.zeros((3, 2)))
        array([[3.]])
    """

    def __call__(self, *args: Array) -> Any:
        """Compute the reduction.

        Args:
            args: one array per alias: (M, d) for Vi, (N, d) for Vj, (d,) for Pm; all float32 or all float64, any
                strides.

        Returns:
            (M, D) for axis=1, (N, D) for axis=0, in the arguments' type (int64 for Arg-reductions); a tuple for
            reductions with two results.

        Raises:
            ArgumentError, DtypeError, ShapeError: naming the argument.
        """
        results = self.call(self.spec, self._ready(args))
        return results[0] if len(results) == 1 else tuple(results)

    def vjp(self, cotangent: Array, *args: Array, wrt: Sequence[int] | None = None) -> tuple[Array, ...]:
        """Vector-Jacobian products: gradients of sum(cotangent * routine(*args)).

        Args:
            cotangent: of the result's shape and type.
            args: as for the call.
            wrt: the arguments whose gradients are wanted; default: all.

        Returns:
            One gradient per entry of `wrt`, of that argument's shape.
        """
        spec = self.spec.vjp(range(len(args)) if wrt is None else wrt)
        arrays = self._ready(args)
        _check_kind(cotangent, "the cotangent")
        operation = read(spec)
        assert isinstance(operation, Vjp)
        saved: list[Array] = []
        if operation.of.saved:
            forward = self.call(_forward(spec), arrays)
            saved = [forward[place] for place in operation.of.saved]
        return tuple(self.call(spec, [*arrays, *saved, *_contiguous([cotangent])]))

    def _ready(self, args: Sequence[Array]) -> list[Array]:
        for place, array in enumerate(args):
            _check_kind(array, f"argument {place}")
        self.check([array.dtype.name for array in args], [array.shape for array in args])
        return _contiguous(args)


def _check_kind(array: object, what: str) -> None:
    if not isinstance(array, np.ndarray):
        raise ArgumentError(f"{what} is a {type(array).__name__}, a NumPy array is needed", field="arguments")


def _forward(spec: Spec) -> Spec:
    return Spec(spec.formula, spec.variables, spec.reduction, spec.axis)


def _contiguous(arrays: Sequence[Array]) -> list[Array]:
    return [np.ascontiguousarray(array, array.dtype.newbyteorder("=")) for array in arrays]
