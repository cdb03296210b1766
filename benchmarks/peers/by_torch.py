"""A workload -> torch: eager or compiled, by broadcasting or by matrix products, in blocks of rows.

A gradient is torch's own: the graph of the forward call is kept, and a timed call is `torch.autograd.grad`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from workloads import Workload

from . import Compute
from .blocks import (
    EAGER,
    FUSING,
    ON_DEVICE,
    PRODUCTS,
    Block,
    Library,
    block_of,
    block_rows,
    closeness,
    fastest,
    products,
    summed,
    uses_products,
)


def _closeness_by_product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.addmm(-(y * y).sum(1), x, y.T, alpha=2).sub_((x * x).sum(1)[:, None])


BROADCAST = Library(
    exp=torch.exp,
    softmax=torch.softmax,
    logsumexp=torch.logsumexp,
    largest=lambda scores, K: torch.topk(scores, K, dim=1),
    max=torch.amax,
    closeness=closeness,
    products=products,
    weighted=torch.matmul,
)
MATMUL = replace(BROADCAST, closeness=_closeness_by_product, products=lambda x, y: x @ y.T)


def broadcast(workload: Workload, device: str) -> Compute | None:
    """Eager; all of a pair's components are in memory."""
    return _blockwise(workload, BROADCAST, EAGER, device)


def matmul(workload: Workload, device: str) -> Compute | None:
    """Eager; |x|^2 + |y|^2 - 2 x.y, or x.y, by a matrix product."""
    return _blockwise(workload, MATMUL, EAGER, device)


def compiled_broadcast(workload: Workload, device: str) -> Compute | None:
    """By inductor, which fuses the broadcast with the sum."""
    return _blockwise(workload, replace(BROADCAST, weighted=summed), FUSING, device, torch.compile)


def compiled_matmul(workload: Workload, device: str) -> Compute | None:
    """By inductor around the matrix product."""
    return _blockwise(workload, MATMUL, PRODUCTS, device, torch.compile)


def sdpa(workload: Workload, device: str) -> Compute | None:
    """Attention by torch's own kernel."""
    if workload.reduction != "SumSoftMaxWeight":
        return None
    attention = torch.nn.functional.scaled_dot_product_attention

    def forward(x: torch.Tensor, y: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attention(x[None, None], y[None, None], v[None, None], scale=1.0)[0, 0]

    return call(workload, forward, device)


def _blockwise(
    workload: Workload,
    lib: Library,
    sizes: Sequence[int],
    device: str,
    compiler: Callable[..., Any] | None = None,
) -> Compute | None:
    block = block_of(workload, lib)
    if block is None or (lib is MATMUL and not uses_products(workload)):
        return None
    torch.compiler.reset()  # each workload compiles the same code anew

    def make(rows: int) -> Compute:
        part = compiler(block, dynamic=False) if compiler else block
        return call(workload, lambda x, *rest: _whole(part, rows, x, rest), device)

    found = block_rows(workload, sizes if device == "cpu" else ON_DEVICE, broadcast=lib is not MATMUL)
    return fastest([(lambda rows=rows: make(rows)) for rows in found])


def _whole(block: Block, rows: int, x: torch.Tensor, rest: tuple[torch.Tensor, ...]) -> torch.Tensor:
    if rows == len(x):
        return block(x, *rest)
    return torch.cat([block(part, *rest) for part in x.split(rows)])


def call(workload: Workload, forward: Callable[..., Any], device: str) -> Compute:
    """The forward call, or the gradients of its first result."""
    tensors = [torch.from_numpy(array).to(device) for array in workload.arrays()]
    if not workload.wrt:
        return lambda: forward(*tensors)
    for place in workload.wrt:
        tensors[place].requires_grad_()
    result = forward(*tensors)
    cotangent = torch.from_numpy(workload.cotangent(tuple(result.shape))).to(device)
    wanted = [tensors[place] for place in workload.wrt]
    return lambda: torch.autograd.grad(result, wanted, cotangent, retain_graph=True)
