"""The verifier's listener on a port, in a thread with the event loop that it has in production.

The tests that ask it are not asynchronous: they write bytes to a socket and read what comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

import uvloop
from msgspec import Struct

from keyledger.clock import SystemClock
from keyledger.token import Secret
from services.verifier.app import Service
from services.verifier.listener.bounds import Bounds
from services.verifier.listener.listener import Listener
from tests.support.followed_log import key_created, key_id
from tests.support.verifying import World

T = TypeVar("T")
PATIENCE = 10.0
"""Seconds after which a client that hears nothing gives up."""


class Listening:
    """A listener on a world with key 1, which has the scope `read`."""

    def __init__(
        self,
        *,
        world: World | None = None,
        bounds: Bounds | None = None,
        token: Secret | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.world = world or World(limit=10**8)
        self.world.add(key_id(1), key_created(1, scopes=("read",)))
        self.service = Service(self.world.verifier, self.world.clock, token=token)
        clock = SystemClock()
        self._listener = Listener(
            self.service.endpoints, self.service.documented, clock, bounds=bounds, tls=tls
        )
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            bound = probe.dup()
        self.port: int = bound.getsockname()[1]
        self.run(self._begin(bound))

    async def _begin(self, bound: socket.socket) -> None:
        await self.world.caught_up()
        await self._listener.open([bound])

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do this in the listener's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    @property
    def connections(self) -> int:
        """How many the listener has."""
        return self._listener.connections

    def leave(self) -> None:
        """Every answer is its connection's last."""
        self._loop.call_soon_threadsafe(self._listener.leave)

    def stop(self, *, grace: float = 0.0) -> None:
        """Close the listener."""
        self.run(self.end(grace=grace))

    async def end(self, *, grace: float = 0.0) -> None:
        """As `stop`, for who is in the listener's loop."""
        await self._listener.close(grace=grace)

    def close(self) -> None:
        """Close everything."""
        self.stop()
        self.run(_end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def listening(**how: Any) -> Generator[Listening]:
    """A listener for the length of the block."""
    made = Listening(**how)
    try:
        yield made
    finally:
        made.close()


class Heard(Struct, frozen=True):
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


class Client:
    """A socket, and answers read from it by nothing but their own framing."""

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None, room: int | None = None) -> None:
        """`room`: so many bytes are received that were not read."""
        raw = socket.socket()
        raw.settimeout(PATIENCE)
        if room is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        try:
            raw.connect(("127.0.0.1", port))
        except OSError:
            raw.close()
            raise
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket: socket.socket = raw if tls is None else tls.wrap_socket(raw, server_hostname="localhost")
        self._read = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes, *, size: int | None = None) -> None:
        """Send it, in pieces of `size` bytes; one who has hung up is no failure here."""
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(data), size or len(data) or 1):
                self.socket.sendall(data[at : at + (size or len(data))])

    def done(self) -> None:
        """Send no more; what is answered can still be read."""
        self.socket.shutdown(socket.SHUT_WR)

    def answer(self, *, head: bool = False) -> Heard | None:
        """The next answer, or None when the connection has ended; of HEAD it has no body."""
        block = self._until(b"\r\n\r\n")
        if block is None:
            return None
        line, *lines = block.decode("latin-1").split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        pairs = [each.split(": ", 1) for each in lines]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), lines
        if status == "100":
            return Heard(100, headers)
        length = 0 if head else int(headers["content-length"])
        while len(self._read) < length:
            assert self._more(), "the answer is not whole"
        body, self._read = self._read[:length], self._read[length:]
        return Heard(int(status), headers, body)

    def answers(self) -> list[Heard]:
        """Every answer until the server ends the connection."""
        heard: list[Heard] = []
        while (each := self.answer()) is not None:
            heard.append(each)
        return heard

    def ended(self) -> bool:
        """Whether the server has ended the connection, without another byte."""
        return not self._read and not self._more()

    def _until(self, mark: bytes) -> bytes | None:
        while mark not in self._read:
            if not self._more():
                assert not self._read, f"half of an answer: {self._read!r}"
                return None
        found, _, self._read = self._read.partition(mark)
        return found

    def _more(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self._read += data
        return bool(data)
