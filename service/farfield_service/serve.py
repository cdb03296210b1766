"""Settings -> a running server: bind, start, say where, and stop cleanly on SIGTERM."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import uvicorn

from .app import create_app
from .connections import Connections
from .protocol import HttpConnection, missing
from .settings import Settings

log = logging.getLogger("farfield.serve")


class StartError(Exception):
    """The server cannot start as asked; the message says what to do."""


def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; 0 after a clean stop.

    Raises:
        StartError: the address cannot be taken, or may not be without tokens.
    """
    if not settings.is_local() and not settings.token_list():
        raise StartError(
            f"listening on {settings.host} lets others in and no tokens are set: set FARFIELD_TOKENS to one or "
            "more secrets, comma separated (python -c 'import secrets; print(secrets.token_urlsafe(32))' makes "
            "one), or listen on 127.0.0.1"
        )
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for path in (settings.tls_certificate, settings.tls_key):
        if path and not os.access(path, os.R_OK):
            raise StartError(f"{path} cannot be read: it should be a PEM file")
    with _bound(settings) as (listener, url):
        config = uvicorn.Config(
            create_app(settings),
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
            timeout_graceful_shutdown=int(settings.drain_s) + 1,
        )
        print(f"Farfield is listening on {url}", flush=True)
        return _Server(config).start([listener])


def _protocol(settings: Settings) -> Any:
    """What uvicorn takes for its `http=`: our protocol, or its own where that lacks something that ours needs."""
    if settings.fast_bodies and not (lacking := missing()):
        return functools.partial(HttpConnection, connections=Connections(settings))
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
    """uvicorn, without dying of the signal that stopped it: a clean stop ends with 0."""

    def start(self, sockets: list[socket.socket]) -> int:
        self.run(sockets)
        return 0 if self.started else 1

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
        if self.should_exit:  # asked twice
            print("Farfield stops at once", file=sys.stderr, flush=True)
            os._exit(1)
        self.should_exit = True
