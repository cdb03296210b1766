"""OpenTelemetry's standard variables -> spans of requests and of what workers do for them, or None.

    OTEL_TRACES_EXPORTER          otlp, console (one JSON object per line on stderr) or none; unset, it is otlp if
                                  there is an endpoint
    OTEL_EXPORTER_OTLP_ENDPOINT   where to, over HTTP; OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is for traces alone
    OTEL_SERVICE_NAME             farfield, if unset

The SDK reads its other variables itself, such as those of sampling. Where nothing is configured, nothing of it is
imported.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .spans import Spans

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

log = logging.getLogger("farfield.tracing")


def open_tracing() -> Spans | None:
    """What makes spans, if that is configured and installed; what is asked for in vain is logged."""
    default = "otlp" if any(os.environ.get(name) for name in ENDPOINTS) else "none"
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or default
    if exporter == "none":
        return None
    if exporter not in ("otlp", "console"):
        log.warning("no traces: OTEL_TRACES_EXPORTER is %r, and otlp, console and none are known", exporter)
        return None
    try:
        from .spans import Spans

        return Spans(exporter)
    except ImportError as error:
        log.warning("no traces: %s; pip install 'farfield[otel]' brings what is missing", error)
        return None
