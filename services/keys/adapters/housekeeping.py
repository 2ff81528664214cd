"""What the key service does by itself: forget old answers, begin a new epoch when Postgres went back."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from keyledger.clock import Clock
from keyledger.server.postgres import AWAY, Pool
from keyledger.server.relay import Regression

_FORGET_EVERY = 60.0
_log = structlog.get_logger("keyledger.keys")


class Housekeeping:
    """Works on the pool, beside the requests."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def begin_epoch(self, regression: Regression) -> None:
        """A new epoch, once, unless the log's own head now contradicts the regression."""
        async with self._pool.acquire(timeout=2) as connection:
            row = await connection.fetchrow(
                "SELECT * FROM ledger.begin_epoch($1, $2)", regression.head.epoch.line, self._clock.now()
            )
        _log.error(
            "epoch_begun",
            why="the stream holds what the log does not: Postgres went back in time",
            stream=regression.stream,
            epoch=None if row is None else row["epoch_number"],
            position=regression.head.position,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Forget answers whose day is over, until `stop` is set."""
        while not stop.is_set():
            with contextlib.suppress(*AWAY):
                async with self._pool.acquire(timeout=2) as connection:
                    await connection.execute("SELECT ledger.forget_answers($1)", self._clock.now())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FORGET_EVERY):
                    await stop.wait()
