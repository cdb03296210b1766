"""Traces: a caller's trace goes on in the server and in its worker, and costs nothing where none is wanted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from farfield_service.logs import spec_hash
from farfield_service.wire import FRAME
from serving import GAUSSIAN, WAIT_S, Server, environment, frame, gaussian_arrays, serving

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


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
