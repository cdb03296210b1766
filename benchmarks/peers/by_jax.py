"""A workload -> JAX: jitted, by broadcasting or by matrix products, whole or in blocks of rows by `lax.map`.

A gradient is `jax.vjp` under `jit`, in which XLA recomputes what it would not keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
from workloads import Workload

from . import Compute
from .blocks import (
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


def _closeness_by_product(x: jax.Array, y: jax.Array) -> jax.Array:
    return 2 * (x @ y.T) - (x * x).sum(1)[:, None] - (y * y).sum(1)


BROADCAST = Library(
    exp=jnp.exp,
    softmax=jax.nn.softmax,
    logsumexp=jax.nn.logsumexp,
    largest=jax.lax.top_k,
    max=jnp.max,
    closeness=closeness,
    products=products,
    weighted=summed,
)
MATMUL = replace(BROADCAST, closeness=_closeness_by_product, products=lambda x, y: x @ y.T, weighted=jnp.matmul)


def broadcast(workload: Workload, device: str) -> Compute | None:
    """Each pair's components are fused into the loop that sums them, where XLA can."""
    return _blockwise(workload, BROADCAST, FUSING, device)


def matmul(workload: Workload, device: str) -> Compute | None:
    """|x|^2 + |y|^2 - 2 x.y, or x.y, by a matrix product."""
    return _blockwise(workload, MATMUL, PRODUCTS, device)


def _blockwise(workload: Workload, lib: Library, sizes: Sequence[int], device: str) -> Compute | None:
    block = block_of(workload, lib)
    if block is None or (lib is MATMUL and not uses_products(workload)):
        return None
    with jax.default_device(jax.devices(device)[0]):
        arrays = [jnp.asarray(array) for array in workload.arrays()]
    found = block_rows(workload, sizes if device == "cpu" else ON_DEVICE, broadcast=lib is not MATMUL)
    return fastest([(lambda rows=rows: _jitted(workload, block, rows, arrays)) for rows in found])


def _jitted(workload: Workload, block: Block, rows: int, arrays: list[jax.Array]) -> Compute:
    def forward(x: jax.Array, *rest: jax.Array) -> jax.Array:
        if rows == len(x):
            return block(x, *rest)
        one = jax.checkpoint(lambda part: block(part, *rest))  # a gradient keeps no pairs either
        parts = jax.lax.map(one, x.reshape(-1, rows, x.shape[1]))
        return parts.reshape(len(x), *parts.shape[2:])

    if not workload.wrt:
        compiled = jax.jit(forward)
        return lambda: jax.block_until_ready(compiled(*arrays))

    def gradients(cotangent: jax.Array, *given: jax.Array) -> tuple[jax.Array, ...]:
        def of_wanted(*wanted: jax.Array) -> jax.Array:
            replaced = dict(zip(workload.wrt, wanted, strict=True))
            return forward(*(replaced.get(place, array) for place, array in enumerate(given)))

        return jax.vjp(of_wanted, *(given[place] for place in workload.wrt))[1](cotangent)

    compiled_gradients = jax.jit(gradients)
    cotangent = jnp.asarray(workload.cotangent(jax.eval_shape(forward, *arrays).shape))
    return lambda: jax.block_until_ready(compiled_gradients(cotangent, *arrays))
