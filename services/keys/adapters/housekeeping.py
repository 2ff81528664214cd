"""What the key service does by itself: forget old answers, and sessions that ended long ago."""

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
        """Forget what nobody can ask about any more, until `stop` is set."""
        while not stop.is_set():
            with contextlib.suppress(*AWAY):
                async with self._pool.acquire(timeout=2) as connection:
                    now = self._clock.now()
                    await connection.execute("SELECT ledger.forget_answers($1)", now)
                    await connection.execute("SELECT ledger.forget_sessions($1)", now)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FORGET_EVERY):
                    await stop.wait()
