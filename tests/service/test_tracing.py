"""Traces: a caller's trace goes on in the server and in its worker, and costs nothing where none is wanted."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from farfield_service.logs import spec_hash
from farfield_service.wire import FRAME
from serving import GAUSSIAN, WAIT_S, Server, environment, frame, gaussian_arrays, serving

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


class Collector(ThreadingHTTPServer):
    """Takes the spans that exporters send by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        super().__init__(("127.0.0.1", 0), Sent)

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self.server_port}"


class Sent(BaseHTTPRequestHandler):
    """One message to the collector."""

    server: Collector

    def do_POST(self) -> None:
        """Keep its spans."""
        message = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        scopes = [scope for resource in message.resource_spans for scope in resource.scope_spans]
        self.server.spans += [span for scope in scopes for span in scope.spans]
        self.send_response(200 if self.path == "/v1/traces" else 404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a port of its own."""
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        try:
            yield collector
        finally:
            collector.shutdown()


def spans(server: Server) -> list[dict[str, Any]]:
    """What the console exporter wrote, by the server and by its worker."""
    return [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith('{"name"')]


def post(server: Server, body: bytes, **headers: str) -> int:
    """The status of a request."""
    return server.request("POST", "/v1/reduce", body, {"Content-Type": FRAME, **headers}).status


def test_a_trace_goes_on_in_server_and_worker(tmp_path: Path) -> None:
    """The server's span is the caller's child, the worker's is the server's; both say what was done."""
    with serving(tmp_path, OTEL_TRACES_EXPORTER="console") as server:
        post(server, frame(GAUSSIAN, gaussian_arrays()), traceparent=f"00-{TRACE}-{CALLER}-01")
    found = {span["name"]: span for span in spans(server)}
    assert set(found) == {"POST /v1/reduce", "compute"}
    request, compute = found["POST /v1/reduce"], found["compute"]
    assert request["context"]["trace_id"] == compute["context"]["trace_id"] == f"0x{TRACE}"
    assert request["parent_id"] == f"0x{CALLER}"
    assert compute["parent_id"] == request["context"]["span_id"]
    assert request["start_time"] < compute["start_time"] < compute["end_time"] < request["end_time"]
    attributes = request["attributes"]
    request_id = attributes.pop("farfield.request_id")
    assert attributes == {
        "farfield.op": "reduce",
        "farfield.user": "local",
        "farfield.spec": spec_hash(GAUSSIAN),
        "farfield.reason": "ok",
        "http.response.status_code": 200,
    }
    assert compute["attributes"].pop("farfield.request_id") == request_id
    assert set(compute["attributes"]) == {f"farfield.{name}_ms" for name in ("compile", "h2d", "kernel", "d2h")}
    assert request["resource"]["attributes"]["service.name"] == "farfield"


def test_an_otlp_collector_receives_the_spans_of_server_and_worker(tmp_path: Path) -> None:
    """Over HTTP, at the endpoint of the standard variable; what was not yet sent is sent when the programs end."""
    with collecting() as collector:
        with serving(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as server:
            post(server, frame(GAUSSIAN, gaussian_arrays()), traceparent=f"00-{TRACE}-{CALLER}-01")
        found = {span.name: span for span in collector.spans}
    assert set(found) == {"POST /v1/reduce", "compute"}
    request, compute = found["POST /v1/reduce"], found["compute"]
    assert request.trace_id.hex() == compute.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == CALLER
    assert compute.parent_span_id == request.span_id


def test_a_dead_collector_costs_no_answer(tmp_path: Path) -> None:
    """Requests are computed, and the server stops in time."""
    with serving(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") as server:
        assert post(server, frame(GAUSSIAN, gaussian_arrays())) == 200


def test_refused_requests_and_those_outside_a_trace_have_spans_of_their_own(tmp_path: Path) -> None:
    """Each begins a new trace; what it is not sampled for is not written; the service's name can be set."""
    with serving(tmp_path, OTEL_TRACES_EXPORTER="console", OTEL_SERVICE_NAME="mine") as server:
        statuses = [post(server, b"x"), post(server, b"x", traceparent="nonsense")]
        statuses += [post(server, b"x", traceparent=f"00-{TRACE}-{CALLER}-00")]
    assert statuses == [400, 400, 400]
    first, second = spans(server)
    assert first["context"]["trace_id"] != second["context"]["trace_id"]
    assert [span["parent_id"] for span in (first, second)] == [None, None]
    assert first["attributes"]["farfield.reason"] == "bad_request"
    assert first["resource"]["attributes"]["service.name"] == "mine"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, ""),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1"}, ""),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "no traces: OTEL_TRACES_EXPORTER is 'zipkin'"),
    ],
)
def test_without_an_exporter_nothing_is_imported(variables: dict[str, str], said: str) -> None:
    """Unset, none, or unknown, which is said; FastAPI imports the interface, but nobody the SDK."""
    program = (
        "import sys, farfield_service.app, farfield_service.worker\n"
        "from farfield_service.tracing import open_tracing\n"
        "assert open_tracing() is None\n"
        "assert not {'opentelemetry.sdk', 'farfield_service.spans'} & set(sys.modules)\n"
    )
    done = run(program, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(said)
    assert bool(done.stderr) == bool(said)


def test_a_missing_package_is_said_once_and_the_server_works() -> None:
    """What is asked for and not installed is named, with the command that installs it."""
    program = (
        "import sys\n"
        "sys.modules['opentelemetry.sdk.trace'] = None\n"
        "from farfield_service.tracing import open_tracing\n"
        "assert open_tracing() is None\n"
    )
    done = run(program, OTEL_TRACES_EXPORTER="console")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("no traces: ")
    assert "pip install 'farfield[otel]'" in done.stderr


def run(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A program of its own."""
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(**variables), timeout=WAIT_S, check=False
    )
