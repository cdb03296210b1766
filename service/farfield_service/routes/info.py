"""What this server is, what it can compute, and how much of it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from farfield_kernels import __version__
from farfield_kernels.emit import MAX_SOURCE
from farfield_kernels.expr import MAX_DIM, MAX_NODES
from farfield_kernels.lower import MAX_VALUES
from farfield_kernels.operation import MAX_ORDER, STORED
from farfield_kernels.operators import named_operators
from farfield_kernels.parse import MAX_NESTING, MAX_TEXT, MAX_VARIABLES
from farfield_kernels.reductions import REDUCTIONS

from ..state import State
from ..wire import FRAME, MAX_HEADER_BYTES, MSGPACK

router = APIRouter(prefix="/v1", tags=["info"])


@router.get("/operators", summary="The language: operators and reductions")
async def operators() -> dict[str, Any]:
    """Every name with its meaning."""
    return {
        "operators": {
            name: {"doc": op.doc, "formulas": op.arity, "integers": list(op.integers)}
            for name, op in sorted(named_operators().items())
        },
        "reductions": {
            name: {"doc": reduction.doc, "results": len(reduction.results)}
            for name, reduction in sorted(REDUCTIONS.items())
        },
    }


@router.get("/server", summary="Version, device and state")
async def server(request: Request) -> dict[str, Any]:
    """What answers: its version, its worker's device, and how busy it is."""
    state: State = request.app.state.farfield
    return {
        "version": __version__,
        "worker": state.pool.facts,
        "is_ready": state.pool.is_ready,
        "worker_restarts": state.pool.restarts,
        "workers": state.pool.ready,
        "waiting": len(state.queue),
        "in_progress": state.queue.in_progress,
        "arena_bytes_used": state.arena.used,
    }


@router.get("/limits", summary="The largest request this server takes")
async def limits(request: Request) -> dict[str, Any]:
    """Limits that a request is held to, in the unit of each name."""
    settings = request.app.state.farfield.settings
    names = ("max_body_bytes", "max_result_bytes", "max_pairs", "max_queue", "job_timeout_s")
    return {
        **{name: getattr(settings, name) for name in names},
        "max_formula_characters": MAX_TEXT,
        "max_nesting": MAX_NESTING,
        "max_operators": MAX_NODES,
        "max_dim": MAX_DIM,
        "max_scalar_operations": MAX_VALUES,
        "max_source_bytes": MAX_SOURCE,
        "max_variables": MAX_VARIABLES,
        "max_derivative_order": MAX_ORDER,
        "max_header_bytes": MAX_HEADER_BYTES,
        "dtypes": list(STORED),
        "body_formats": [MSGPACK, FRAME],
    }
