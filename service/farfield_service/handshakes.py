"""A listening socket -> TLS connections: no more handshakes at once than there may be connections, none for long.

uvicorn counts and times a connection only once its handshake is over.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from .connections import Places
from .errors import ServerBusy
from .settings import Settings

EXHAUSTED_S = 0.5  # after which a socket is accepted again where there was no descriptor for one

log = logging.getLogger("farfield.handshakes")


class Handshakes:
    """Those that are under way on one server.

    Args:
        settings: how many there may be, and how long one may take.
        context: of TLS.
        protocol: makes what a connection is given to.
    """

    def __init__(
        self, settings: Settings, context: ssl.SSLContext, protocol: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        self.timeout_s, self.context, self.protocol = settings.head_timeout_s, context, protocol
        self.places = Places(settings)
        self.under_way: set[asyncio.Task[None]] = set()

    async def accept(self, listener: socket.socket) -> None:
        """Take connections until this is cancelled, which ends what is under way."""
        listener.setblocking(False)
        try:
            while True:
                await self._accept_one(listener)
        finally:
            for task in self.under_way:
                task.cancel()

    async def _accept_one(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection, peer = await loop.sock_accept(listener)
        except ConnectionError:  # it was gone again
            return
        except OSError as error:
            log.warning("no connection is accepted for %g s: %s", EXHAUSTED_S, error)
            await asyncio.sleep(EXHAUSTED_S)
            return
        address = str(peer[0]) if isinstance(peer, tuple) else None
        try:
            self.places.take(address)
        except ServerBusy as error:
            log.info("a connection is closed before its handshake: %s", error.message)
            connection.close()
            return
        task = loop.create_task(self._greet(connection, address))
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)

    async def _greet(self, connection: socket.socket, address: str | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            with suppress(OSError):  # of which an ssl.SSLError is one: it did not come, or not in time
                await loop.connect_accepted_socket(
                    self.protocol, connection, ssl=self.context, ssl_handshake_timeout=self.timeout_s
                )
        finally:
            self.places.free(address)
