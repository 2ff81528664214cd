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
from services.usage.adapters.deriving import KEPT_FROM, LONGEST_STATEMENT, carry, differing
from services.usage.adapters.folding import COUNTERS, REFUSES, add, park
from services.usage.domain.parking import Parked, Unfoldable, check
from services.usage.domain.tally import tally

TABLES = ("progress", *COUNTERS, "parked")
"""In the order in which they are locked: a fold begins with its position.

What is passed over is found anew as well: what could not be counted once may be countable now.
"""
BATCHES = 500
LITTLE = 50
"""So many batches are few enough to be folded while nobody can read."""
SWAP_TRIES = 20
LOCK = 0x6B657975
"""Whoever holds this advisory lock has the log and the counters to itself, but for recording and folding."""
_ERASED = "SELECT workspace_id FROM ledger.erasure"


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
    """What a rebuild came to; `held_ms` is how long folds and reads waited, `parked` are batches left out."""

    position: int
    uses: int
    held_ms: float
    parked: int = 0


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
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
                raise UsageRebuildRuns
            for table in TABLES:
                await connection.execute(
                    "SELECT usage.make_beside($1::text::regclass, $2)", f"usage.{table}", f"{table}_beside"
                )
            try:
                work = cls(connection, log, clock)
                work._position = await carry(connection)
                yield work
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
        return await differing(self._connection)

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
        try:
            self._uses += await self._add(batches)
        except Unfoldable:
            for batch in batches:
                await self._add_or_park(batch)
        self._position = batches[-1].position
        return len(batches)

    async def _add(self, batches: Sequence[RecordedUses]) -> int:
        """Add these in one transaction, and answer how many uses they are; `Unfoldable` as for a fold."""
        check(batches)
        uses = [use for batch in batches for use in batch.uses if use.workspace_id not in self._erased]
        added = tally(uses)
        try:
            async with self._connection.transaction():
                await add(self._connection, added, beside="_beside")
        except REFUSES as error:
            raise Unfoldable(type(error).__name__) from None
        return len(uses)

    async def _add_or_park(self, batch: RecordedUses) -> None:
        try:
            self._uses += await self._add([batch])
        except Unfoldable as error:
            passed_over = Parked(batch.position, len(batch.uses), str(error))
            await park(self._connection, [passed_over], beside="_beside")

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
            for granularity, first in await self._connection.fetch(KEPT_FROM):
                for of in ("use", "all"):
                    await self._connection.execute(
                        f"DELETE FROM usage.{of}_{granularity}_beside WHERE bucket < $1",  # noqa: S608
                        first,
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
            parked = await self._connection.fetchval("SELECT count(*) FROM usage.parked")
        return Rebuilt(self._position, self._uses, (self._clock.steady() - began) * 1000, parked)
