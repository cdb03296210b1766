"""Jobs -> replies: start, feed, watch and replace the worker programs.

A worker is a program of its own, started fresh: it dies alone, and CUDA is never forked. Control messages are
msgpack over a Unix socket, data lie in the arena. A worker that dies is replaced, and its job is replayed once,
which is safe as a job is a pure function of its arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import Any

import msgspec

from .arena import Arena
from .errors import JobTimeout, NoWorker, ServiceError, WorkerDied
from .queue import Job, Queue
from .settings import Settings

LENGTH = struct.Struct("<I")
MAX_ATTEMPTS = 2
RESTART_PAUSE_S = (0.0, 0.5, 1.0, 2.0, 5.0)  # before the n-th start in a row that did not succeed

log = logging.getLogger("farfield.pool")


class Gone(Exception):
    """The worker's end of the socket was closed."""


class Worker:
    """One worker program and the socket to it."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process, self.reader, self.writer = process, reader, writer
        self.facts: dict[str, Any] = {}

    @classmethod
    async def start(cls, settings: Settings, arena: Arena) -> Worker:
        """Start the program and wait until it says what it is.

        Raises:
            Gone: it ended before. TimeoutError: it took too long.
        """
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "farfield_service.worker", str(theirs.fileno()), str(arena.fd)]
        command += [str(arena.size), settings.device, str(os.getpid())]
        with theirs:
            process = subprocess.Popen(
                command, pass_fds=(theirs.fileno(), arena.fd), stdin=subprocess.DEVNULL, start_new_session=True
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        worker = cls(process, reader, writer)
        try:
            worker.facts = await asyncio.wait_for(worker.receive(), settings.worker_start_timeout_s)
            if "error" in worker.facts:
                raise Gone(worker.facts["error"])
        except BaseException:
            worker.kill()
            raise
        return worker

    async def receive(self) -> dict[str, Any]:
        """The next message."""
        try:
            (length,) = LENGTH.unpack(await self.reader.readexactly(LENGTH.size))
            message: dict[str, Any] = msgspec.msgpack.decode(await self.reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Gone from error
        return message

    async def run(self, message: dict[str, Any]) -> dict[str, Any]:
        """Have one job computed.

        Raises:
            Gone: the worker died meanwhile.
        """
        data = msgspec.msgpack.encode(message)
        try:
            self.writer.write(LENGTH.pack(len(data)) + data)
            await self.writer.drain()
        except ConnectionError as error:
            raise Gone from error
        return await self.receive()

    def kill(self) -> None:
        """End the program and the compiler it may be running, at once."""
        self.writer.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    async def stop(self, timeout_s: float) -> None:
        """Close the socket, which a worker takes as the word to end; kill it if it does not."""
        self.writer.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self.process.wait, timeout_s)
        if self.process.poll() is None:
            self.kill()


class Pool:
    """Keeps one worker alive and feeds it from the queue."""

    def __init__(self, settings: Settings, arena: Arena, queue: Queue) -> None:
        self.settings, self.arena, self.queue = settings, arena, queue
        self.worker: Worker | None = None
        self.restarts = 0
        self.failed_starts = 0
        self.last_failure: str | None = None
        self.running: Job | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a worker is up."""
        return self.worker is not None and self.worker.process.poll() is None

    @property
    def facts(self) -> dict[str, Any]:
        """What the worker said of itself: device, its name, threads."""
        return self.worker.facts if self.worker else {}

    def begin(self) -> None:
        """Start working; returns at once."""
        self.task = asyncio.create_task(self._work(), name="farfield pool")

    async def end(self) -> None:
        """Stop the worker. HTTP requests were given `drain_s` before: nobody waits for a job that still runs."""
        is_busy = self.running is not None
        if self.task:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
        if self.worker:
            await self.worker.stop(timeout_s=0.0 if is_busy else 2.0)

    def check(self) -> None:
        """Pass if a request would be computed, now or when the worker is up.

        Raises:
            NoWorker: the worker program did not start when it was last tried.
        """
        if self.last_failure:
            raise NoWorker(f"no worker is up: {self.last_failure}")

    async def _work(self) -> None:
        while True:
            await self._started()
            self.running = await self.queue.get()
            try:
                await self._run(self.running)
            finally:
                self.running = None

    async def _started(self) -> Worker:
        while self.worker is None or self.worker.process.poll() is not None:
            if self.worker is not None:
                self._lost("it ended while idle")
            await asyncio.sleep(RESTART_PAUSE_S[min(self.failed_starts, len(RESTART_PAUSE_S) - 1)])
            try:
                self.worker = await Worker.start(self.settings, self.arena)
                self.failed_starts, self.last_failure = 0, None
                log.info("worker %d is up: %s", self.worker.process.pid, self.worker.facts)
            except (Gone, TimeoutError, OSError) as error:
                self.failed_starts += 1
                reason = str(error) or f"{type(error).__name__}, its log has the rest"
                self.last_failure = f"the worker did not start: {reason}"
                log.error("%s", self.last_failure)
                self._refuse_waiting()
        return self.worker

    def _refuse_waiting(self) -> None:
        """Nobody waits for a worker that does not start."""
        try:
            self.check()
        except NoWorker as error:
            for job in [*self.queue.drain(), *([self.running] if self.running else [])]:
                self._fail(job, error)

    def _lost(self, reason: str) -> None:
        assert self.worker is not None
        log.error("worker %d is lost: %s", self.worker.process.pid, reason)
        self.worker.kill()
        self.worker = None
        self.restarts += 1

    async def _run(self, job: Job) -> None:
        """Run one job, on a new worker if the first one dies under it."""
        timeout_s = self.settings.job_timeout_s
        while True:
            worker = await self._started()
            if job.done.done():  # refused or left meanwhile
                job.release()
                return
            job.started_at = time.perf_counter()
            job.attempts += 1
            try:
                async with asyncio.timeout(timeout_s):
                    reply = await worker.run(job.message)
                self._finish(job, reply)
                return
            except TimeoutError:
                self._lost(f"a request ran longer than {timeout_s:g} s")
                self._fail(job, JobTimeout(f"the request ran longer than this server's {timeout_s:g} s"))
                return
            except (Gone, msgspec.DecodeError):
                self._lost("it died while a request ran")
                if job.attempts == MAX_ATTEMPTS:
                    self._fail(job, WorkerDied(f"the worker died {MAX_ATTEMPTS} times under this request"))
                    return

    @staticmethod
    def _finish(job: Job, reply: dict[str, Any]) -> None:
        if job.done.done():
            job.release()  # nobody waits any more
        else:
            job.done.set_result(reply)

    @staticmethod
    def _fail(job: Job, error: ServiceError) -> None:
        if job.done.done():
            job.release()
        else:
            job.done.set_exception(error)
