"""A second table of states beside the one in use, and how its rows are brought over.

The table in use keeps its identity: its rights, policies and triggers stay, and a reader with an older
snapshot never meets a table that was empty then. What is swapped is the content, under the locks that an
append takes: nothing can be appended to a stream while its row is brought over.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from keyledger.server.postgres import CONNECT_TIMEOUT
from services.keys.domain.fold import KINDS, StateRow

LONGEST_STATEMENT = 120.0
"""Seconds; comparing the two tables whole is the longest."""
SWAP_LOCK_TIMEOUT = "500ms"
"""How long the swap waits for a lock while it may hold others; it is tried again."""
_LOCK = 0x6B657972
_COLUMNS = ("kind", "workspace_id", "version", "position", "created_position", "body")
_MAKE = "CREATE TABLE ledger.state_beside (LIKE ledger.state INCLUDING ALL)"
_DROP = "DROP TABLE IF EXISTS ledger.state_beside"
_SET = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS)
_NAMES = ", ".join(("stream_id", *_COLUMNS))


def _row(table: str) -> str:
    return "(" + ", ".join(f"{table}.{name}" for name in _COLUMNS) + ")"


_PUT = f"""
    INSERT INTO ledger.state_beside ({_NAMES})
    SELECT * FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::jsonb[])
    ON CONFLICT (stream_id) DO UPDATE SET {_SET}
"""  # noqa: S608 — these are constants
_FORGET = """
    DELETE FROM ledger.state_beside WHERE stream_id = ANY($1::text[]) OR workspace_id = ANY($2::text[])
"""
# Rows of a kind that is not folded here are not ours to judge.
_DIFFERING = f"""
    SELECT coalesce(s.stream_id, b.stream_id) AS stream_id
      FROM (SELECT * FROM ledger.state WHERE kind = ANY($1::text[])) s
      FULL JOIN ledger.state_beside b ON b.stream_id = s.stream_id
     WHERE {_row("s")} IS DISTINCT FROM {_row("b")} LIMIT $2
"""  # noqa: S608
# The table of members follows the states by itself; what somebody did to it behind their back is found here.
_MEMBERS_DIFFERING = """
    SELECT DISTINCT coalesce(m.workspace_id, b.workspace_id) COLLATE "C" AS stream_id
      FROM ledger.membership m
      FULL JOIN (SELECT n.* FROM ledger.state_beside s, ledger.members_in(s.stream_id, s.body) n
                  WHERE s.kind = 'workspace') b
        ON b.workspace_id = m.workspace_id COLLATE "C" AND b.user_id = m.user_id COLLATE "C"
     WHERE to_jsonb(m) IS DISTINCT FROM to_jsonb(b) LIMIT $1
"""
# Locks the streams, as an append does, and answers those of which the shadow tells the last word: it is as
# far as the stream, or there is nothing to tell.
_SETTLED = """
    WITH locked AS (
        SELECT id, workspace_id, version FROM ledger.stream WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE)
    SELECT asked.id FROM unnest($1::text[]) AS asked (id)
      LEFT JOIN locked l ON l.id = asked.id
      LEFT JOIN ledger.state_beside b ON b.stream_id = asked.id
     WHERE l.id IS NULL OR b.version = l.version
        OR EXISTS (SELECT FROM ledger.erasure e WHERE e.workspace_id = l.workspace_id)
"""
_REMOVE = """
    DELETE FROM ledger.state s WHERE s.stream_id = ANY($1::text[]) AND s.kind = ANY($2::text[])
       AND NOT EXISTS (SELECT FROM ledger.state_beside b WHERE b.stream_id = s.stream_id)
"""
_ADOPT = f"""
    INSERT INTO ledger.state AS s ({_NAMES})
    SELECT {_NAMES} FROM ledger.state_beside WHERE stream_id = ANY($1::text[]) ORDER BY stream_id
    ON CONFLICT (stream_id) DO UPDATE SET {_SET} WHERE {_row("s")} IS DISTINCT FROM {_row("excluded")}
