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

    def __call__(self, *args: Array, ranges: Sequence[Array] | None = None) -> Any:
        """Compute the reduction.

        Args:
            args: one array per alias: (M, d) for Vi, (N, d) for Vj, (d,) for Pm, each after batch axes that
                broadcast; all of one float type, any strides.
            ranges: block-sparse ranges: (ranges_i, slices_i, redranges_j, ranges_j, slices_j, redranges_i).

        Returns:
            (M, D) for axis=1, (N, D) for axis=0, (D,) for axis=None, after the batch axes, in the arguments' type
            (int64 for Arg-reductions and Count); (M, K) or (M, K, D) where K terms are selected; a tuple for
            reductions with two results.

        Raises:
            ArgumentError, DtypeError, ShapeError: naming the argument.
        """
        arrays, pairs = self._ready(args, ranges)
        results = self.call(self.spec, arrays, pairs)
        return results[0] if len(results) == 1 else tuple(results)

    def vjp(
        self,
        cotangent: Array,
        *args: Array,
        wrt: Sequence[int] | None = None,
        ranges: Sequence[Array] | None = None,
    ) -> tuple[Array, ...]:
        """Vector-Jacobian products: gradients of sum(cotangent * routine(*args)).

        Args:
            cotangent: of the result's shape and type.
            args: as for the call.
            wrt: the arguments whose gradients are wanted; default: all.
            ranges: as for the call.

        Returns:
            One gradient per entry of `wrt`, of that argument's shape.
        """
        spec = self.spec.vjp(range(len(args)) if wrt is None else wrt)
        arrays, pairs = self._ready(args, ranges)
        _check_kind(cotangent, "the cotangent")
        return tuple(self.call(spec, [*arrays, *self._saved(spec, arrays, pairs, cotangent)], pairs))

    def jvp(
        self,
        tangents: Sequence[Array],
        *args: Array,
        wrt: Sequence[int] | None = None,
        ranges: Sequence[Array] | None = None,
    ) -> Array:
        """Jacobian-vector product: how the result changes when arguments move along tangents.

        Args:
            tangents: one per entry of `wrt`, of that argument's shape and type.
            args: as for the call.
            wrt: the arguments that move; default: all.
            ranges: as for the call.

        Returns:
            The derivative, of the result's shape.
        """
        moved = range(len(args)) if wrt is None else wrt
        spec = self.spec.jvp(moved)
        arrays, pairs = self._ready(args, ranges)
        for place, tangent in enumerate(tangents):
            _check_kind(tangent, f"tangent {place}")
        saved = self._saved(self.spec.vjp(moved), arrays, pairs, None)
        return self.call(spec, [*arrays, *saved, *_contiguous(tangents)], pairs)[0]

    def _saved(
        self, spec: Spec, arrays: list[Array], ranges: tuple[Array, ...] | None, cotangent: Array | None
    ) -> list[Array]:
        """What the vjp `spec` takes after the arguments: saved results, then cotangents, 0 for hidden results."""
        operation = read(spec)
        assert isinstance(operation, Vjp)
        if not operation.of.saved and cotangent is not None:
            return _contiguous([cotangent])
        results = self.call(self.spec.forward(), arrays, ranges)
        saved = [results[place] for place in operation.of.saved]
        cotangents = [np.zeros_like(result) for result in results if result.dtype.kind != "i"]
        if cotangent is not None:
            cotangents[0] = _contiguous([cotangent])[0]
        return [*saved, *cotangents]

    def _ready(
        self, args: Sequence[Array], ranges: Sequence[Array] | None
    ) -> tuple[list[Array], tuple[Array, ...] | None]:
        for place, array in enumerate(args):
            _check_kind(array, f"argument {place}")
        sizes = self.check([array.dtype.name for array in args], [array.shape for array in args])
        return _contiguous(args), self.check_ranges(ranges, sizes)


def _check_kind(array: object, what: str) -> None:
    if not isinstance(array, np.ndarray):
        raise ArgumentError(f"{what} is a {type(array).__name__}, a NumPy array is needed", field="arguments")


def _contiguous(arrays: Sequence[Array]) -> list[Array]:
    return [np.ascontiguousarray(array, array.dtype.newbyteorder("=")) for array in arrays]
