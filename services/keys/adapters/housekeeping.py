"""What the key service does by itself: forget old answers."""

from __future__ import annotations

import asyncio
import contextlib

from keyledger.clock import Clock
from keyledger.server.postgres import AWAY, Pool

_FORGET_EVERY = 60.0


class Housekeeping:
    """Works on the pool, beside the requests."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Forget answers whose day is over, until `stop` is set."""
        while not stop.is_set():
            with contextlib.suppress(*AWAY):
                async with self._pool.acquire(timeout=2) as connection:
                    await connection.execute("SELECT ledger.forget_answers($1)", self._clock.now())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FORGET_EVERY):
                    await stop.wait()
