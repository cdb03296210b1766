"""Liveness, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from ..state import State

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Whether the server answers at all")
async def healthz() -> dict[str, str]:
    """Always 200 while the program runs."""
    return {"status": "ok"}


@router.get("/readyz", summary="Whether a request sent now would be computed")
async def readyz(request: Request) -> JSONResponse:
    """200 with a worker up; 503 with the reason otherwise."""
    state: State = request.app.state.farfield
    if state.is_leaving:
        return JSONResponse({"status": "draining"}, 503)
    if not state.pool.is_ready:
        return JSONResponse({"status": "starting", "reason": state.pool.last_failure}, 503)
    return JSONResponse({"status": "ready"})


@router.get("/metrics", summary="Prometheus metrics")
async def metrics(request: Request) -> Response:
    """Counters and histograms in Prometheus' text format."""
    state: State = request.app.state.farfield
    text, kind = state.metrics.render()
    return Response(text, media_type=kind)
