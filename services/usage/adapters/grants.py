"""Terms, rights and committed cells in Postgres. Every write says whose term it is, and fails in another."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from keyledger.grants import Want
from keyledger.server.postgres import AWAY, Pool
from services.usage.domain.granting import Legacy
from services.usage.domain.pool import Holding
from services.usage.domain.pool import Pool as Cell
from services.usage.domain.shares import Right
from services.usage.ports import Claim, StoreUnavailable

_READ = "SELECT term, owner, claimed_until, legacy IS NOT NULL AS left_over FROM usage.grant_term"
# Of two that take the same term at once one does: the other's row is not what it saw any more.
_FIRST = """
INSERT INTO usage.grant_term (term, owner, claimed_until) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
"""
_TAKE = """
UPDATE usage.grant_term AS now SET term = $3, owner = $4, claimed_until = $5, legacy = NULL
FROM usage.grant_term AS before
WHERE now.term = $1 AND now.claimed_until = $2 RETURNING before.legacy
"""
_EXTEND = "UPDATE usage.grant_term SET claimed_until = $2 WHERE term = $1 AND claimed_until <= $2"
_RELEASE = "UPDATE usage.grant_term SET claimed_until = $2, legacy = $3 WHERE term = $1"
# Holds the term until the commit: a taker waits, and what is written after that is written in its term.
_OURS = "SELECT term = $1 FROM usage.grant_term FOR SHARE"
_RIGHTS = "SELECT verifier, parts, lapses FROM usage.grant_right"
_ADD_RIGHTS = """
INSERT INTO usage.grant_right (verifier, parts, lapses)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[])
"""
_CELLS = """
SELECT c.holder, c.window_, c.start_at, c.ends_at, c.most, c.holdings
FROM usage.grant_cell c
JOIN unnest($1::text[], $2::text[], $3::bigint[]) AS asked(holder, window_, start_at)
    USING (holder, window_, start_at)
"""
_OF_HOLDER = """
SELECT holder, window_, start_at, ends_at, most, holdings FROM usage.grant_cell
WHERE holder = $1 AND start_at <= $2 AND ends_at > $2
"""
# One statement, since verifiers wait for it. Holds the term until the commit, as `_OURS` does.
_PUT = """
WITH ours AS (SELECT term FROM usage.grant_term WHERE term = $9 FOR SHARE)
INSERT INTO usage.grant_cell AS kept (holder, window_, start_at, ends_at, most, charged, spent, holdings)
SELECT cell.* FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                          $7::bigint[], $8::jsonb[]) AS cell, ours
ON CONFLICT (holder, window_, start_at) DO UPDATE
SET most = excluded.most, charged = excluded.charged, spent = excluded.spent, holdings = excluded.holdings
"""
_FORGET = "DELETE FROM usage.grant_cell WHERE ends_at < $1"

_ENCODE = msgspec.json.Encoder()
_HOLDINGS = msgspec.json.Decoder(dict[str, Holding])
_LEGACY = msgspec.msgpack.Decoder(Legacy)


class PostgresGrants:
    """`GrantStore` over a pool whose statements have a timeout."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def claim(self) -> Claim | None:
        async with self._connection() as connection:
            row = await connection.fetchrow(_READ)
        return None if row is None else Claim(*row)

    async def take(
        self, seen: Claim | None, term: int, owner: str, until: int
    ) -> tuple[Legacy | None, list[Right]] | None:
        async with self._connection() as connection, connection.transaction():
            if seen is None:
                if await connection.execute(_FIRST, term, owner, until) != "INSERT 0 1":
                    return None
                return None, []
            row = await connection.fetchrow(_TAKE, seen.term, seen.until, term, owner, until)
            if row is None:
                return None
            rights = [Right(*each) for each in await connection.fetch(_RIGHTS)]
        return _legacy(row["legacy"]), rights

    async def extend(self, term: int, until: int) -> bool:
        async with self._connection() as connection:
            return await connection.execute(_EXTEND, term, until) == "UPDATE 1"

    async def release(self, term: int, until: int, legacy: Legacy) -> None:
        async with self._connection() as connection:
            await connection.execute(_RELEASE, term, until, msgspec.msgpack.encode(legacy))

    async def record(self, term: int, rights: Sequence[Right]) -> bool:
        async with self._connection() as connection, connection.transaction():
            if not await connection.fetchval(_OURS, term):
                return False
            await connection.execute("DELETE FROM usage.grant_right")
            await connection.execute(
                _ADD_RIGHTS,
                [right.verifier for right in rights],
                [right.parts for right in rights],
                [right.lapses for right in rights],
            )
        return True

    async def cells(self, wants: Sequence[Want]) -> list[Cell]:
        async with self._connection() as connection:
            rows = await connection.fetch(
                _CELLS,
                [want.holder for want in wants],
                [str(want.window) for want in wants],
                [want.start for want in wants],
            )
        return [_cell(row) for row in rows]

    async def of_holder(self, holder: str, second: int) -> list[Cell]:
        async with self._connection() as connection:
            return [_cell(row) for row in await connection.fetch(_OF_HOLDER, holder, second)]

    async def commit(self, term: int, cells: Sequence[Cell]) -> bool:
        # sorted, so that two writers never wait for each other in a circle
        cells = sorted(cells, key=lambda cell: (cell.holder, str(cell.window), cell.start))
        async with self._connection() as connection:
            done = await connection.execute(
                _PUT,
                [cell.holder for cell in cells],
                [str(cell.window) for cell in cells],
                [cell.start for cell in cells],
                [cell.end for cell in cells],
                [cell.limit for cell in cells],
                [cell.charged for cell in cells],
                [cell.spent for cell in cells],
                [_ENCODE.encode(cell.holdings).decode() for cell in cells],
                term,
            )
        return done == f"INSERT 0 {len(cells)}"

    async def forget(self, before: int) -> None:
        async with self._connection() as connection:
            await connection.execute(_FORGET, before)

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Any]:
        """A connection of the pool; what means that Postgres is away becomes `StoreUnavailable`."""
        try:
            async with self._pool.acquire(timeout=2.0) as connection:
                yield connection
        except AWAY as error:
            # the class only: a driver's message may quote parameters
            raise StoreUnavailable(type(error).__name__) from error


def _cell(row: Any) -> Cell:
    holder, window, start, end, limit, holdings = row
    return Cell(
        holder, int(window) if window.isdigit() else window, start, end, limit, _HOLDINGS.decode(holdings)
    )


def _legacy(body: bytes | None) -> Legacy | None:
    """What was left behind, or None when it cannot be read: then its cells have no granter."""
    try:
        return None if body is None else _LEGACY.decode(body)
    except msgspec.MsgspecError:
        return None
