"""Who else computes the workloads, declared once: our side and the peers' programs read this table.

Nothing here imports a peer. `driver.py` is our side; `serve.py` is what the peers' Python runs, one process per
peer; `by_*.py` say how each library is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Compute = Callable[[], Any]


@dataclass(frozen=True)
class Peer:
    """One way to compute the workloads without Farfield.

    Args:
        name: in flags, tables and results.
        module, function: `function(workload, device)` gives a function without arguments that computes the
            workload on `cpu` or `cuda`, or None where this way does not apply.
        doc: what it is.
        call_limit_s: a call that takes longer ends the comparison on that workload.
    """

    name: str
    module: str
    function: str
    doc: str
    call_limit_s: float = 8.0

    def prepare(self, workload: Any, device: str = "cpu") -> Compute | None:
        """Where the peer is installed: how it computes a workload."""
        prepare: Callable[[Any, str], Compute | None] = getattr(
            importlib.import_module(self.module), self.function
        )
        return prepare(workload, device)


KEOPS = Peer("pykeops", "peers.by_keops", "genred", "pykeops.torch.Genred, as it is installed", 60.0)
PEERS = (
    KEOPS,
    Peer("torch bc", "peers.by_torch", "broadcast", "torch, M x N x D tensors by broadcasting, in blocks of rows"),
    Peer("torch mm", "peers.by_torch", "matmul", "torch, distances by a matrix product, in blocks of rows"),
    Peer("torch sdpa", "peers.by_torch", "sdpa", "torch's scaled_dot_product_attention"),
    Peer("compile bc", "peers.by_torch", "compiled_broadcast", "torch.compile of 'torch bc'"),
    Peer("compile mm", "peers.by_torch", "compiled_matmul", "torch.compile of 'torch mm'"),
    Peer("jax bc", "peers.by_jax", "broadcast", "jax.jit of the broadcast formulation"),
    Peer("jax mm", "peers.by_jax", "matmul", "jax.jit of the matrix product formulation"),
)


def by_name(name: str) -> Peer:
    """The peer called `name`."""
    return next(peer for peer in PEERS if peer.name == name)
