"""The HTTP face: every route answers, keys guard all but two of them, errors come in kind."""

from __future__ import annotations

import http.client
import json
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgpack
import numpy as np
import pytest
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route

from farfield_kernels.operators import named_operators
from farfield_kernels.reductions import REDUCTIONS
from farfield_service.app import create_app
from farfield_service.errors import ANSWERS
from farfield_service.gate import ACCESS
from farfield_service.keys import SCOPES, create_key, revoke_key
from farfield_service.settings import Settings
from farfield_service.wire import FRAME, MSGPACK
from serving import GAUSSIAN, Server, frame, gaussian, gaussian_arrays, serving, wait_for, words
from wire.test_golden import msgpack_call

METRICS = [
    "farfield_requests_total",
    "farfield_request_seconds_bucket",
    "farfield_queue_jobs",
    "farfield_running_jobs",
    "farfield_arena_used_bytes",
    "farfield_arena_size_bytes",
    "farfield_workers_ready",
    "farfield_worker_restarts",
    "farfield_draining",
    "farfield_user_device_seconds_total",
    "farfield_build_seconds_bucket",
    "farfield_open_connections",
    "farfield_quarantined_specs",
]
PHASES = ["recv", "queue", "handoff", "compile", "h2d", "kernel", "d2h"]


