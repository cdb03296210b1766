"""Genred on torch tensors: one autograd function for every order of derivative."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from farfield_kernels.arguments import Sizes, numpy_dtype
from farfield_kernels.operation import Operation, Spec, read

from ..errors import ArgumentError
from ..genred import Routine
from ..wire import Array


class Genred(Routine):
    """A reduction of a formula over one axis, on torch tensors. Arguments: see `farfield.genred.Routine`.

    Example:
        >>> routine = Genred("Exp(-SqDist(x,y))", ["x = Vi(2)", "y = Vj(2)"], axis=1)
        >>> routine(torch.zeros(1, 2), torch.zeros(3, 2))
        tensor([[3.]])
    """

    def __call__(self, *args: torch.Tensor, ranges: Sequence[Any] | None = None) -> Any:
        """Compute the reduction; differentiable.

        Args:
            args: one tensor per alias: (M, d) for Vi, (N, d) for Vj, (d,) for Pm, each after batch axes that
                broadcast; all of one float type, on one device, any strides.
            ranges: block-sparse ranges: (ranges_i, slices_i, redranges_j, ranges_j, slices_j, redranges_i).

        Returns:
            (M, D) for axis=1, (N, D) for axis=0, (D,) for axis=None, after the batch axes, in the arguments' type
            (int64 for Arg-reductions and Count) and on their device; (M, K) or (M, K, D) where K terms are
            selected; a tuple for reductions with two results.

        Raises:
            ArgumentError, DtypeError, ShapeError: naming the argument.
        """
        sizes = self._check(args)
        plain = [_plain(part) for part in ranges] if isinstance(ranges, Sequence) else ranges
        pairs = self.check_ranges(plain, sizes)
        visible = len(self.operation.results)
        if (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in args)) or _is_followed():
            # Its saved results are what the gradient will want, taken now; not shown.
            results = _apply(self, _saving(self.spec), pairs, *args)[:visible]
        else:
            results = tuple(_compute(self, self.spec, pairs, args))
        return results[0] if visible == 1 else results

    def _check(self, args: Sequence[torch.Tensor]) -> Sizes:
        for place, tensor in enumerate(args):
            if not isinstance(tensor, torch.Tensor):
                raise ArgumentError(
                    f"argument {place} is a {type(tensor).__name__}, a torch tensor is needed",
                    field=f"arguments[{place}]",
                )
        if len({tensor.device for tensor in args}) > 1:
            first: dict[torch.device, int] = {}
            for place, tensor in enumerate(args):
                first.setdefault(tensor.device, place)
            named = ", ".join(f"argument {place} on {device}" for device, place in first.items())
            raise ArgumentError(f"all tensors must be on one device, got {named}", field="arguments")
        for place, tensor in enumerate(args):
            if tensor.layout is not torch.strided or tensor.is_meta:
                what = "has no data" if tensor.is_meta else f"is stored as {tensor.layout}"
                raise ArgumentError(
                    f"argument {place} {what}, a dense tensor is needed", field=f"arguments[{place}]"
                )
        return self.check(
            [_name(tensor.dtype) for tensor in args], [tuple(map(int, tensor.shape)) for tensor in args]
        )


@functools.cache
def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@functools.lru_cache(maxsize=1024)
def _saving(spec: Spec) -> Spec:
    return replace(spec, saving=True)


def _is_followed() -> bool:
    """Whether torch follows the call in a trace, or for forward derivatives, which it then refuses by itself.

    No public function tells the latter.
    """
    is_tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return is_tracing or forward_ad._current_level >= 0


def _compute(
    routine: Routine, spec: Spec, ranges: tuple[Array, ...] | None, tensors: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """The results as new tensors on the device of the arguments, which torch knows no history of."""
    device = tensors[0].device
    results = [_tensor(array) for array in routine.call(spec, [_array(tensor) for tensor in tensors], ranges)]
    return results if device.type == "cpu" else [result.to(device) for result in results]


def _apply(
    routine: Routine, spec: Spec, ranges: tuple[Array, ...] | None, *tensors: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    results: tuple[torch.Tensor, ...] = _Call.apply(routine, spec, ranges, *tensors)  # type: ignore[no-untyped-call]
    return results


class _Call(torch.autograd.Function):
    """An operation as a node of torch's graph. Its backward is the operation's vjp, which is such a node again."""

    @staticmethod
    def forward(
        ctx: Any, routine: Routine, spec: Spec, ranges: tuple[Array, ...] | None, *tensors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        results = _compute(routine, spec, ranges, tensors)
        operation = read(spec)
        ctx.routine, ctx.spec, ctx.ranges, ctx.operation = routine, spec, ranges, operation
        saved = [results[place] for place in operation.saved]
        ctx.save_for_backward(*tensors, *saved)
        ctx.mark_non_differentiable(
            *(result for result, slot in zip(results, operation.results, strict=True) if slot.is_index)
        )
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        operation: Operation = ctx.operation
        slots = operation.arguments
        wrt = tuple(
            place for place in range(len(slots)) if ctx.needs_input_grad[3 + place] and not slots[place].is_index
        )
        needed = [
            cotangent for cotangent, slot in zip(cotangents, operation.results, strict=True) if not slot.is_index
        ]
        spec = ctx.spec.vjp(wrt)
        gradients = _apply(ctx.routine, spec, ctx.ranges, *ctx.saved_tensors, *needed)
        by_place = dict(zip(wrt, gradients, strict=True))
        return (None, None, None, *(by_place.get(place) for place in range(len(slots))))


def _plain(part: Any) -> Any:
    return part.cpu().numpy() if isinstance(part, torch.Tensor) else part


def _array(tensor: torch.Tensor) -> Array:
    """The tensor's data as a C-contiguous NumPy array; no copy for a contiguous CPU tensor."""
    if tensor.dtype == torch.bfloat16:
        bits = tensor.detach().resolve_neg().contiguous().view(torch.int16)
        return np.asarray(bits.numpy(force=True)).view(numpy_dtype("bfloat16"))
    array: Array = tensor.numpy(force=True)
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _tensor(array: Array) -> torch.Tensor:
    if array.dtype.kind == "V":  # bfloat16, which NumPy does not know
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
