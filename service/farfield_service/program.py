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
from collections.abc import Callable
from typing import Any

import msgspec

from .arena import Arena
from .settings import Settings

LENGTH = struct.Struct("<I")


class Gone(Exception):
    """The worker's end of the socket was closed."""


class Program:
    """A worker program and the socket to it.

    Args:
        process: the program.
        reader, writer: of the socket.
        on_built: called with what the program says when kernels are built.
        on_end: called when the program has closed the socket.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_built: Callable[[dict[str, Any]], None],
        on_end: Callable[[], None],
    ) -> None:
        self.process, self.reader, self.writer = process, reader, writer
        self.on_built, self.on_end = on_built, on_end
        self.facts: dict[str, Any] = {}
        self.reply: asyncio.Future[dict[str, Any]] | None = None
        self.listening: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        settings: Settings,
        arena: Arena,
        number: int,
        on_built: Callable[[dict[str, Any]], None],
        on_end: Callable[[], None],
    ) -> Program:
        """Start the program and wait until it says what it is.

        Raises:
            Gone: it ended before. TimeoutError: it took too long.
        """
        ours, theirs = socket.socketpair()
        words = {
            "arena_bytes": arena.size,
            "device": settings.device,
            "log_format": settings.log_format,
            "log_level": settings.log_level,
            "memory_bytes": settings.worker_memory_bytes,
            "number": number,
            "parent": os.getpid(),
            "part_s": settings.part_s,
        }
        command = [sys.executable, "-m", "farfield_service.worker", str(theirs.fileno()), str(arena.fd)]
        command.append(msgspec.json.encode(words).decode())
        with theirs:
            process = subprocess.Popen(
                command, pass_fds=(theirs.fileno(), arena.fd), stdin=subprocess.DEVNULL, start_new_session=True
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        program = cls(process, reader, writer, on_built, on_end)
        try:
            program.facts = await asyncio.wait_for(program._receive(), settings.worker_start_timeout_s)
            if "error" in program.facts:
                raise Gone(program.facts["error"])
        except BaseException:
            program.kill()
            raise
        program.listening = asyncio.create_task(program._listen(), name="farfield worker")
        return program

    @property
    def is_alive(self) -> bool:
        """Whether it runs and listens."""
        is_listening = self.listening is not None and not self.listening.done()
        return is_listening and self.process.poll() is None

    async def _receive(self) -> dict[str, Any]:
        try:
            (length,) = LENGTH.unpack(await self.reader.readexactly(LENGTH.size))
            message: dict[str, Any] = msgspec.msgpack.decode(await self.reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.DecodeError) as error:
            raise Gone from error
        return message

    async def _listen(self) -> None:
        """Take in all that the program says."""
        try:
            while True:
                message = await self._receive()
                if "built" in message:
                    self.on_built(message)
                elif self.reply and not self.reply.done():
                    self.reply.set_result(message)
                    await asyncio.sleep(0)  # a job is known to be building before it is built
        except Gone as error:
            if self.reply and not self.reply.done():
                self.reply.set_exception(error)
            self.on_end()

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message that has no answer."""
        data = msgspec.msgpack.encode(message)
        self.writer.write(LENGTH.pack(len(data)) + data)

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message and wait for its answer; one at a time.

        Raises:
            Gone: the program died meanwhile, or before.
        """
        if not self.is_alive:
            raise Gone
        self.reply = asyncio.get_running_loop().create_future()
        try:
            self.tell(message)
            return await self.reply
        finally:
            self.reply = None

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
        if self.listening:
            self.listening.cancel()
        self.writer.close()
