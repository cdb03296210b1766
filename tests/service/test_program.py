"""What a worker program says, in the order in which the pool takes it in."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from typing import Any

import msgspec
import pytest

from farfield_service.program import LENGTH, Program
from serving import WAIT_S


def packed(message: dict[str, Any]) -> bytes:
    """A message as a worker sends it."""
    data = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(data)) + data


async def heard(pieces: list[bytes]) -> list[str]:
    """What is taken in when a program answers a question by `pieces`, and ends."""
    ours, theirs = socket.socketpair()
    order: list[str] = []
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process, theirs:
        program = Program(process, ours, lambda message: order.append("built"), lambda: order.append("end"))
        await program.loop.create_connection(lambda: program, sock=ours)

        async def ask() -> None:
            order.append(next(iter(await program.ask({"op": "begin"}, 60.0))))

        asking = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        for piece in pieces:
            theirs.sendall(piece)
            await asyncio.sleep(0.01)
        await asyncio.wait_for(asking, WAIT_S)
        while len(order) < 2:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(program.kill)
        while len(order) < 3:
            await asyncio.sleep(0.01)
    return order


SENT = packed({"building": True}) + packed({"built": 1})


@pytest.mark.parametrize(
    "pieces", [[SENT], [SENT[:2], SENT[2:9], SENT[9:]], [SENT[k : k + 1] for k in range(len(SENT))]]
)
def test_word_of_a_build_comes_after_the_answer_before_it(pieces: list[bytes]) -> None:
    """Who was answered goes on first, whatever the pieces in which both came."""
    assert asyncio.run(asyncio.wait_for(heard(pieces), WAIT_S)) == ["building", "built", "end"]


async def listened(pieces: list[bytes]) -> list[str]:
    """What is heard of a program without a turn of the loop, then with some, when its answer comes in `pieces`."""
    ours, theirs = socket.socketpair()
    order: list[str] = []
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process, theirs:
        program = Program(process, ours, lambda message: None, lambda: None)
        await program.loop.create_connection(lambda: program, sock=ours)
        program.order({"op": "begin"}, 60.0, lambda said: order.append("answer"))
        for piece in pieces:
            theirs.sendall(piece)
            program.listen(0.01)
            order.append("listened")
        await asyncio.sleep(0.05)
        await asyncio.to_thread(program.kill)
    return order


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([packed({"done": {}})], ["answer", "listened"]),
        ([packed({"done": {}})[:3], packed({"done": {}})[3:]], ["listened", "answer", "listened"]),
        ([b""], ["listened", "answer"]),  # that it has ended, when it has
    ],
)
def test_an_answer_can_be_listened_for(pieces: list[bytes], expected: list[str]) -> None:
    """It is taken in before `listen` returns, once; what is not there in time is not waited for."""
    assert asyncio.run(asyncio.wait_for(listened(pieces), WAIT_S)) == expected
