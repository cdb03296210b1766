"""Settings -> a running server: bind, start, say where, and stop cleanly on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from .app import create_app
from .connections import Connections
from .keys import KeysError, open_keys
from .logs import configure
from .protocol import HttpConnection, missing
from .routes.compute import OPS
from .settings import Settings

LAST_WORDS_S = 2  # for answers that are being sent when `drain_s` is over

log = logging.getLogger("farfield.serve")


class StartError(Exception):
    """The server cannot start as asked; the message says what to do."""


def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; 0 after a clean stop.

    Raises:
        StartError: the address cannot be taken, or may not be without keys.
    """
    try:
        open_keys(settings)
    except KeysError as error:
        raise StartError(str(error)) from None
    configure(settings.log_format, settings.log_level)
    for path in (settings.tls_certificate, settings.tls_key):
        if path and not os.access(path, os.R_OK):
            raise StartError(f"{path} cannot be read: it should be a PEM file")
    with _bound(settings) as (listener, url):
        app = create_app(settings)
        config = uvicorn.Config(
            app,
            http=_protocol(settings),
            ws="none",
            proxy_headers=False,
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
            log_config=None,
            log_level=settings.log_level,
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_keep_alive=int(settings.keep_alive_s),
            timeout_graceful_shutdown=LAST_WORDS_S,
        )
        return _Server(config, app, settings, url).start([listener])


def _protocol(settings: Settings) -> Any:
    """What uvicorn takes for its `http=`: our protocol, or its own where that lacks something that ours needs."""
    if settings.fast_bodies and not (lacking := missing()):
        return functools.partial(HttpConnection, connections=Connections(settings, OPS))
    why = f"this uvicorn or httptools lacks {lacking}" if settings.fast_bodies else "fast_bodies is off"
    log.warning("bodies are not received straight into shared memory, and heads have no time limit: %s", why)
    return "httptools"


@contextlib.contextmanager
def _bound(settings: Settings) -> Iterator[tuple[socket.socket, str]]:
    """The listening socket and the URL that reaches it."""
    if settings.uds is not None:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.stat(settings.uds).st_mode):
                raise StartError(f"{settings.uds} exists and is not a socket")
            if _is_alive(settings.uds):
                raise StartError(f"another server listens on {settings.uds}")
            os.unlink(settings.uds)
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(settings.uds)
        except OSError as error:
            raise StartError(f"cannot listen on {settings.uds}: {error.strerror}") from None
        url = f"http+unix://{settings.uds}"
    else:
        try:
            family, _, _, _, address = socket.getaddrinfo(
                settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StartError(f"cannot listen on {settings.host}:{settings.port}: {reason}") from None
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        scheme = "https" if settings.tls_certificate else "http"
        url = f"{scheme}://{host}:{listener.getsockname()[1]}"
    listener.listen(1024)
    try:
        yield listener, url
    finally:
        listener.close()
        if settings.uds is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(settings.uds)


def _is_alive(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(path) == 0


class _Server(uvicorn.Server):
    """uvicorn, stopping as `State.drain` does, and without dying of the signal: a clean stop ends with 0."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, settings: Settings, url: str) -> None:
        super().__init__(config)
        self.app, self.settings, self.url = app, settings, url
        self.loop: asyncio.AbstractEventLoop | None = None
        self.draining: asyncio.Task[None] | None = None
        self.is_stopping = False

    def start(self, sockets: list[socket.socket]) -> int:
        self.run(sockets)
        return 0 if self.started else 1

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            connections = self.server_state.connections
            watch = self.app.state.farfield.metrics.watch
            watch("farfield_open_connections", "Connections that are open", lambda: len(connections))
        print(f"Farfield is listening on {self.url}", flush=True)  # from here on, signals are taken

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.is_stopping:  # asked twice
            log.warning("Farfield stops at once")
            os._exit(1)
        self.is_stopping = True
        if self.loop is None or not self.started:
            self.should_exit = True
        else:
            grace_s = 0.0 if number == signal.SIGINT else self.settings.grace_s
            self.loop.call_soon_threadsafe(self._drain, grace_s)

    def _drain(self, grace_s: float) -> None:
        self.draining = asyncio.create_task(self._leave(grace_s), name="farfield drain")

    async def _leave(self, grace_s: float) -> None:
        latest = time.monotonic() + grace_s + self.settings.drain_s
        try:
            await self.app.state.farfield.drain(grace_s)
        finally:
            left_s = max(0.0, latest - time.monotonic())  # for answers that are being read
            self.config.timeout_graceful_shutdown = LAST_WORDS_S + int(left_s)
            self.should_exit = True