"""  # noqa: S608
_SET_MEMBERS = """
    SELECT ledger.set_members(asked.id, s.body) FROM unnest($1::text[]) AS asked (id)
      LEFT JOIN ledger.state s ON s.stream_id = asked.id WHERE starts_with(asked.id, 'ws_')
"""
_HEAD = "SELECT position FROM ledger.log_head FOR UPDATE"


class RebuildRuns(Exception):
    """Another rebuild is at work in this database."""


class PostgresShadow:
    """`StateShadow` on a connection of the owner's."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str) -> AsyncGenerator[PostgresShadow]:
        """A new and empty shadow, gone afterwards; `dsn` leads in as someone who may act as the owner."""
        connection = await owner(dsn)
        try:
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
                raise RebuildRuns
            # an interrupted rebuild may have left its own
            await connection.execute(_DROP)
            await connection.execute(_MAKE)
            try:
                yield cls(connection)
            finally:
                await connection.execute(_DROP)
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT)

    async def put(self, states: Sequence[tuple[str, StateRow]]) -> None:
        """Write these states, each in place of what stands there of its stream."""
        if states:
            columns = [[getattr(row, name) for _, row in states] for name in _COLUMNS]
            columns[-1] = [body.decode() for body in columns[-1]]
            await self._connection.execute(_PUT, [stream_id for stream_id, _ in states], *columns)

    async def forget(self, stream_ids: Sequence[str], workspace_ids: Sequence[str]) -> None:
        """Remove these streams, and all streams of these workspaces."""
        if stream_ids or workspace_ids:
            await self._connection.execute(_FORGET, list(stream_ids), list(workspace_ids))

    async def differing(self, limit: int) -> Sequence[str]:
        """At most so many streams of which the two tables do not say the same."""
        found = [row["stream_id"] for row in await self._connection.fetch(_DIFFERING, list(KINDS), limit)]
        members = [row["stream_id"] for row in await self._connection.fetch(_MEMBERS_DIFFERING, limit)]
        return list(dict.fromkeys([*found, *members]))[:limit]

    async def adopt_settled(self, stream_ids: Sequence[str]) -> int:
        """Bring these rows over where the shadow is as far as the stream, which is locked meanwhile."""
        async with self._connection.transaction():
            await self._connection.execute(f"SET LOCAL lock_timeout = '{SWAP_LOCK_TIMEOUT}'")
            settled = [row["id"] for row in await self._connection.fetch(_SETTLED, sorted(stream_ids))]
            return await self.adopt(settled)

    @asynccontextmanager
    async def head_locked(self) -> AsyncGenerator[int]:
        """A transaction in which nothing can be appended; the head's position."""
        async with self._connection.transaction():
            await self._connection.execute(f"SET LOCAL lock_timeout = '{SWAP_LOCK_TIMEOUT}'")
            yield await self._connection.fetchval(_HEAD)

    async def adopt(self, stream_ids: Sequence[str]) -> int:
        """Bring these rows over, inside `head_locked`; answers how many have changed."""
        ids = list(stream_ids)
        removed = await self._connection.execute(_REMOVE, ids, list(KINDS))
        written = await self._connection.execute(_ADOPT, ids)
        await self._connection.execute(_SET_MEMBERS, ids)
        return sum(int(done.rpartition(" ")[2]) for done in (removed, written))


async def owner(dsn: str) -> Any:
    """A connection that acts as the schema's owner."""
    connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT, command_timeout=LONGEST_STATEMENT)
    try:
        await connection.execute("SET ROLE keyledger_owner")
        await connection.execute("SET idle_in_transaction_session_timeout = '30s'")
    except BaseException:
        await connection.close(timeout=CONNECT_TIMEOUT)
        raise
    return connection
