"""The counters in Postgres: what a batch adds commits together with how far the log is folded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from keyledger.events import Epoch
from keyledger.server.postgres import AWAY, Pool
from services.usage.adapters.folding import COUNTERS, REFUSES, add, park
from services.usage.adapters.reading import statements
from services.usage.domain.parking import Parked, Unfoldable
from services.usage.domain.series import Mark, Point, Question, Reading
from services.usage.domain.tally import Count, Tally
from services.usage.ports import StoreUnavailable

PING_TIMEOUT = 1.0
ERASED_ROWS = 5000

# Begin a line where the one before it was left, at most at $3. Of two that begin it at once one does.
_BEGIN = """
INSERT INTO usage.progress (epoch_line, epoch_number, position)
VALUES ($1, $2, least($3, coalesce(
    (SELECT position FROM usage.progress WHERE epoch_number < $2 ORDER BY epoch_number DESC LIMIT 1), 0)))
ON CONFLICT (epoch_line) DO NOTHING
"""
# Move on, if the line is folded exactly as far as the caller believes; holds the row until the commit.
_MOVE = "UPDATE usage.progress SET position = $3 WHERE epoch_line = $1 AND position = $2"
# A workspace that is told of again, as after a rebuild, is looked through again.
_ERASED = """
INSERT INTO usage.erasure AS known (workspace_id, position) SELECT told, $2 FROM unnest($1::text[]) AS told
ON CONFLICT (workspace_id) DO UPDATE SET done = false, position = excluded.position
"""
_UNPARK = "DELETE FROM usage.parked WHERE position > $1"
_PARKED = "SELECT count(*) FROM usage.parked"
_TO_ERASE = "SELECT workspace_id FROM usage.erasure WHERE NOT done ORDER BY position LIMIT 1"
_ERASE = """
DELETE FROM usage.{table} WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM usage.{table} WHERE workspace_id = $1 LIMIT $2))
"""
_DONE = "UPDATE usage.erasure SET done = true WHERE workspace_id = $1"
_POSITION = "SELECT position FROM usage.progress WHERE epoch_line = $1"
# How far the newest epoch is folded: the state that a reader sees.
_SEEN = "SELECT position FROM usage.progress ORDER BY epoch_number DESC LIMIT 1"
_LAST_USED = """
SELECT key_id, last_at FROM usage.key_last_used WHERE workspace_id = $1 AND key_id = ANY($2::text[])
"""
_KEPT_FROM = "SELECT granularity, bucket FROM usage.kept_from"
_FIRST = Mark(-(2**62))


class PostgresUsage:
    """`UsageStore` over a pool whose statements have a timeout."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def position(self, line: bytes) -> int:
        async with self._connection() as connection:
            return await connection.fetchval(_POSITION, line) or 0

    async def begin(self, epoch: Epoch, head: int) -> int:
        async with self._connection() as connection:
            async with connection.transaction():
                began = await connection.execute(_BEGIN, epoch.line, epoch.number, head)
                position = await connection.fetchval(_POSITION, epoch.line)
                if began == "INSERT 0 1":
                    await connection.execute(_UNPARK, position)
            return position

    async def fold(
        self,
        epoch: Epoch,
        after: int,
        last: int,
        tally: Tally,
        erased: Collection[str] = (),
        *,
        parked: Sequence[Parked] = (),
    ) -> bool:
        try:
            async with self._connection() as connection, connection.transaction():
                if await connection.execute(_MOVE, epoch.line, after, last) != "UPDATE 1":
                    return False
                await add(connection, tally)
                if erased:
                    await connection.execute(_ERASED, sorted(erased), last)
                if parked:
                    await park(connection, parked)
                return True
        except REFUSES as error:
            raise Unfoldable(type(error).__name__) from None

    async def parked(self) -> int:
        async with self._connection() as connection:
            return await connection.fetchval(_PARKED)

    async def erase_some(self) -> bool:
        async with self._connection() as connection:
            workspace = await connection.fetchval(_TO_ERASE)
            if workspace is None:
                return False
            for table in COUNTERS:
                if await connection.execute(_ERASE.format(table=table), workspace, ERASED_ROWS) != "DELETE 0":
                    return True
            await connection.execute(_DONE, workspace)
            return True

    async def read(self, question: Question, after: Mark | None, limit: int) -> Reading:
        told = statements(question)
        behind = msgspec.structs.astuple(after or _FIRST)
        async with self._snapshot() as connection:
            rows = await connection.fetch(told.series, *told.asked, *behind, limit)
            totals = await connection.fetchrow(told.totals, *told.asked)
            seen = await connection.fetchval(_SEEN)
            kept_from: dict[Any, int] = dict(await connection.fetch(_KEPT_FROM))
            last: dict[str, int] = {}
            if question.key_id is not None:
                last = dict(await connection.fetch(_LAST_USED, question.workspace_id, [question.key_id]))
        points = [Point(Mark(*place), Count(count, cost)) for *place, count, cost in rows]
        return Reading(points, Count(*totals), seen or 0, last.get(question.key_id or ""), kept_from)

    async def last_used(self, workspace_id: str, key_ids: Sequence[str]) -> tuple[dict[str, int], int]:
        async with self._snapshot() as connection:
            rows = await connection.fetch(_LAST_USED, workspace_id, list(key_ids))
            seen = await connection.fetchval(_SEEN)
        return {row["key_id"]: row["last_at"] for row in rows}, seen or 0

    async def ping(self) -> None:
        try:
            await self._pool.fetchval("SELECT 1", timeout=PING_TIMEOUT)
        except AWAY as error:
            raise StoreUnavailable(type(error).__name__) from error

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Any]:
        """A connection of the pool; what means that Postgres is away becomes `StoreUnavailable`."""
        try:
            async with self._pool.acquire(timeout=2.0) as connection:
                yield connection
        except AWAY as error:
            # the class only: a driver's message may quote parameters
            raise StoreUnavailable(type(error).__name__) from error

    @asynccontextmanager
    async def _snapshot(self) -> AsyncGenerator[Any]:
        """A connection in which every statement sees the same state."""
        async with (
            self._connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection
