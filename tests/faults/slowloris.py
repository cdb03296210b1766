"""Sockets that keep a server waiting; a program: `python -m faults.slowloris HOST PORT SOCKETS SECONDS`.

As many of them send a head byte by byte, a line of one that never ends, a head behind a whole request, a body, and
nothing. One that is closed is opened anew until the seconds are over; then the program waits until all are closed.
It prints a line when all are open, and at its end, as JSON, how many there were of each kind and how long the last
one lived.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from serving import Server, environment, post_head

EVERY_S = 0.5  # between two bytes on a socket
BODY_BYTES = 20_000  # a thousand of them fit an arena of 64 MiB
GIVE_UP_S = 60.0  # after which what is still open is said to have lived for ever

HEAD = post_head(BODY_BYTES)
# Manner -> what is sent at once, and what byte by byte after it.
MANNERS = {
    "head": (b"", HEAD),
    "line": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 10_000, b"a" * BODY_BYTES),
    "pipelined": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nPOST ", HEAD),
    "body": (HEAD, bytes(BODY_BYTES)),
    "silence": (b"", b""),
}


@dataclass
class Victim:
    """One socket, as the server will see it."""

    manner: str
    connection: socket.socket
    since: float = field(default_factory=time.monotonic)
    sent: int = 0

    @classmethod
    def open(cls, manner: str, address: tuple[str, int]) -> Victim:
        """Connect, and send the beginning."""
        connection = socket.create_connection(address)
        connection.sendall(MANNERS[manner][0])
        connection.setblocking(False)
        return cls(manner, connection)

    def send(self) -> None:
        """The next byte; that the connection is broken shows when it is read."""
        rest = MANNERS[self.manner][1]
        with contextlib.suppress(OSError):
            self.connection.send(rest[self.sent : self.sent + 1])
        self.sent += 1

    def is_closed(self) -> bool:
        """Whether the server has ended it; what the server says before is read."""
        try:
            return not self.connection.recv(4096)
        except BlockingIOError:
            return False
        except OSError:
            return True


def attack(address: tuple[str, int], sockets: int, seconds: float) -> list[tuple[str, float]]:
    """Keep so many open for so long; manner and lifetime in seconds of each one."""
    selector, lived = selectors.DefaultSelector(), list[tuple[str, float]]()

    def open_one(manner: str) -> None:
        victim = Victim.open(manner, address)
        selector.register(victim.connection, selectors.EVENT_READ, victim)

    begun = time.monotonic()
    for number in range(sockets):
        open_one(list(MANNERS)[number % len(MANNERS)])
    print("all are open", flush=True)
    next_bytes = time.monotonic()
    while selector.get_map() and time.monotonic() < begun + seconds + GIVE_UP_S:
        for key, _ in selector.select(EVERY_S / 10):
            victim: Victim = key.data
            if victim.is_closed():
                selector.unregister(victim.connection)
                victim.connection.close()
                lived.append((victim.manner, time.monotonic() - victim.since))
                if time.monotonic() < begun + seconds:
                    open_one(victim.manner)
        if time.monotonic() >= next_bytes:
            next_bytes += EVERY_S
            for key in list(selector.get_map().values()):
                key.data.send()
    lived += [(key.data.manner, float("inf")) for key in selector.get_map().values()]
    return lived


@contextlib.contextmanager
def attacking(server: Server, sockets: int, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """The program, from when all of its sockets are open."""
    address = urlsplit(server.url)
    words = [str(address.hostname), str(address.port), str(sockets), str(seconds)]
    command = [sys.executable, "-m", "faults.slowloris", *words]
    path = ":".join(sys.path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(PYTHONPATH=path)) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "all are open\n"
            yield program
        finally:
            program.kill()


def lives(program: subprocess.Popen[str]) -> dict[str, tuple[int, float]]:
    """How many sockets of each manner there were, and how many seconds the longest lived, once all are closed."""
    assert program.stdout is not None
    return {manner: (count, longest_s) for manner, (count, longest_s) in json.load(program.stdout).items()}


if __name__ == "__main__":
    host, port, count, duration_s = sys.argv[1:]
    ended = attack((host, int(port)), int(count), float(duration_s))
    of_manner = {manner: [life for each, life in ended if each == manner] for manner in MANNERS}
    # A few bytes, which a pipe takes though nobody reads it yet.
    json.dump({manner: (len(found), max(found)) for manner, found in of_manner.items()}, sys.stdout)