def metric(server: Server, name: str) -> float:
    """A value, by its name and labels as they are written."""
    text = server.request("GET", "/metrics").body.decode()
    found = re.search(rf"^{re.escape(name)} (.*)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])


def declared(routes: Sequence[BaseRoute]) -> Iterator[BaseRoute]:
    """Routes one by one, those of included routers too."""
    for route in routes:
        router = getattr(route, "original_router", None)
        if router is None:
            yield route
        else:
            yield from declared(router.routes)


def routes() -> list[tuple[str, str]]:
    """(method, path) of everything there is."""
    paths = create_app(Settings()).openapi()["paths"]
    found = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    return [*found, ("GET", "/docs"), ("GET", "/openapi.json")]


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key file of `guarded`."""
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def keys(key_file: Path) -> dict[str, str]:
    """Scope -> a key that has no other."""
    return {scope: create_key(key_file, f"user-{scope}", [scope]) for scope in SCOPES}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, key_file: Path, keys: dict[str, str]) -> Iterator[Server]:
    """A server that needs a key."""
    folder = tmp_path_factory.mktemp("guarded")
    with serving(folder, "--keys-file", str(key_file), "--log-level", "debug") as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


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


def test_every_route_says_who_may_use_it() -> None:
    """Each route of the application is plain HTTP and has an entry, and each entry a route."""
    found = list(declared(create_app(Settings()).routes))
    assert all(isinstance(route, Route | APIRoute) for route in found)
    assert {getattr(route, "path", None) for route in found} == set(ACCESS)


def test_every_route_but_two_needs_a_key(guarded: Server, keys: dict[str, str]) -> None:
    """Without a key, or with a wrong one, there is nothing to see, whatever the verb."""
    wrong = [keys["admin"][:-1], keys["admin"].replace("ff_", "fg_"), "ff_00000000_" + "x" * 43]
    for path in [*ACCESS, "/nowhere", "/docs/oauth2-redirect", "/healthz/../v1/server", "//healthz"]:
        for method in ("GET", "POST", "OPTIONS", "HEAD"):
            for headers in ({}, *(bearer(key) for key in wrong)):
                answer = guarded.request(method, path, headers=headers)
                assert (answer.status == 401) == (ACCESS.get(path, SCOPES) is not None), (method, path)
                if answer.status == 401:
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert method == "HEAD" or answer.json()["code"] == "unauthorized"


def test_a_key_comes_by_the_scheme_bearer(guarded: Server, keys: dict[str, str]) -> None:
    """In any case and with blanks around the key; not by another scheme, by none, or with more words."""
    key = keys["admin"]
    rows = {f"Bearer {key}": 200, f"bearer   {key} ": 200, f"Basic {key}": 401, key: 401, f"Bearer {key},x": 401}
    for header, status in rows.items():
        assert guarded.request("GET", "/v1/server", headers={"Authorization": header}).status == status


def test_a_key_opens_what_its_scopes_say(guarded: Server, keys: dict[str, str]) -> None:
    """Each scope opens the routes that the table gives it; the others are 403; the rest is for admin to see."""
    for scope, key in keys.items():
        for method, path in routes():
            answer = guarded.request(method, path, headers=bearer(key))
            needed = ACCESS[path]
            assert (answer.status == 403) == (needed is not None and scope not in needed), (scope, path)
            assert answer.status in (200, 403, 415)
            if answer.status == 403:
                assert answer.json()["code"] == "forbidden"
        assert guarded.request("GET", "/nowhere", headers=bearer(key)).status == (404 if scope == "admin" else 403)


def test_what_each_scope_opens_is_what_we_know() -> None:
    """A change of the table has to be looked at here."""
    opened = {scope: {path for path, needed in ACCESS.items() if needed and scope in needed} for scope in SCOPES}
    every = {"/v1/operators", "/v1/limits", "/docs", "/openapi.json"}
    assert opened == {
        "compute": every | {"/v1/reduce", "/v1/vjp", "/v1/server"},
        "metrics": every | {"/metrics"},
        "admin": every | {"/v1/server"},
    }
    assert {path for path, needed in ACCESS.items() if needed is None} == {"/healthz", "/readyz"}


def test_a_server_follows_its_key_file(guarded: Server, key_file: Path, keys: dict[str, str]) -> None:
    """A new key opens, and a revoked one no longer does, within seconds and without a restart."""

    def status(key: str) -> int:
        return guarded.request("GET", "/v1/limits", headers=bearer(key)).status

    key = create_key(key_file, "carol")
    wait_for(lambda: status(key) == 200, "carol", timeout_s=10)
    revoke_key(key_file, key.split("_")[1])
    wait_for(lambda: status(key) == 401, "carol's end", timeout_s=10)
    assert status(keys["compute"]) == 200


def test_no_secret_is_logged_or_answered(guarded: Server, keys: dict[str, str]) -> None:
    """Neither of a right key nor of a wrong one, where everything is logged."""
    secrets = [key.split("_", 2)[2] for key in keys.values()]
    said = [guarded.request("GET", path, headers=bearer(key)) for path in ACCESS for key in keys.values()]
    said.append(guarded.request("GET", "/v1/server", headers=bearer(f"ff_00000000_{secrets[0]}")))
    text = guarded.log.read_text() + repr(said)
    assert len(text) > 1000
    assert not any(secret in text for secret in secrets)


# Headers that browsers send -> whether a server on loopback without keys serves the page.
PAGES: list[tuple[dict[str, str], bool]] = [
    ({}, True),
    ({"Origin": "http://localhost:8642", "Host": "localhost:8642"}, True),
    ({"Origin": "http://localhost:3000", "Host": "localhost:8642"}, False),
    ({"Origin": "https://evil.example", "Host": "localhost:8642"}, False),
    ({"Origin": "null"}, False),
    ({"Origin": ""}, False),
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "same-site"}, False),
    ({"Sec-Fetch-Site": "same-origin"}, True),
    ({"Sec-Fetch-Site": "none"}, True),
    ({"Host": "evil.example:8642", "Origin": "http://evil.example:8642", "Sec-Fetch-Site": "same-origin"}, False),
    ({"Host": "evil.example"}, False),
    ({"Host": "127.0.0.1.evil.example"}, False),
    ({"Host": "localhost.evil.example:80"}, False),
    ({"Host": ""}, False),
    ({"Host": "LocalHost"}, True),
    ({"Host": "127.0.0.1:1"}, True),
    ({"Host": "[::1]:8642"}, True),
    ({"Host": "192.168.1.2"}, True),
    ({"Host": "[::1"}, False),
]


@pytest.mark.parametrize(("headers", "is_served"), PAGES, ids=range(len(PAGES)))
def test_pages_of_other_sites_are_not_served(server: Server, headers: dict[str, str], is_served: bool) -> None:
    """Each row is refused, or not, with every verb; no answer lets a browser hand it on."""
    for method, path in [*routes(), ("OPTIONS", "/v1/reduce"), ("HEAD", "/v1/limits"), ("PUT", "/nowhere")]:
        answer = server.request(method, path, headers=headers)
        assert (answer.status != 403) == is_served, (method, path)
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_pages_are_refused_before_keys_are_looked_at(guarded: Server, keys: dict[str, str]) -> None:
    """A page is refused with a key and without; a server with keys may be called by any name."""
    for headers in ({}, bearer(keys["admin"])):
        assert guarded.request("GET", "/v1/server", headers=headers | {"Origin": "http://x"}).status == 403
    assert guarded.request("GET", "/v1/server", headers=bearer(keys["admin"]) | {"Host": "gpu.lab"}).status == 200


def test_more_names_can_be_allowed(tmp_path: Path) -> None:
    """A server behind a proxy is called by the proxy's name, and still by no other; a Unix socket by any."""
    with serving(tmp_path, "--allowed-hosts", "Gpu.lab,other") as server:
        for host, status in (("gpu.lab", 200), ("GPU.lab:443", 200), ("other", 200), ("lab", 403)):
            assert server.request("GET", "/v1/limits", headers={"Host": host}).status == status, host
    with serving(tmp_path, "--uds", str(tmp_path / "socket")) as server:
        assert server.request("GET", "/v1/limits", headers={"Host": "anything"}).status == 200


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
    assert limits["max_dim"] == 65536
    assert limits["max_operators"] == 3000
    assert limits["max_scalar_operations"] == 10_000
    assert limits["max_source_bytes"] == 2 * 2**20
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
    for phase in (*PHASES, "total"):
        assert f'op="reduce",phase="{phase}"' in text
    assert "farfield_gpu" not in text, "NVML is not asked by a server on the CPU"


def test_all_labels_are_of_a_bounded_set(server: Server) -> None:
    """Whatever paths, users and errors come, ops are three, and reasons are error codes."""
    for path in ("/v1/nothing", "/v1/vjp/", "/%2e", "/v1/reduce?x=1"):
        server.request("POST", path, b"x", {"Content-Type": FRAME, "X-Request-Id": "mine"})
    text = server.request("GET", "/metrics").body.decode()
    assert set(re.findall(r'[{,]op="([^"]*)"', text)) <= {"reduce", "vjp", "other"}
    assert set(re.findall(r'[{,]reason="([^"]*)"', text)) <= {"ok", *ANSWERS}
    assert set(re.findall(r'[{,]user="([^"]*)"', text)) == {"local"}


def test_time_in_all_is_of_answers_with_results_and_holds_their_phases(server: Server) -> None:
    """A refused request has no time; a computed one takes no less than its phases together."""
    total = 'farfield_request_seconds_{}{{op="reduce",phase="{}"}}'
    server.request("POST", "/v1/reduce", frame(GAUSSIAN, gaussian_arrays()), {"Content-Type": FRAME})
    before = [metric(server, total.format("count", "total"))]
    before += [metric(server, total.format("sum", phase)) for phase in ("total", *PHASES)]
    server.request("POST", "/v1/reduce", b"x", {"Content-Type": FRAME})
    assert metric(server, total.format("count", "total")) == before[0]
    server.request("POST", "/v1/reduce", frame(GAUSSIAN, gaussian_arrays()), {"Content-Type": FRAME})
    after = [metric(server, total.format("count", "total"))]
    after += [metric(server, total.format("sum", phase)) for phase in ("total", *PHASES)]
    count, in_all, *phases = (b - a for a, b in zip(before, after, strict=True))
    assert count == 1
    assert sum(phases) <= in_all


def test_open_connections_are_counted(server: Server) -> None:
    """The one that asks is one of them."""
    alone = metric(server, "farfield_open_connections")
    with server.socket(), server.socket():
        wait_for(lambda: metric(server, "farfield_open_connections") == alone + 2, "two more connections")
    assert alone >= 1


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
