"""Opens the addresses, watches over the connections, and takes its leave of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Sequence

from litestar.types import ASGIApp

from keyledger.clock import Clock
from services.verifier.listener.bounds import Bounds
from services.verifier.listener.connection import Connection, Shared
from services.verifier.routes.hot import Endpoints

BACKLOG = 2048
HANDSHAKE_SECONDS = 10.0
LAST_LOOK = 0.02
"""Seconds between the last connection that is accepted and the first that is let go without a request."""


class Listener:
    """One server on one or more sockets; `open` it, then `leave` (or not), then `close` it."""

    def __init__(
        self,
        endpoints: Endpoints,
        rest: ASGIApp,
        clock: Clock,
        *,
        bounds: Bounds | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`rest` answers every address that is not hot."""
        self._bounds = bounds or Bounds()
        self._shared = Shared(endpoints, rest, self._bounds, clock)
        self._tls = tls
        self._servers: list[asyncio.Server] = []
        self._ticking: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._shared.connections)

    async def open(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections on sockets that are bound; they are closed with the listener."""
        loop = asyncio.get_running_loop()
        for each in sockets:
            self._servers.append(
                await loop.create_server(
                    lambda: Connection(self._shared),
                    sock=each,
                    backlog=BACKLOG,
                    ssl=self._tls,
                    ssl_handshake_timeout=HANDSHAKE_SECONDS if self._tls else None,
                )
            )
        self._ticking = asyncio.create_task(self._tick_on(), name="watch the connections")

    def leave(self) -> None:
        """From now on every answer ends its connection, and says so; new connections are still accepted."""
        self._shared.leaving = True

    async def close(self, *, grace: float) -> None:
        """Accept nothing more, let what is asked be answered within `grace` seconds, end every connection."""
        self.leave()
        self._shared.closing = True
        for server in self._servers:
            server.close()
        # what was sent before this moment is answered, read already or not
        await asyncio.sleep(LAST_LOOK)
        for connection in list(self._shared.connections):
            connection.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._shared.emptied.wait()
        for connection in list(self._shared.connections):
            connection.abort()
        if self._ticking is not None:
            self._ticking.cancel()

    async def _tick_on(self) -> None:
        while True:
            await asyncio.sleep(self._bounds.tick)
            self._shared.tick()
            for connection in list(self._shared.connections):
                if connection.deadline < self._shared.now:
                    connection.expire()
