"""Genred on torch tensors: one autograd function for every order of derivative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

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

    def __call__(self, *args: torch.Tensor) -> Any:
        """Compute the reduction; differentiable.

        Args:
            args: one tensor per alias: (M, d) for Vi, (N, d) for Vj, (d,) for Pm; all float32 or all float64, on
                one device, any strides.

        Returns:
            (M, D) for axis=1, (N, D) for axis=0, in the arguments' type (int64 for Arg-reductions) and on their
            device; a tuple for reductions with two results.

        Raises:
            ArgumentError, DtypeError, ShapeError: naming the argument.
        """
        self._check(args)
        spec = self.spec
        saving = self.operation.reduction.saving
        if saving and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in args):
            # The gradient will want the place of the extremum: take both now, show the value.
            value, _ = _apply(self, Spec(spec.formula, spec.variables, saving, spec.axis), *args)
            return value
        results = _apply(self, spec, *args)
        return results[0] if len(results) == 1 else results

    def _check(self, args: Sequence[torch.Tensor]) -> None:
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
        self.check([str(tensor.dtype).removeprefix("torch.") for tensor in args], [tuple(t.shape) for t in args])


def _apply(routine: Routine, spec: Spec, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    results: tuple[torch.Tensor, ...] = _Call.apply(routine, spec, *tensors)  # type: ignore[no-untyped-call]
    return results


class _Call(torch.autograd.Function):
    """An operation as a node of torch's graph. Its backward is the operation's vjp, which is such a node again."""

    @staticmethod
    def forward(ctx: Any, routine: Routine, spec: Spec, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = _compute(routine, spec, tensors)
        operation = read(spec)
        ctx.routine, ctx.spec, ctx.operation = routine, spec, operation
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
            place for place in range(len(slots)) if ctx.needs_input_grad[2 + place] and not slots[place].is_index
        )
        needed = [
            cotangent for cotangent, slot in zip(cotangents, operation.results, strict=True) if not slot.is_index
        ]
        spec = ctx.spec.vjp(wrt)
        gradients = _apply(ctx.routine, spec, *ctx.saved_tensors, *needed)
        by_place = dict(zip(wrt, gradients, strict=True))
        return (None, None, *(by_place.get(place) for place in range(len(slots))))


def _compute(routine: Routine, spec: Spec, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    device = tensors[0].device
    return [torch.from_numpy(result).to(device) for result in routine.call(spec, [_array(t) for t in tensors])]


def _array(tensor: torch.Tensor) -> Array:
    """The tensor's data as a contiguous NumPy array; no copy for a contiguous CPU tensor."""
    data = tensor.detach().resolve_neg().resolve_conj().cpu().contiguous()
    array: Array = np.asarray(data.numpy())
    return array
