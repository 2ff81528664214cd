"""Ticks: each second the log's head on the bus, for followers a hint to repair and nothing more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from keyledger.verification.ports import TICK_SUBJECT, Bus, BusUnavailable
from keyledger.wire import Head

_log = structlog.get_logger("keyledger.ticker")


class Ticker:
    """Publishes what `head` answers on `kl.tick`; a tick that cannot be given is left out."""

    def __init__(self, bus: Bus, head: Callable[[], Awaitable[Head]], *, interval: float = 1.0) -> None:
        """`interval` in seconds, which is also what one head may take."""
        self.ticks = 0
        self._bus = bus
        self._head = head
        self._interval = interval
        self._trouble = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Tick until `stop` is set; no error ends it."""
        while not stop.is_set():
            await self._tick()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await stop.wait()

    async def _tick(self) -> None:
        trouble = ""
        try:
            async with asyncio.timeout(self._interval):
                head = await self._head()
            await self._bus.publish(TICK_SUBJECT, msgspec.msgpack.encode(head))
            self.ticks += 1
        except BusUnavailable:
            trouble = "the bus is away"
        except Exception as error:  # whatever the log's owner may raise, the next second may be better
            trouble = f"no head: {type(error).__name__}"
        if trouble != self._trouble:
            self._trouble = trouble
            _log.warning("the ticker's state", state=trouble or "running")
