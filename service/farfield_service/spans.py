"""Requests and jobs -> spans of OpenTelemetry, linked from program to program by a W3C `traceparent`."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from typing import Any, Protocol, TypeVar

from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from farfield_kernels import __version__
from farfield_kernels.errors import FarfieldError

from .logs import Answered

TRACE_CONTEXT = TraceContextTextMapPropagator()


class Timed(Protocol):
    """What was computed, with its timing in milliseconds."""

    timing: Any


T = TypeVar("T", bound=Timed)


class Spans:
    """Makes the spans of one program; what is still to be sent at its end is sent then.

    Args:
        exporter: `otlp` or `console`.

    Raises:
        ImportError: the exporter is not installed.
    """

    def __init__(self, exporter: str) -> None:
        resource = Resource.create({"service.name": "farfield"}).merge(OTELResourceDetector().detect())
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(_processor(exporter))
        self.tracer = provider.get_tracer("farfield", __version__)

    def begin(self, op: str, headers: Mapping[str, str], request_id: str) -> Span:
        """The span of a request, within the caller's trace if its headers name one."""
        return self.tracer.start_span(
            f"POST /v1/{op}",
            TRACE_CONTEXT.extract(headers, Context()),
            SpanKind.SERVER,
            {"farfield.op": op, "farfield.request_id": request_id},
        )

    def traceparent(self, span: Span) -> str:
        """What names a span to another program."""
        carrier: dict[str, str] = {}
        TRACE_CONTEXT.inject(carrier, set_span_in_context(span, Context()))
        return carrier["traceparent"]

    def end(self, span: Span, answered: Answered) -> None:
        """The request was answered."""
        known = {"farfield.user": answered.user, "farfield.spec": answered.spec}
        span.set_attributes({name: value for name, value in known.items() if value})
        span.set_attributes({"http.response.status_code": answered.status, "farfield.reason": answered.reason})
        if answered.status >= 500:
            span.set_status(StatusCode.ERROR, answered.reason)
        span.end()

    def follow(
        self, parts: Generator[float, None, T], traceparent: str, request_id: str
    ) -> Generator[float, None, T]:
        """The same parts, with a span around them within the request's; a job that is dropped ends it, too.

        The message of an error stays out of the span, as it may quote the formula.
        """
        parent = TRACE_CONTEXT.extract({"traceparent": traceparent}, Context())
        span = self.tracer.start_span("compute", parent, attributes={"farfield.request_id": request_id})
        try:
            outcome = yield from parts
            span.set_attributes({f"farfield.{name}": value for name, value in vars(outcome.timing).items()})
            return outcome
        except Exception as error:
            code = error.code if isinstance(error, FarfieldError) else type(error).__name__
            span.set_status(StatusCode.ERROR, code)
            raise
        finally:
            span.end()


def _processor(exporter: str) -> SpanProcessor:
    if exporter == "console":
        console = ConsoleSpanExporter(out=sys.stderr, formatter=lambda span: span.to_json(indent=None) + "\n")
        return SimpleSpanProcessor(console)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return BatchSpanProcessor(OTLPSpanExporter())
