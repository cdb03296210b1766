"""Headers that come more than once: no reader may take one of them and leave the others to another reader."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from farfield_service.gate import read_headers
from farfield_service.keys import create_key
from farfield_service.wire import FRAME
from serving import COPY, Server, frame, numbered, serving

DEADLINE = "X-Farfield-Deadline-Ms"
Rows = list[tuple[str, str]]

# Headers beside a good request's -> the status. Each is accepted if it comes once, as the first rows show.
CASES: list[tuple[Rows, int]] = [
    ([], 200),
    ([("Content-Encoding", "identity"), (DEADLINE, "60000"), ("Sec-Fetch-Site", "none")], 200),
    ([("Host", "localhost")], 400),
    ([("Host", "evil.example")], 400),
    ([("Content-Type", "text/plain")], 415),
    ([("Content-Encoding", "identity"), ("Content-Encoding", "gzip")], 415),
    ([("Content-Encoding", "gzip"), ("Content-Encoding", "identity")], 415),
    ([("Content-Length", "1")], 400),
    ([("Authorization", "Bearer ff_0_0")], 401),
    ([(DEADLINE, "60000"), (DEADLINE, "1")], 400),
    ([("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")], 403),
    ([("Sec-Fetch-Site", "unknown")], 403),
    ([("Origin", "http://localhost"), ("Origin", "http://evil.example")], 403),
]


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key file, empty."""
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def key(key_file: Path) -> str:
    """A key that is in it."""
    return create_key(key_file, "ada")


@pytest.fixture(scope="module", params=["true", "false"])
def guarded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, key_file: Path, key: str
) -> Iterator[Server]:
    """A server that needs the key, with our protocol and with uvicorn's."""
    flags = ["--keys-file", str(key_file), "--fast-bodies", request.param]
    with serving(tmp_path_factory.mktemp("guarded"), *flags) as running:
        yield running


def post(server: Server, key: str, more: Rows) -> int:
    """The status of a call with more headers than it needs."""
    body = frame(COPY, numbered(3))
    connection = http.client.HTTPConnection("localhost")
    connection.sock = server.socket()
    with contextlib.closing(connection):
        connection.putrequest("POST", "/v1/reduce")
        needed = [("Content-Type", FRAME), ("Content-Length", str(len(body))), ("Authorization", f"Bearer {key}")]
        for name, value in [*needed, *more]:
            connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse().status


def test_a_header_that_comes_twice_is_refused(guarded: Server, key: str) -> None:
    """Whatever a request is judged by, and whichever of the two is the harmless one."""
    assert [(more, post(guarded, key, more)) for more, _ in CASES] == CASES


def test_headers_alike_make_one_list() -> None:
    """In their order; others stay as they are."""
    headers = [(b"a", b"1"), (b"b", b"2"), (b"a", b""), (b"a", b"3")]
    assert read_headers(headers) == {"a": "1, , 3", "b": "2"}
