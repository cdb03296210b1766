"""The head of a request -> what follows from its bytes alone; kept, as most requests are made again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import httptools
from starlette.types import Scope

from .gate import read_headers
from .recent import Recent

KEPT_BYTES = 4096  # of a head; longer ones are parsed each time
KEPT_HEADS = 1024
END = b"\r\n\r\n"


@dataclass(frozen=True)
class Head:
    """What a head says.

    Args:
        scope: what ASGI calls so, without the connection's part.
        length: bytes of the body; none if they come in chunks.
        keep_alive: whether the connection may stay.
        is_awaited: whether the sender waits for `100 Continue`.
    """

    scope: Scope
    length: int | None
    keep_alive: bool
    is_awaited: bool


def read_head(
    parser: httptools.HttpRequestParser, target: bytes, headers: Sequence[tuple[bytes, bytes]], root_path: str
) -> Head:
    """The head that a parser has just taken in.

    Args:
        parser: that called `on_headers_complete`.
        target, headers: what it found, names in lower case.
        root_path: of the application.
    """
    version = parser.get_http_version()
    url = httptools.parse_url(target)
    raw_path = url.path or b"/"
    path = raw_path.decode("ascii")
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": version,
        "method": parser.get_method().decode("ascii"),
        "root_path": root_path,
        "path": root_path + (unquote(path) if "%" in path else path),
        "raw_path": root_path.encode() + raw_path,
        "query_string": url.query or b"",
        "headers": headers,
        "farfield.headers": read_headers(headers),
    }
    lengths = [value for name, value in headers if name == b"content-length"]
    is_chunked = any(name == b"transfer-encoding" for name, _ in headers)
    return Head(
        scope,
        None if is_chunked else int(lengths[0]) if lengths else 0,
        keep_alive=version != "1.0" and parser.should_keep_alive(),
        is_awaited=any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers),
    )


class Heads:
    """The heads of requests to some paths, by their bytes.

    Args:
        paths: of whose requests heads are kept; what answers them does not change a scope's headers.
    """

    def __init__(self, paths: Collection[str]) -> None:
        self.paths = paths
        self.known: Recent[bytes, Head] = Recent(KEPT_HEADS)

    def find(self, data: bytearray, size: int) -> tuple[Head, int] | None:
        """A head that was met before at the beginning of `size` bytes, and where it ends."""
        end = data.find(END, 0, min(size, KEPT_BYTES)) + len(END)
        head = self.known.find(bytes(memoryview(data)[:end]))
        return (head, end) if head else None

    def keep(self, data: bytearray, size: int, head: Head) -> None:
        """Keep the head that `size` bytes begin with, if it begins and ends there for every parser."""
        end = data.find(END, 0, min(size, KEPT_BYTES)) + len(END)
        text = bytes(memoryview(data)[:end])
        is_plain = text.startswith(b"POST /") and text.count(b"\n") == text.count(b"\r\n") == text.count(b"\r")
        if is_plain and head.scope["path"] in self.paths and head.length is not None and not head.is_awaited:
            self.known.keep(text, head)
