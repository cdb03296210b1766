"""Bodies that ask a decoder for memory: huge counts, deep nesting, long strings, millions of empty maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgpack

from farfield_service.wire import FRAME, MAGIC, MAX_HEADER_BYTES, MSGPACK, PREFIX
from faults.footprint import footprint
from serving import GAUSSIAN, Server, gaussian_arrays, wait_for, words

HUGE = 2**32 - 1
MANY = 10_000_000  # bytes of the larger bodies
REPEATS = 5  # of each: an allocator may keep what was freed once, but not each time

ARRAY, MAP, TEXT, BYTES = b"\xdd", b"\xdf", b"\xdb", b"\xc6"  # of msgpack, before a count of four bytes


def counted(kind: bytes, count: int) -> bytes:
    """The beginning of a msgpack object that says how large it is."""
    return kind + count.to_bytes(4, "big")


def with_field(name: str, value: bytes, more: int = 0) -> bytes:
    """A valid request of msgpack but for one field, whose value is given as bytes.

    Args:
        name: of the field; one that the request has already stands in it twice.
        value: of it, encoded.
        more: how often the field is repeated.
    """
    valid = words(GAUSSIAN) | {"arguments": tensors()}
    pairs = [msgpack.packb(key) + msgpack.packb(content) for key, content in valid.items()]
    pairs += [msgpack.packb(name) + value] * (more + 1)
    return counted(MAP, len(pairs)) + b"".join(pairs)


def tensors() -> list[dict[str, object]]:
    """The arguments of a valid request."""
    return [{"dtype": a.dtype.name, "shape": a.shape, "data": a.tobytes()} for a in gaussian_arrays()]


def framed(header: bytes, header_bytes: int | None = None, segments: int = 3) -> bytes:
    """A frame without data."""
    return PREFIX.pack(MAGIC, len(header) if header_bytes is None else header_bytes, 0, segments) + header


def _nested(mark: bytes) -> Callable[[], bytes]:
    return lambda: mark * MANY


# What it asks for -> format and body.
BODIES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a list of 4 billion": (MSGPACK, lambda: counted(ARRAY, HUGE)),
    "a map of 4 billion": (MSGPACK, lambda: counted(MAP, HUGE)),
    "a text of 4 GB": (MSGPACK, lambda: with_field("formula", counted(TEXT, HUGE))),
    "a tensor of 4 GB": (
        MSGPACK,
        lambda: with_field("arguments", msgpack.packb([{"dtype": "float64", "shape": [2**29]}])),
    ),
    "arguments, 4 billion": (MSGPACK, lambda: with_field("arguments", counted(ARRAY, HUGE))),
    "variables, 4 billion": (MSGPACK, lambda: with_field("variables", counted(ARRAY, HUGE))),
    "derivatives, 4 billion": (MSGPACK, lambda: with_field("wrt", counted(ARRAY, HUGE))),
    "lists in lists": (MSGPACK, _nested(b"\x91")),
    "maps in maps": (MSGPACK, _nested(b"\x81\xa0")),
    "lists in lists of a field": (MSGPACK, lambda: with_field("wrt", b"\x91" * MANY)),
    "lists in lists of a field that nobody knows": (MSGPACK, lambda: with_field("more", b"\x91" * MANY)),
    "empty maps": (MSGPACK, lambda: counted(ARRAY, MANY) + b"\x80" * MANY),
    "empty maps as arguments": (
        MSGPACK,
        lambda: with_field("arguments", counted(ARRAY, MANY) + b"\x80" * MANY),
    ),
    "empty maps as variables": (
        MSGPACK,
        lambda: with_field("variables", counted(ARRAY, MANY) + b"\x80" * MANY),
    ),
    "empty lists as derivatives": (MSGPACK, lambda: with_field("wrt", counted(ARRAY, MANY) + b"\x90" * MANY)),
    "empty maps in a field that nobody knows": (
        MSGPACK,
        lambda: with_field("more", counted(ARRAY, MANY) + b"\x80" * MANY),
    ),
    "a formula of 10 MB": (MSGPACK, lambda: with_field("formula", msgpack.packb("x" * MANY))),
    "a formula of 10 MB that is no text": (MSGPACK, lambda: with_field("formula", msgpack.packb(b"\xff" * MANY))),
    "a name of 10 MB": (MSGPACK, lambda: with_field("x" * MANY, b"\xc0")),
    "a field a million times": (MSGPACK, lambda: with_field("formula", msgpack.packb("x"), 1_000_000)),
    "a formula of parentheses": (MSGPACK, lambda: with_field("formula", msgpack.packb("(" * 4000))),
    "a shape beyond all numbers": (
        MSGPACK,
        lambda: with_field("arguments", msgpack.packb([{"dtype": "float64", "shape": [2**53] * 18, "data": b""}])),
    ),
    "10 MB of zeros": (MSGPACK, lambda: bytes(MANY)),
    "a frame's header of 4 GB": (FRAME, lambda: framed(b"", HUGE)),
    "a frame of 4 billion segments": (FRAME, lambda: framed(msgpack.packb(words(GAUSSIAN)), segments=HUGE)),
    "a frame's header of empty maps": (
        FRAME,
        lambda: framed(counted(ARRAY, MAX_HEADER_BYTES - 5) + b"\x80" * (MAX_HEADER_BYTES - 5)),
    ),
    "a frame's header of lists in lists": (FRAME, lambda: framed(b"\x91" * MAX_HEADER_BYTES)),
    "a frame's header cut off, and 10 MB": (FRAME, lambda: framed(b"", MAX_HEADER_BYTES) + bytes(MANY)),
}


@dataclass(frozen=True)
class Growth:
    """What one body did to the server.

    Args:
        statuses: of its answers.
        bytes: by which the server's own memory is larger than before, per body.
    """

    statuses: set[int]
    bytes: int


def growth(server: Server, kind: str, body: bytes) -> Growth:
    """Post a hostile body, several times."""
    before = footprint(server.process.pid).anonymous_bytes
    headers = {"Content-Type": kind}
    statuses = {server.request("POST", "/v1/reduce", body, headers).status for _ in range(REPEATS)}
    wait_for(server.is_idle_and_empty, "an empty arena")
    return Growth(statuses, (footprint(server.process.pid).anonymous_bytes - before) // REPEATS)
