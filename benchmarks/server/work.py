"""What is asked of the server: reductions that copy, or that last as long as is wanted."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np

from farfield import wire
from farfield_kernels.operation import Spec

from .connection import Connection, Pieces

JOINED_BYTES = 262_144  # a request up to this size is sent at once, as by the client
SINES = 12  # of each other, per pair: long kernels of short bodies
ROWS = 1000
ATTEMPTS = 20


@dataclass(frozen=True)
class Work:
    """A reduction, its arguments, and the bytes of its result."""

    spec: Spec
    arrays: list[wire.Array]
    result_bytes: int

    @property
    def room(self) -> int:
        """Bytes of its answer, and some for the head."""
        return self.result_bytes + 4096

    def request(self, token: str | None = None, deadline_s: float | None = None) -> Pieces:
        """The request's bytes: in one piece if they are few, else head and body."""
        spec = self.spec
        words = {name: getattr(spec, name) for name in ("formula", "variables", "reduction", "axis", "wrt")}
        pieces = wire.encode_call(words | spec.changed(), self.arrays)
        length = sum(len(piece) for piece in pieces)
        body = bytearray(length)
        filled = 0
        for piece in pieces:
            body[filled : filled + len(piece)] = piece
            filled += len(piece)
        lines = ["POST /v1/reduce HTTP/1.1", "Host: localhost", f"Content-Type: {wire.FRAME}"]
        lines += [f"Content-Length: {length}", *([f"Authorization: Bearer {token}"] if token else [])]
        lines += [*([f"X-Farfield-Deadline-Ms: {deadline_s * 1e3:.0f}"] if deadline_s else []), "\r\n"]
        head = "\r\n".join(lines).encode()
        return [head + bytes(body)] if length <= JOINED_BYTES else [head, body]


def copying(rows: int, columns: int = 2, kept: int | None = None) -> Work:
    """x times one y of 1: the result is x, or the first `kept` columns of it."""
    x = np.random.default_rng(0).random((rows, columns), np.float32)
    formula = "x*y" if kept is None else f"Extract(x,0,{kept})*y"
    spec = Spec(formula, (f"x = Vi({columns})", "y = Vj(1)"))
    return Work(spec, [x, np.ones((1, 1), np.float32)], rows * (kept or columns) * 4)


SMALL = copying(1000, 25, 9)
"""100 KB up, 36 KB down."""


def lasting(url: str, milliseconds: float, token: str | None = None) -> Work:
    """A reduction whose kernel takes about so long on that server, and whose body has some kilobytes."""
    columns = ROWS
    for _ in range(ATTEMPTS):
        random = np.random.default_rng(0)
        arrays = [random.random((count, 1), np.float32) for count in (ROWS, columns)]
        formula = "Sin(" * SINES + "x*y" + ")" * SINES
        work = Work(Spec(formula, ("x = Vi(1)", "y = Vj(1)"), separation="off"), arrays, 4 * ROWS)
        with Connection(url, work.room) as connection:
            request = work.request(token)
            times = [connection.ask(request).timing["kernel"] for _ in range(7)][2:]  # the first ones compile
        taken = statistics.median(times)
        if 0.8 <= taken / milliseconds <= 1.25:
            return work
        columns = max(1, round(columns * milliseconds / taken))
    raise RuntimeError(f"no kernel took about {milliseconds:g} ms in {ATTEMPTS} attempts: is the machine in use?")
