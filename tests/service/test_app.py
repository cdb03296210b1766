"""The HTTP face: every route answers, tokens guard all but two of them, errors come in kind."""

from __future__ import annotations

import http.client
import json
import re
import struct
from collections.abc import Iterator

import msgpack
import numpy as np
import pytest

from farfield_kernels.operators import named_operators
from farfield_kernels.reductions import REDUCTIONS
from farfield_service.app import create_app
from farfield_service.settings import Settings
from farfield_service.wire import FRAME, MSGPACK
from serving import GAUSSIAN, Server, frame, gaussian, gaussian_arrays, serving, words
from wire.test_golden import msgpack_call

OPEN = {"/healthz", "/readyz"}
TOKENS = ("sesame", "mellon")

METRICS = [
    "farfield_requests_total",
    "farfield_request_seconds_bucket",
    "farfield_queue_jobs",
    "farfield_arena_used_bytes",
    "farfield_arena_size_bytes",
    "farfield_workers_ready",
    "farfield_worker_restarts",
    "farfield_draining",
]
PHASES = ["recv", "queue", "compile", "h2d", "kernel", "d2h"]


def routes() -> list[tuple[str, str]]:
    """(method, path) of everything there is."""
    paths = create_app(Settings()).openapi()["paths"]
    found = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    return [*found, ("GET", "/docs"), ("GET", "/openapi.json")]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that needs a token."""
    with serving(tmp_path_factory.mktemp("guarded"), FARFIELD_TOKENS=",".join(TOKENS)) as running:
        yield running


def test_the_routes_are_the_ones_we_know() -> None:
    """A new route has to be looked at here."""
    assert sorted(path for _, path in routes()) == sorted(
        "/v1/reduce /v1/vjp /v1/operators /v1/server /v1/limits "
        "/healthz /readyz /metrics /docs /openapi.json".split()
    )


def test_every_route_answers(server: Server) -> None:
    """GET routes with 200, POST routes with what is wrong about an empty request."""
    for method, path in routes():
        assert server.request(method, path).status == (200 if method == "GET" else 415), path


def test_every_route_but_two_needs_a_token(guarded: Server) -> None:
    """Without a token, or with a wrong one, there is nothing to see; with one of the tokens there is."""
    for method, path in routes():
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            answer = guarded.request(method, path, headers=headers)
            assert (answer.status == 401) == (path not in OPEN), path
            if answer.status == 401:
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["code"] == "unauthorized"
        for token in TOKENS:
            assert guarded.request(method, path, headers={"Authorization": f"Bearer {token}"}).status in (200, 415)


def test_strangers_do_not_learn_which_routes_there_are(guarded: Server) -> None:
    """A route that does not exist needs a token as well."""
    assert guarded.request("GET", "/nowhere").status == 401
    assert guarded.request("GET", "/healthz/../v1/server").status == 401
    assert guarded.request("GET", "/nowhere", headers={"Authorization": f"Bearer {TOKENS[0]}"}).status == 404


def test_operators_are_the_declared_ones(server: Server) -> None:
    """Names, meanings and numbers of operands come from the declarations."""
    listed = server.get("/v1/operators")
    assert listed["operators"].keys() == named_operators().keys()
    assert listed["reductions"].keys() == REDUCTIONS.keys()
    assert listed["operators"]["Exp"]["formulas"] == 1
    assert all(entry["doc"] for kind in ("operators", "reductions") for entry in listed[kind].values())


def test_server_says_what_it_is(server: Server) -> None:
    """Version, the worker's device, and how busy it is."""
    info = server.info()
    assert re.fullmatch(r"\d+\.\d+\.\d+", info["version"])
    assert info["worker"]["device"] == "cpu"
    assert info["is_ready"] is True
    assert (info["waiting"], info["arena_bytes_used"]) == (0, 0)


def test_limits_are_the_settings(server: Server) -> None:
    """What a request is held to can be asked for before sending it."""
    limits, defaults = server.get("/v1/limits"), Settings()
    for name in ("max_body_bytes", "max_result_bytes", "max_pairs", "max_queue", "job_timeout_s"):
        assert limits[name] == getattr(defaults, name)
    assert limits["dtypes"] == ["float16", "bfloat16", "float32", "float64"]
    assert limits["body_formats"] == [MSGPACK, FRAME]


