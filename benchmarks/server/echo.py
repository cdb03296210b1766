"""The yardstick of transfers: a program that receives so many bytes and sends so many back, by plain socket calls.

The first 16 bytes of a connection say how many. What it sends begins like an answer of the server, so that the
same client reads both.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from server.connection import Connection, Pieces

SIZES = struct.Struct("<QQ")
HEAD_ROOM = 4096
BENCHMARKS = Path(__file__).parents[1]


@contextlib.contextmanager
def echo(request: Pieces, down: int) -> Iterator[Connection]:
    """A connection to an echo program that answers requests of this size with `down` bytes."""
    command = [sys.executable, "-m", "server.echo"]
    program = subprocess.Popen(command, cwd=BENCHMARKS, stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout
        with Connection(program.stdout.readline().strip(), down + HEAD_ROOM) as connection:
            connection.send([SIZES.pack(sum(len(piece) for piece in request), down)])
            yield connection
    finally:
        program.kill()
        program.wait()


def main() -> None:
    """Serve one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        connection, _ = listener.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        up, down = SIZES.unpack(connection.recv(SIZES.size, socket.MSG_WAITALL))
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % down
        buffer = memoryview(bytearray(max(up, len(head) + down)))
        while True:
            filled = 0
            while filled < up:
                count = connection.recv_into(buffer[filled:up])
                if not count:
                    return
                filled += count
            buffer[: len(head)] = head
            connection.sendall(buffer[: len(head) + down])


if __name__ == "__main__":
    main()
