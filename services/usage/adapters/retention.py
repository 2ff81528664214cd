"""What a policy no longer wants is dropped: buckets of counters in small steps, then whole days of the log.

A day of the log goes only when it is folded to its end, and what it added up to is carried on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from msgspec import Struct

from keyledger.server.postgres import CONNECT_TIMEOUT
from services.usage.adapters.deriving import LONGEST_STATEMENT
from services.usage.adapters.rebuild import LOCK, UsageRebuildRuns
from services.usage.domain.period import SIZES, Granularity
from services.usage.domain.retention import DAY, Cut

PAGES = 2_000
"""Pages of a table that one step goes through: some 16 MB."""
TRIES = 20
_FOLDED = """
    SELECT p.position FROM ledger.log_head h LEFT JOIN usage.progress p ON p.epoch_line = h.epoch_line
"""
_KEPT_FROM = """
    INSERT INTO usage.kept_from AS known (granularity, bucket) VALUES ($1, $2)
    ON CONFLICT (granularity) DO UPDATE SET bucket = greatest(known.bucket, excluded.bucket)
    RETURNING bucket
"""
_PAGES_OF = "SELECT pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint"
_DROP = """
    DELETE FROM usage.{table} WHERE ctid >= format('(%s,0)', $1::bigint)::tid
       AND ctid < format('(%s,0)', $1::bigint + $2::bigint)::tid AND bucket < $3
"""
_DAYS = "SELECT day FROM ledger.use_day WHERE day < $1 ORDER BY day"
_RETIRE = "SELECT ledger.retire_use_day($1, $2)"
# What was passed over is in no counter, and must not be carried on as if it were.
_UNCOUNTED = """
    DELETE FROM ledger.use_record r USING usage.parked p WHERE r.day = $1 AND p.position = r.position
"""
_UNPARK = "DELETE FROM usage.parked WHERE position <= $1"
_NEWEST = "SELECT max(day) FROM ledger.use_day"


class NotFolded(Exception):
    """A day of the log that should go is not counted to its end; it and those after it stay."""


class Busy(Exception):
    """The use log was never free for a day to be dropped; it and those after it stay."""


class Retained(Struct, frozen=True):
    """What went: rows of counters by granularity, and days of the log, since 1970-01-01.

    `parked` are batches that were passed over, and went uncounted with their days.
    """

    counters: dict[Granularity, int]
    days: tuple[int, ...]
    parked: int = 0


class Retention:
    """One run of retention, on a connection that acts as the owner."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._parked = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str) -> AsyncGenerator[Retention]:
        """Nobody else retains or rebuilds meanwhile; `UsageRebuildRuns` when somebody does."""
        connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT, command_timeout=LONGEST_STATEMENT)
        try:
            await connection.execute("SET ROLE keyledger_owner")
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
                raise UsageRebuildRuns
            yield cls(connection)
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT)

    async def run(self, cut: Cut, tell: Callable[[int], None]) -> Retained:
        """Drop what lies before the cut; `tell` hears now and then how many pages were gone through.

        `NotFolded` and `Busy` are raised after everything that could go has gone.
        """
        counters: dict[Granularity, int] = {}
        pages = 0
        for granularity in SIZES:
            before = cut.of(granularity)
            if before is None:
                continue
            # readers are told first, so nobody takes a half of a bucket for the whole
            first = await self._connection.fetchval(_KEPT_FROM, granularity, before)
            counters[granularity] = 0
            for table in (f"use_{granularity}", f"all_{granularity}"):
                async for gone in self._drop(table, first):
                    counters[granularity] += gone
                    pages += PAGES
                    tell(pages)
        await self._connection.execute("SELECT ledger.coarsen_carried($1)", cut.hour)
        days = await self._retire(cut.log_day)
        return Retained(counters, days, self._parked)

    async def _drop(self, table: str, before: int) -> AsyncGenerator[int]:
        last = await self._connection.fetchval(_PAGES_OF, f"usage.{table}")
        for page in range(0, last, PAGES):
            done = await self._connection.execute(_DROP.format(table=table), page, PAGES, before)
            yield int(done.rpartition(" ")[2])

    async def _retire(self, before: int) -> tuple[int, ...]:
        """Drop the days of the log before this one, oldest first; the newest of all stays in any case."""
        newest = await self._connection.fetchval(_NEWEST)
        gone: list[int] = []
        for (day,) in await self._connection.fetch(_DAYS, before):
            if day == newest:
                break
            await self._retire_day(day)
            gone.append(day)
        return tuple(gone)

    async def _retire_day(self, day: int) -> None:
        for attempt in range(1, TRIES + 1):
            folded = await self._connection.fetchval(_FOLDED)
            try:
                async with self._connection.transaction():
                    # whoever cannot have its lock at once gives way, and never holds recorders up for longer
                    await self._connection.execute("SET LOCAL lock_timeout = '300ms'")
                    await self._connection.execute(_UNCOUNTED, day)
                    last = await self._connection.fetchval(_RETIRE, day, folded or 0)
                    unparked = await self._connection.execute(_UNPARK, last)
                self._parked += int(unparked.rpartition(" ")[2])
                return
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                # spread, not secrecy
                await asyncio.sleep(min(2.0, 0.05 * 2**attempt) * random.uniform(0.5, 1.0))  # noqa: S311
            except asyncpg.PostgresError as error:
                if getattr(error, "sqlstate", "") == "KL409":
                    raise NotFolded(f"day {day} of the use log is not counted to its end") from None
                raise
        raise Busy(f"day {day} of the use log was never free")


def start_of(day: int) -> int:
    """The start (µs) of a day that is counted since 1970-01-01."""
    return day * DAY