def test_openapi_describes_both_bodies(server: Server) -> None:
    """The two computing routes show formats and words."""
    paths = server.get("/openapi.json")["paths"]
    for path in ("/v1/reduce", "/v1/vjp"):
        content = paths[path]["post"]["requestBody"]["content"]
        assert set(content) == {FRAME, MSGPACK}
        for entry in content.values():
            assert set(words(GAUSSIAN)) <= set(entry["schema"]["properties"])


def test_metrics_are_the_named_ones(server: Server) -> None:
    """Each name is there with a help text, and requests are counted by route, status and reason."""
    server.request("POST", "/v1/reduce", frame(GAUSSIAN, gaussian_arrays()), {"Content-Type": FRAME})
    server.request("POST", "/v1/reduce", b"x", {"Content-Type": FRAME})
    answer = server.request("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.body.decode()
    for name in METRICS:
        assert re.search(rf"^{name}[ {{]", text, re.MULTILINE), name
        assert f"# HELP {re.sub('_(total|bucket)$', '', name)}" in text
    for labels in ('op="reduce",reason="ok",status="200"', 'op="reduce",reason="bad_request",status="400"'):
        assert re.search(rf"^farfield_requests_total{{{labels}}} [1-9]", text, re.MULTILINE), labels
    for phase in PHASES:
        assert f'op="reduce",phase="{phase}"' in text


@pytest.mark.parametrize("kind", [FRAME, MSGPACK])
def test_answers_come_in_the_format_of_the_request_with_id_and_timing(server: Server, kind: str) -> None:
    """Both formats are computed; Server-Timing has all phases, and every answer an id of its own."""
    arrays = gaussian_arrays()
    body = frame(GAUSSIAN, arrays) if kind == FRAME else msgpack_call(GAUSSIAN, arrays)
    answers = [server.request("POST", "/v1/reduce", body, {"Content-Type": kind}) for _ in range(2)]
    for answer in answers:
        assert (answer.status, answer.headers["content-type"]) == (200, kind)
        assert [part.partition(";dur=")[0] for part in answer.headers["server-timing"].split(", ")] == PHASES
        assert all(float(part.partition(";dur=")[2]) >= 0 for part in answer.headers["server-timing"].split(", "))
    assert len({answer.headers["x-request-id"] for answer in answers}) == 2


# What is sent -> status and code of the answer.
REFUSALS: list[tuple[str, str, bytes, dict[str, str], int, str]] = [
    ("GET", "/", b"", {}, 404, "not_found"),
    ("GET", "/v1", b"", {}, 404, "not_found"),
    ("GET", "/v2/reduce", b"", {}, 404, "not_found"),
    ("GET", "/v1/reduce", b"", {}, 405, "method_not_allowed"),
    ("PUT", "/v1/reduce", b"", {}, 405, "method_not_allowed"),
    ("POST", "/v1/server", b"", {}, 405, "method_not_allowed"),
    ("POST", "/v1/reduce", b"{}", {"Content-Type": "application/json"}, 415, "unsupported_media_type"),
    ("POST", "/v1/reduce", b"{}", {}, 415, "unsupported_media_type"),
    ("POST", "/v1/reduce", b"\x80", {"Content-Type": MSGPACK}, 400, "bad_request"),
    ("POST", "/v1/reduce", b"", {"Content-Type": MSGPACK}, 400, "bad_request"),
    ("POST", "/v1/reduce", b"", {"Content-Type": FRAME}, 400, "bad_request"),
    ("POST", "/v1/reduce", b"FFW1", {"Content-Type": FRAME}, 400, "bad_request"),
    ("POST", "/v1/vjp", b"FFW1" + bytes(12), {"Content-Type": FRAME}, 400, "bad_request"),
]


@pytest.mark.parametrize(("method", "path", "body", "headers", "status", "code"), REFUSALS)
def test_refusals_are_problems(
    server: Server, method: str, path: str, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    """Each row is answered with its status and code, a sentence, and the id that the header has too."""
    answer = server.request(method, path, body, headers)
    assert answer.status == status
    kind = answer.headers["content-type"]
    assert kind in ("application/problem+json", "application/problem+msgpack")
    problem = answer.json() if kind.endswith("json") else msgpack.unpackb(answer.body)
    assert (problem["code"], problem["status"]) == (code, status)
    assert problem["message"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    if status == 405:
        assert answer.headers["allow"] in ("GET", "POST")


# What is wrong with the words -> status, code and field.
WRONG_WORDS: list[tuple[str, dict[str, object], int, str, str]] = [
    ("/v1/reduce", {"formula": "Exp(x"}, 422, "formula_error", "formula"),
    ("/v1/reduce", {"formula": "Frobnicate(x)"}, 422, "formula_error", "formula"),
    ("/v1/reduce", {"variables": ["x = Vk(3)", "y = Vj(3)", "b = Vj(2)"]}, 422, "formula_error", "variables[0]"),
    ("/v1/reduce", {"reduction": "Suma"}, 422, "formula_error", "reduction"),
    ("/v1/reduce", {"axis": 2}, 422, "formula_error", "axis"),
    ("/v1/reduce", {"wrt": [[0]]}, 400, "bad_request", "wrt"),
    ("/v1/vjp", {}, 400, "bad_request", "wrt"),
    ("/v1/vjp", {"wrt": [[3]]}, 422, "argument_error", "wrt"),
    ("/v1/vjp", {"wrt": [[0]]}, 422, "argument_error", "arguments"),
    ("/v1/reduce", {"variables": ["x = Vi(3)", "y = Vj(3)", "b = Vj(1)"]}, 422, "shape_error", "arguments[2]"),
]


@pytest.mark.parametrize(("path", "changes", "status", "code", "field"), WRONG_WORDS)
def test_json_and_msgpack_problems_say_the_same(
    server: Server, path: str, changes: dict[str, object], status: int, code: str, field: str
) -> None:
    """Each row gives the tabled status, code and field, in two formats with the same content."""
    content = msgpack.unpackb(msgpack_call(GAUSSIAN, gaussian_arrays())) | changes
    packed = msgpack.packb(content)
    twin = server.request("POST", path, packed, {"Content-Type": MSGPACK})
    plain = server.request("POST", path, packed, {"Content-Type": MSGPACK, "Accept": "application/json"})
    assert twin.headers["content-type"] == "application/problem+msgpack"
    assert plain.headers["content-type"] == "application/problem+json"
    one, other = msgpack.unpackb(twin.body), json.loads(plain.body)
    assert one.pop("request_id") != other.pop("request_id")
    assert one == other
    assert (twin.status, plain.status, one["code"], one.get("field")) == (status, status, code, field)


def test_any_msgpack_library_can_call(server: Server) -> None:
    """Ten lines with nothing but msgpack and an HTTP client."""
    x = {"dtype": "float32", "shape": [2, 1], "data": struct.pack("<2f", 0, 1)}
    y = {"dtype": "float32", "shape": [3, 1], "data": struct.pack("<3f", 1, 2, 3)}
    call = {"formula": "x*y", "variables": ["x = Vi(1)", "y = Vj(1)"], "arguments": [x, y]}
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    connection.request("POST", "/v1/reduce", msgpack.packb(call), {"Content-Type": "application/msgpack"})
    result = msgpack.unpackb(connection.getresponse().read())["results"][0]
    connection.close()
    assert (result["dtype"], result["shape"]) == ("float32", [2, 1])
    assert struct.unpack("<2f", result["data"]) == (0, 6)


def test_unaligned_msgpack_data_are_computed_right(server: Server) -> None:
    """Wherever the arrays happen to lie in a msgpack body, the result is the same."""
    arrays = gaussian_arrays()
    for blanks in range(8):
        content = msgpack.unpackb(msgpack_call(GAUSSIAN, arrays))
        content["formula"] += " " * blanks
        answer = server.request("POST", "/v1/reduce", msgpack.packb(content), {"Content-Type": MSGPACK})
        data = msgpack.unpackb(answer.body)["results"][0]["data"]
        np.testing.assert_allclose(np.frombuffer(data).reshape(7, 2), gaussian(*arrays), rtol=1e-12)
