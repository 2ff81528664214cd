"""How long the oldest transaction has been open: one that is forgotten holds up writers and the vacuum."""

from __future__ import annotations

import asyncio
import contextlib

import asyncpg
import structlog

from keyledger.clock import Clock
from keyledger.server.postgres import AWAY, Pool, fetch

LOOK_EVERY = 2.0
SAY_EVERY = 60.0
UNSEEN = float("nan")
_OLDEST = "SELECT kind, name, pid, seconds, sees_all FROM ledger.oldest_transaction()"
_log = structlog.get_logger("keyledger.keys")


class OldestTransaction:
    """Looks at Postgres every two seconds; what it holds is as of the last look that succeeded.

    Prepared transactions count too, and replication slots that hold rows for a reader who left.
    """

    def __init__(self, pool: Pool, clock: Clock, *, longest: float) -> None:
        """One that is open for more than `longest` seconds is late, and logged once a minute."""
        self.seconds = 0.0
        """0 when none is open; not a number while others' transactions may not be seen."""
        self._pool = pool
        self._clock = clock
        self._longest = longest
        self._said_at: float | None = None
        self._blind = False

    @property
    def late(self) -> bool:
        """Whether it should have ended by now."""
        return self.seconds > self._longest

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop` is set; whatever Postgres says, no error ends it."""
        while not stop.is_set():
            with contextlib.suppress(*AWAY, asyncpg.PostgresError):
                await self.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    await stop.wait()

    async def look(self) -> None:
        """Look once; raises one of `AWAY`, or what else Postgres says."""
        (oldest,) = await fetch(self._pool, _OLDEST)
        if not oldest["sees_all"]:
            self.seconds = UNSEEN
            if not self._blind:
                _log.warning("transactions_unseen", why="pg_read_all_stats is not granted to keyledger_owner")
            self._blind = True
            return
        self._blind = False
        self.seconds = max(0.0, oldest["seconds"] or 0.0)
        now = self._clock.steady()
        if not self.late:
            self._said_at = None
        elif self._said_at is None or now - self._said_at >= SAY_EVERY:
            self._said_at = now
            _log.warning(
                "transaction_open",
                type=oldest["kind"],
                name=oldest["name"],
                pid=oldest["pid"],
                seconds=round(self.seconds, 1),
            )
