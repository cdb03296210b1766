"""Genred on torch tensors: one autograd function for every order of derivative."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

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
        spec = self.spec
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in args):
            spec = replace(spec, saving=True)  # what the gradient will want, taken now; not shown
        visible = len(self.operation.results)
        results = _apply(self, spec, pairs, *args)[:visible]
        return results[0] if visible == 1 else results

    def _check(self, args: Sequence[torch.Tensor]) -> Sizes:
        devices: dict[torch.device, int] = {}
        for place, tensor in enumerate(args):
            if not isinstance(tensor, torch.Tensor):
                raise ArgumentError(
                    f"argument {place} is a {type(tensor).__name__}, a torch tensor is needed",
                    field=f"arguments[{place}]",
                )
            devices.setdefault(tensor.device, place)
        if len(devices) > 1:
            named = ", ".join(f"argument {place} on {device}" for device, place in devices.items())
            raise ArgumentError(f"all tensors must be on one device, got {named}", field="arguments")
        for place, tensor in enumerate(args):
            if tensor.layout != torch.strided or tensor.is_meta:
                what = "has no data" if tensor.is_meta else f"is stored as {tensor.layout}"
                raise ArgumentError(
                    f"argument {place} {what}, a dense tensor is needed", field=f"arguments[{place}]"
                )
        return self.check(
            [str(tensor.dtype).removeprefix("torch.") for tensor in args], [tuple(t.shape) for t in args]
        )


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
        device = tensors[0].device
        computed = routine.call(spec, [_array(tensor) for tensor in tensors], ranges)
        results = [_tensor(result).to(device) for result in computed]
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
    """The tensor's data as a contiguous NumPy array; no copy for a contiguous CPU tensor."""
    data = tensor.detach().resolve_neg().resolve_conj().cpu().contiguous()
    if data.dtype == torch.bfloat16:
        return np.asarray(data.view(torch.int16).numpy()).view(numpy_dtype("bfloat16"))
    array: Array = np.asarray(data.numpy())
    return array


def _tensor(array: Array) -> torch.Tensor:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
