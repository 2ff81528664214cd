"""The counters built anew from the use log beside those in use, and swapped in while the service folds.

The position is rebuilt with the counters and changes place with them, in one transaction: a fold that waits
meanwhile finds another position than it believes in, and looks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import asyncpg
from msgspec import Struct

from keyledger.clock import Clock
from keyledger.events import Epoch
from keyledger.server.postgres import CONNECT_TIMEOUT
from keyledger.wire import RecordedUses
from services.usage.adapters.postgres import ADD, COUNTERS, TOUCH, bucket_columns, last_used_columns
from services.usage.domain.period import SIZES
from services.usage.domain.tally import tally

TABLES = ("progress", *COUNTERS)
"""In the order in which they are locked: a fold begins with its position."""
BATCHES = 500
LITTLE = 50
"""So many batches are few enough to be folded while nobody can read."""
SWAP_TRIES = 20
LONGEST_STATEMENT = 300.0
"""Seconds; the check at the end counts the whole use log again."""
_LOCK = 0x6B657975
_ERASED = "SELECT workspace_id FROM ledger.erasure"
_COUNTED = """
    SELECT workspace_id, minute - minute % $2 AS bucket, key_id, environment, outcome,
           sum(count)::bigint AS count, sum(cost)::bigint AS cost
      FROM ledger.use_record WHERE position <= $1 GROUP BY 1, 2, 3, 4, 5
"""
_LAST = """
    SELECT workspace_id, key_id, max(last_at) AS last_at
      FROM ledger.use_record WHERE position <= $1 GROUP BY 1, 2
"""
# Rows that only one side has, those of deleted workspaces aside: they go, on either side, whenever they go.
_DIFFERING = """
    SELECT count(*) FROM (
        (SELECT * FROM ({expected}) e EXCEPT ALL SELECT {columns} FROM usage.{table})
        UNION ALL (SELECT {columns} FROM usage.{table} EXCEPT ALL SELECT * FROM ({expected}) e)) differing
     WHERE workspace_id NOT IN (SELECT workspace_id FROM ledger.erasure)
"""
_BUCKET_COLUMNS = "workspace_id, bucket, key_id, environment, outcome, count, cost"


class UseLog(Protocol):
    """The use log, read to its head."""

    async def batches(self, after: int, limit: int) -> Sequence[RecordedUses]:
        """Batches after a position, oldest first."""
        ...


class UsageRebuildRuns(Exception):
    """Another rebuild of the counters is at work in this database."""


class NoQuiet(Exception):
    """The tables were never free for the swap; nothing was changed."""


class Rebuilt(Struct, frozen=True):
    """What a rebuild came to; `held_ms` is how long folds and reads had to wait."""

    position: int
    uses: int
    held_ms: float


class UsageRebuild:
    """One rebuild, on a connection that acts as the owner."""

    def __init__(self, connection: Any, log: UseLog, clock: Clock) -> None:
        self._connection = connection
        self._log = log
        self._clock = clock
        self._position = 0
        self._uses = 0
        self._erased: set[str] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str, log: UseLog, clock: Clock) -> AsyncGenerator[UsageRebuild]:
        """New and empty tables beside, gone afterwards unless they were swapped in."""
        connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT, command_timeout=LONGEST_STATEMENT)
        try:
            await connection.execute("SET ROLE keyledger_owner")
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
                raise UsageRebuildRuns
            for table in TABLES:
                await connection.execute(
                    "SELECT usage.make_beside($1::text::regclass, $2)", f"usage.{table}", f"{table}_beside"
                )
            try:
                yield cls(connection, log, clock)
            finally:
                for table in TABLES:
                    await connection.execute(f"DROP TABLE IF EXISTS usage.{table}_beside")
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT)

    async def run(self, epoch: Callable[[], Awaitable[Epoch]], tell: Callable[[int], None]) -> Rebuilt:
        """Fold the whole log and swap; `NoQuiet` when the tables are never free.

        `epoch` answers the epoch of the log as it is then; `tell` hears now and then how many batches are
        folded.
        """
        while await self._page() > LITTLE:
            tell(self._position)
        for attempt in range(1, SWAP_TRIES + 1):
            kept = self._position, self._uses, set(self._erased)
            try:
                return await self._swap(epoch)
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                self._position, self._uses, self._erased = kept
                # spread, not secrecy
                await asyncio.sleep(min(1.0, 0.02 * 2**attempt) * random.uniform(0.5, 1.0))  # noqa: S311
                while await self._page() > LITTLE:
                    tell(self._position)
        raise NoQuiet

    async def differing(self) -> dict[str, int]:
        """How many rows of each table are not what the use log adds up to, counted by the database itself."""
        found: dict[str, int] = {}
        async with self._connection.transaction(isolation="repeatable_read"):
            position = await self._connection.fetchval(
                "SELECT position FROM usage.progress ORDER BY epoch_number DESC LIMIT 1"
            )
            for granularity, size in SIZES.items():
                table = f"use_{granularity}"
                statement = _DIFFERING.format(expected=_COUNTED, columns=_BUCKET_COLUMNS, table=table)
                found[table] = await self._connection.fetchval(statement, position or 0, size)
            last = _DIFFERING.format(
                expected=_LAST, columns="workspace_id, key_id, last_at", table="key_last_used"
            )
            found["key_last_used"] = await self._connection.fetchval(last, position or 0)
        return found

    async def drop_before(self) -> None:
        """Let go of the tables that were in use before."""
        for table in TABLES:
            await self._connection.execute(f"DROP TABLE IF EXISTS usage.{table}_before")

    async def _page(self) -> int:
        """Fold the next batches into the tables beside; how many they were."""
        batches = await self._log.batches(self._position, BATCHES)
        if not batches:
            return 0
        self._erased |= {workspace for batch in batches for workspace in getattr(batch, "erased", ())}
        uses = [use for batch in batches for use in batch.uses if use.workspace_id not in self._erased]
        added = tally(uses)
        async with self._connection.transaction():
            for granularity in SIZES:
                statement = ADD.format(granularity=f"{granularity}_beside")
                await self._connection.execute(statement, *bucket_columns(added, granularity))
            await self._connection.execute(TOUCH.format(beside="_beside"), *last_used_columns(added))
        self._position = batches[-1].position
        self._uses += len(uses)
        return len(batches)

    async def _swap(self, epoch_now: Callable[[], Awaitable[Epoch]]) -> Rebuilt:
        began = self._clock.steady()
        async with self._connection.transaction():
            # whoever cannot have its lock at once gives way, and never holds others up for longer
            await self._connection.execute("SET LOCAL lock_timeout = '500ms'")
            names = ", ".join(f"usage.{table}" for table in TABLES)
            await self._connection.execute(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
            while await self._page():
                pass
            # now that nobody can begin another line in the table that goes
            epoch = await epoch_now()
            erased = self._erased | {row[0] for row in await self._connection.fetch(_ERASED)}
            for table in COUNTERS:
                await self._connection.execute(
                    f"DELETE FROM usage.{table}_beside WHERE workspace_id = ANY($1::text[])",  # noqa: S608
                    sorted(erased),
                )
            await self._connection.execute(
                "INSERT INTO usage.progress_beside (epoch_line, epoch_number, position) VALUES ($1, $2, $3)",
                epoch.line,
                epoch.number,
                self._position,
            )
            for table in TABLES:
                await self._connection.execute(
                    "SELECT usage.take_place($1::text::regclass, $2::text::regclass)",
                    f"usage.{table}",
                    f"usage.{table}_beside",
                )
        return Rebuilt(self._position, self._uses, (self._clock.steady() - began) * 1000)
