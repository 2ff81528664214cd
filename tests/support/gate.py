"""A way to a server that a test can shut, so that the server seems to be away or to hang."""

import asyncio
from typing import Self
from urllib.parse import urlsplit


class Gate:
    """A way to a server that can be shut: connections are then cut, or held without an answer."""

    def __init__(self, target: str) -> None:
        self.lead_to(target)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._answering = asyncio.Event()
        self.port = 0
        self.accepted = 0
        """How many connections have come."""

    def lead_to(self, target: str) -> None:
        """Where connections go that come from now on."""
        parts = urlsplit(target)
        self._target = parts.hostname or "127.0.0.1", parts.port or 5432

    def heard(self, connection: int, part: bytes) -> None:
        """Called with what a client has sent over its connection (1 is the first), before it goes on."""

    async def __aenter__(self) -> Self:
        self.thaw()
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.thaw()
        await self.cut()

    async def open(self) -> None:
        """Let connections through; after the first time at the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Refuse new connections and break those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.drop()

    def drop(self) -> None:
        """Break the connections that are open; others may come."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def freeze(self, *, only_answers: bool = False, only_sent: bool = False) -> None:
        """Let nothing pass: what is sent, and whoever connects, waits.

        Or hold back only what comes back (`only_answers`), or only what is sent (`only_sent`).
        """
        if not only_sent:
            self._answering.clear()
        if not only_answers:
            self._flowing.clear()

    def thaw(self) -> None:
        """Let everything pass again, what has waited first."""
        self._flowing.set()
        self._answering.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:  # it was cut while this connection came
            writer.transport.abort()
            return
        self.accepted += 1
        connection = self.accepted
        ends = {writer}
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection(*self._target)
            ends.add(back)
            self._writers.add(back)
            if not writer.transport.is_closing():  # it was cut while the way was made
                await asyncio.gather(
                    self._pump(reader, back, self._flowing, connection),
                    self._pump(there, writer, self._answering),
                )
        except OSError:
            pass
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        flowing: asyncio.Event,
        heard_on: int | None = None,
    ) -> None:
        try:
            while part := await reader.read(65536):
                if heard_on is not None:
                    self.heard(heard_on, part)
                await flowing.wait()
                writer.write(part)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()
