"""The bus over NATS: core messaging by nats-py, kept behind our own port.

A nats-py client serves one connection here and is never asked to reconnect: `NatsBus` opens a new one
instead, subscribes everything again and only then says that it is connected. One mechanism so covers a
broker that is away at the start, one that comes back, and a client that has silently stopped working.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
from collections.abc import Callable, Mapping
from typing import Self
from urllib.parse import urlsplit

from nats import errors

from keyledger.verification.bus_link import Link, Subscription, words
from keyledger.verification.ports import BusUnavailable, Handler, Message

OPEN_TIMEOUT = 2.0
LONGEST_PAUSE = 1.0
CLOSE_TIMEOUT = 5.0
_SUBJECT = re.compile(r"(?:(?:\*|[^\s.*>]+)\.)*(?:\*|>|[^\s.*>]+)")
_QUEUE = re.compile(r"[^\s*>]*")

_log = logging.getLogger(__name__)


class NatsBus:
    """`Bus` over core NATS, from `open` on. It reconnects for as long as it is not closed.

    A subscription that returned while connected is known to the broker: what is published from then on
    arrives, or `on_disturbance` is called.
    """

    def __init__(self, url: str, *, name: str, inbox_prefix: str) -> None:
        """`ValueError` when `url` is no NATS URL; it may name several servers of one cluster, with commas."""
        self._servers = [_checked(server) for server in url.split(",")]
        self._name = name
        self._inbox_prefix = inbox_prefix
        self._subscriptions: list[Subscription] = []
        self._callbacks: list[Callable[[str], None]] = []
        self._link: Link | None = None
        self._opened = asyncio.Event()
        self._trouble = ""
        self._keeper: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls, url: str, *, name: str, inbox_prefix: str = "_INBOX", connect_timeout: float = 2.0
    ) -> Self:
        """A bus that was made and opened."""
        bus = cls(url, name=name, inbox_prefix=inbox_prefix)
        await bus.open(connect_timeout)
        return bus

    async def open(self, connect_timeout: float = 2.0) -> None:
        """Connect, or keep trying when `connect_timeout` seconds were not enough; once."""
        self._keeper = asyncio.create_task(self._keep_open(), name=f"bus {self._name}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(connect_timeout):
                await self._opened.wait()

    def __repr__(self) -> str:
        """Without the URL, which may hold a password."""
        return f"<NatsBus {self._name} {'connected' if self.connected else 'not connected'}>"

    @property
    def connected(self) -> bool:
        return self._link is not None and self._link.usable

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> None:
        if self._closing:
            raise BusUnavailable("the bus is closed")
        # one bad name would keep every later connection from opening
        if not _SUBJECT.fullmatch(subject) or not _QUEUE.fullmatch(queue):
            raise ValueError(f"no subject or queue: {subject!r} {queue!r}")
        subscription = Subscription(subject, queue, handler, self._disturbed)
        self._subscriptions.append(subscription)
        if link := self._link:
            try:
                await link.attach([subscription])
            except (errors.Error, OSError, TimeoutError) as error:
                # whoever opens the next connection attaches it there
                link.fail(f"subscribing failed: {words(error)}")

    async def publish(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        await self._usable().send(subject, body, headers)

    async def request(
        self, subject: str, body: bytes, *, timeout: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        return await self._usable().request(subject, body, headers, timeout)

    async def request_all(
        self,
        subject: str,
        body: bytes,
        *,
        timeout: float,
        more: float,
        enough: Callable[[Message], bool],
    ) -> list[Message]:
        return await self._usable().request_all(subject, body, timeout, more, enough)

    async def reopen(self, why: str) -> None:
        if link := self._link:
            link.fail(why)

    def on_disturbance(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    async def close(self) -> None:
        """As `Bus.close`; what has arrived has `CLOSE_TIMEOUT` seconds to be handled."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"closing bus {self._name}")
        # a caller who is cancelled does not leave it half closed
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        link = self._link
        if link:
            await link.stop_incoming()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                for subscription in self._subscriptions:
                    await subscription.idle.wait()
        await asyncio.gather(*(subscription.stop() for subscription in self._subscriptions))
        self._link = None
        if link:
            await link.close("the bus is closed", flush=True)

    def _usable(self) -> Link:
        link = self._link
        if link is None or not link.usable:
            raise BusUnavailable("not connected to the broker")
        return link

    async def _keep_open(self) -> None:
        """Hold one connection after another until cancelled."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            link = Link(self._inbox_prefix)
            try:
                await self._open(link)
                opened = loop.time()
                await link.over()
                # a connection that ends at once, again and again, is no reason to hurry
                failures = 0 if loop.time() - opened > LONGEST_PAUSE else failures + 1
                self._say(f"lost the connection: {link.why}")
                self._disturbed("the connection was lost")
            except Exception as error:  # whatever it was, without this task there is no connection ever again
                failures += 1
                self._say(f"cannot connect: {words(error)}")
            finally:
                # one that is in use while the bus closes is closed by `_close`, after its last words
                if link is not self._link or not self._closing:
                    self._link = None
                    await link.close("the connection was lost")
            # many processes lose one broker at the same instant: they must not return at the same one
            pause = min(LONGEST_PAUSE, 0.02 * 2 ** min(failures, 10))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (spread, not secrecy)

    async def _open(self, link: Link) -> None:
        """Connect `link`, attach every subscription, and only then let it be used."""
        async with asyncio.timeout(OPEN_TIMEOUT):
            await link.connect(self._servers, self._name, self._disturbed)
            # subscriptions may be added meanwhile; between the last look and the next line nothing runs
            while missing := [each for each in self._subscriptions if each.link is not link]:
                await link.attach(missing)
        if link.lost.is_set():
            raise ConnectionError(link.why)
        self._link = link
        self._opened.set()
        self._say("connected")
        self._disturbed("connected")

    def _say(self, trouble: str) -> None:
        """Log a change of state once, however often it is found again."""
        if trouble != self._trouble:
            self._trouble = trouble
            level = logging.INFO if trouble == "connected" else logging.WARNING
            _log.log(level, "bus %s: %s", self._name, trouble)

    def _disturbed(self, why: str) -> None:
        for callback in tuple(self._callbacks):
            try:
                callback(why)
            except Exception as error:
                _log.error("a disturbance callback failed: %s", words(error))


def _checked(server: str) -> str:
    """One server's URL; the message of the `ValueError` leaves the URL out, for it may hold a password."""
    try:
        parts = urlsplit(server if "://" in server else f"nats://{server}")
        sound = parts.scheme in {"nats", "tls"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise ValueError("a NATS URL is nats://[user:password@]host[:port]") from None
    return server.strip()
