"""Headers and words -> an admitted job, or a refusal before work is done: identity, limits, room for results."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

import numpy as np

from farfield_kernels.arguments import Sizes, check_arguments, numpy_dtype, result_bytes, result_shapes
from farfield_kernels.errors import LimitError
from farfield_kernels.expr import Array
from farfield_kernels.operation import Operation
from farfield_kernels.ranges import NAMES as RANGES

from .arena import ALIGNMENT, Arena, Lease
from .errors import BadRequest, LengthRequired, Unauthorized, UnsupportedMediaType
from .settings import Settings
from .wire import FRAME, MSGPACK, Call


class Gate:
    """Who may come in: tokens are kept hashed and compared in constant time."""

    def __init__(self, tokens: tuple[str, ...]) -> None:
        self.digests = tuple(hashlib.sha256(token.encode()).digest() for token in tokens)

    def check(self, authorization: str | None) -> None:
        """Pass the header `Authorization: Bearer TOKEN` of a known token; everybody, if there are no tokens.

        Raises:
            Unauthorized: otherwise.
        """
        if not self.digests:
            return
        scheme, _, token = (authorization or "").partition(" ")
        digest = hashlib.sha256(token.strip().encode()).digest()
        known = [hmac.compare_digest(digest, other) for other in self.digests]
        if scheme.lower() != "bearer" or not any(known):
            raise Unauthorized("this server needs a token: send 'Authorization: Bearer TOKEN'")


def check_body_headers(settings: Settings, headers: dict[str, str]) -> tuple[str, int]:
    """The body's format and length, from its headers alone.

    Raises:
        UnsupportedMediaType, LengthRequired, BadRequest, LimitError: before a byte of the body is read.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (FRAME, MSGPACK):
        raise UnsupportedMediaType(f"Content-Type is {FRAME} or {MSGPACK}, got '{kind[:80]}'")
    if headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMediaType("compressed bodies are not taken: send without Content-Encoding")
    length = headers.get("content-length")
    if length is None:
        raise LengthRequired("send Content-Length: chunked bodies are not taken")
    if not (length.isascii() and length.isdigit()) or len(length) > 18:
        raise BadRequest(f"Content-Length '{length[:40]}' is not a number")
    if int(length) > settings.max_body_bytes:
        raise LimitError(
            f"a body of {int(length)} bytes is above this server's {settings.max_body_bytes}",
            field="body",
            limit=settings.max_body_bytes,
        )
    return kind, int(length)


@dataclass
class Room:
    """Where the results of a job will be written."""

    lease: Lease
    offsets: list[int]
    shapes: list[tuple[int, ...]]
    dtypes: list[str]

    def arrays(self) -> list[Array]:
        """The results, as views of the slot."""
        view = self.lease.view
        return [
            np.ndarray(shape, numpy_dtype(dtype), buffer=view, offset=offset - self.lease.offset)
            for offset, shape, dtype in zip(self.offsets, self.shapes, self.dtypes, strict=True)
        ]


def check_sizes(settings: Settings, operation: Operation, call: Call) -> Sizes:
    """Check the arguments against the variables and the limits, from their headers alone.

    Raises:
        ArgumentError, DtypeError, ShapeError, LimitError.
    """
    taken = len(call.arguments) - (len(RANGES) if call.words.ranges else 0)
    if taken < 0:
        raise BadRequest(f"ranges are the last {len(RANGES)} arguments, got {len(call.arguments)}", field="ranges")
    tensors = call.arguments[:taken]
    sizes = check_arguments(operation, [t.dtype for t in tensors], [tuple(t.shape) for t in tensors])
    if settings.max_pairs < sizes.pairs:
        raise LimitError(
            f"{sizes.pairs} pairs (i, j) are above this server's {settings.max_pairs}",
            limit=settings.max_pairs,
        )
    total = sum(result_bytes(operation, sizes))
    if total > settings.max_result_bytes:
        raise LimitError(
            f"results of {total} bytes are above this server's {settings.max_result_bytes}",
            limit=settings.max_result_bytes,
        )
    return sizes


def reserve(arena: Arena, operation: Operation, sizes: Sizes, body_bytes: int) -> Room:
    """Lease the slot that the results will need; the spec alone gives its size.

    Raises:
        ServerBusy: no room now. LimitError: body and results will never fit together.
    """
    starts, end = [], 0
    for size in result_bytes(operation, sizes):
        starts.append(end)
        end += -(-size // 64) * 64
    if end + body_bytes + 2 * ALIGNMENT > arena.size:
        raise LimitError(
            f"a body of {body_bytes} bytes and results of {end} do not fit this server's {arena.size} together",
            limit=arena.size,
        )
    lease = arena.lease(end)
    return Room(
        lease,
        [lease.offset + start for start in starts],
        result_shapes(operation, sizes),
        [slot.dtype(sizes.dtype) for slot in operation.results],
    )
