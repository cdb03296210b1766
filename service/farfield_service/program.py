"""One worker program, started, asked, and ended; see worker.py for what it answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import msgspec

from .arena import Arena
from .settings import Settings

LENGTH = struct.Struct("<I")
RECEIVED_BYTES = 65_536  # by one system call
BUILDERS = 2  # calls whose kernels a program builds at a time


class Gone(Exception):
    """The worker's end of the socket was closed."""


Said: TypeAlias = "dict[str, Any] | Gone | TimeoutError"
OnReply: TypeAlias = Callable[[Said], None]


class Question:
    """One that waits for its answer, which is told once."""

    timer: asyncio.TimerHandle

    def __init__(self, on_reply: OnReply) -> None:
        self.on_reply: OnReply | None = on_reply

    def settle(self, said: Said) -> None:
        """This is the answer, unless there was one before."""
        on_reply, self.on_reply = self.on_reply, None
        if on_reply:
            self.timer.cancel()
            on_reply(said)


class Program(asyncio.Protocol):
    """A worker program, and the socket to it.

    Messages are taken in as they come, without a task in between: a small request crosses twice.

    Args:
        process: the program.
        ours: our end of the socket.
        on_built: called with what the program says when kernels are built.
        on_end: called when the program has closed the socket.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        ours: socket.socket,
        on_built: Callable[[dict[str, Any]], None],
        on_end: Callable[[], None],
    ) -> None:
        self.process, self.socket, self.on_built, self.on_end = process, ours, on_built, on_end
        self.facts: dict[str, Any] = {}
        self.is_open = False
        self.received = bytearray()
        self.questions: deque[Question] = deque()  # that wait for their answers, which come in this order
        self.loop = asyncio.get_running_loop()

    @classmethod
    async def start(
        cls,
        settings: Settings,
        arena: Arena,
        number: int,
        on_built: Callable[[dict[str, Any]], None],
        on_end: Callable[[], None],
    ) -> Program:
        """Start a worker, as `launch` does."""
        words = {
            "arena_bytes": arena.size,
            "builders": BUILDERS,
            "device": settings.device,
            "device_memory_bytes": settings.device_memory_bytes,
            "log_format": settings.log_format,
            "log_level": settings.log_level,
            "memory_bytes": settings.worker_memory_bytes,
            "number": number,
            "parent": os.getpid(),
            "part_s": settings.part_s,
        }
        return await cls.launch("worker", [arena.fd], words, settings.worker_start_timeout_s, on_built, on_end)

    @classmethod
    async def launch(
        cls,
        module: str,
        shared: list[int],
        words: dict[str, Any],
        timeout_s: float,
        on_built: Callable[[dict[str, Any]], None],
        on_end: Callable[[], None],
    ) -> Program:
        """Start a program and wait until it says what it is.

        Args:
            module: of this package.
            shared: files that it inherits.
            words: that it is started with.
            timeout_s: seconds until it has to say so.
            on_built, on_end: see the class.

        Raises:
            Gone: it ended before. TimeoutError: it took too long.
        """
        ours, theirs = socket.socketpair()
        files = [theirs.fileno(), *shared]
        command = [sys.executable, "-m", f"{__package__}.{module}", *map(str, files)]
        command.append(msgspec.json.encode(words).decode())
        with theirs:
            process = subprocess.Popen(command, pass_fds=files, stdin=subprocess.DEVNULL, start_new_session=True)
        program = cls(process, ours, on_built, on_end)
        try:
            await program.loop.create_connection(lambda: program, sock=ours)
            program.facts = await program._hear(timeout_s)
            if "error" in program.facts:
                raise Gone(program.facts["error"])
        except BaseException:
            program.kill()
            raise
        return program

    @property
    def is_alive(self) -> bool:
        """Whether it has not closed the socket, as every end of it does."""
        return self.is_open

    # -- the socket's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ready."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=0)  # what is written goes out at once
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Some bytes came: take in the messages that are whole."""
        self.received += data
        start = 0
        while len(self.received) - start >= LENGTH.size:
            begin = start + LENGTH.size
            end = begin + LENGTH.unpack_from(self.received, start)[0]
            if len(self.received) < end:
                break
            self._take(msgspec.msgpack.decode(self.received[begin:end]))
            start = end
        del self.received[:start]

    def _take(self, message: dict[str, Any]) -> None:
        if "built" in message:
            # Not at once: who is answered by the same bytes, or listens for them, goes on first.
            self.loop.call_soon(self.on_built, message)
        else:
            self.questions.popleft().settle(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """The program has ended, or was told to."""
        self.is_open = False
        while self.questions:
            self.questions.popleft().settle(Gone())
        self.on_end()

    def listen(self, seconds: float) -> None:
        """Take in what the program says within some microseconds; a wait of the event loop costs about forty.

        A program that was put on this core goes on at each look.
        """
        until = time.perf_counter() + seconds
        while self.is_open and time.perf_counter() < until:
            with contextlib.suppress(BlockingIOError):
                data = self.socket.recv(RECEIVED_BYTES)
                if data:
                    self.data_received(data)
                return
            os.sched_yield()

    # -- messages

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message that has no answer."""
        data = msgspec.msgpack.encode(message)
        self.transport.write(LENGTH.pack(len(data)) + data)

    def forget(self, job: int) -> None:
        """Have it give up a job that it has begun and is between two parts; one it does not know is no error."""
        if self.is_open:
            self.tell({"op": "drop", "job": job})

    def order(self, message: dict[str, Any], timeout_s: float, on_reply: OnReply) -> None:
        """Send a message to a program that is alive, and go on; answers come in the order of the questions.

        Args:
            message: that has an answer.
            timeout_s: seconds until that is given up.
            on_reply: called once, with the answer; or with `Gone` if the program ended before, or `TimeoutError`.
        """
        self._expect(timeout_s, on_reply)
        self.tell(message)

    async def ask(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a message and wait for its answer.

        Raises:
            Gone: the program died meanwhile, or before. TimeoutError: there was none in time.
        """
        if not self.is_open:
            raise Gone
        self.tell(message)
        return await self._hear(timeout_s)

    async def _hear(self, timeout_s: float) -> dict[str, Any]:
        said: asyncio.Future[Said] = self.loop.create_future()

        def keep(answer: Said) -> None:
            if not said.done():
                said.set_result(answer)

        self._expect(timeout_s, keep)
        answer = await said
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _expect(self, timeout_s: float, on_reply: OnReply) -> None:
        question = Question(on_reply)
        question.timer = self.loop.call_later(timeout_s, question.settle, TimeoutError())
        self.questions.append(question)

    # -- ends

    def kill(self) -> None:
        """End the program and the compilers that it may be running, at once."""
        self._close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    async def stop(self, timeout_s: float) -> None:
        """Close the socket, which a worker takes as the word to end; kill it if it does not."""
        self._close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self.process.wait, timeout_s)
        self.kill()

    def _close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.transport.close()
