"""What a worker program says, in the order in which the pool takes it in."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from typing import Any

import msgspec

from farfield_service.program import LENGTH, Program
from serving import WAIT_S


def packed(message: dict[str, Any]) -> bytes:
    """A message as a worker sends it."""
    data = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(data)) + data


async def heard(sent: bytes) -> list[str]:
    """What is taken in when a program answers a question by `sent`, all at once."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    order: list[str] = []
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process, theirs:
        program = Program(process, reader, writer, lambda message: order.append("built"), lambda: None)
        program.listening = asyncio.create_task(program._listen())

        async def ask() -> None:
            order.append(next(iter(await program.ask({"op": "begin"}))))

        asking = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        theirs.sendall(sent)
        await asyncio.wait_for(asking, WAIT_S)
        while len(order) < 2:
            await asyncio.sleep(0.01)
        program.kill()
        with contextlib.suppress(asyncio.CancelledError):
            await program.listening
    return order


def test_word_of_a_build_comes_after_the_answer_that_it_began() -> None:
    """Else the job that was built would not be known yet, and would wait for ever."""
    sent = packed({"building": True}) + packed({"built": 1})
    assert asyncio.run(asyncio.wait_for(heard(sent), WAIT_S)) == ["building", "built"]
