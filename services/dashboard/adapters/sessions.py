"""Sessions, what may be used once, and the keys that sign, in Postgres."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from services.dashboard.adapters.store import Database
from services.dashboard.domain.session import ABSOLUTE, IDLE, Session
from services.dashboard.domain.signing import KeyTimes
from services.dashboard.ports import Person, Presence, RefreshDigests, StoredKey

_PRESENT = """
SELECT s.session_id, s.user_id, s.workspace_id, s.role, s.secret, s.created_at, s.renewed_at, s.ended_at,
       p.name, p.mail
FROM dashboard.session s JOIN dashboard.person p USING (user_id)
"""
_FORGET = """
DELETE FROM dashboard.session WHERE session_id IN (
    SELECT session_id FROM dashboard.session
    WHERE tell_until IS NULL
      AND (ended_at < $1 OR renewed_at < $2 OR created_at < $3) LIMIT $4
)
"""


class PostgresSessions:
    """`Sessions` in Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, session: Session, digests: RefreshDigests) -> None:
        """Begin a family."""
        async with self._database.connected() as connection:
            await connection.execute(
                "INSERT INTO dashboard.session (session_id, user_id, workspace_id, role, handle, secret, "
                "created_at, renewed_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                session.session_id,
                session.user_id,
                session.workspace_id,
                session.role,
                digests.handle,
                digests.secret,
                session.created_at,
                session.renewed_at,
            )

    async def find(self, session_id: str) -> Presence | None:
        """The session, live or not."""
        async with self._database.reading() as connection:
            row = await connection.fetchrow(f"{_PRESENT} WHERE s.session_id = $1", session_id)
        return None if row is None else _presence(row)

    async def by_handle(self, handle: bytes) -> tuple[Presence, bytes] | None:
        """The session whose tokens begin so, and the digest of the secret that is good now."""
        async with self._database.reading() as connection:
            row = await connection.fetchrow(f"{_PRESENT} WHERE s.handle = $1", handle)
        return None if row is None else (_presence(row), row["secret"])

    async def renew(self, session_id: str, old: bytes, new: bytes, now: int) -> bool:
        """Put `new` in the place of `old`, once."""
        async with self._database.connected() as connection:
            row = await connection.fetchrow(
                "UPDATE dashboard.session SET secret = $3, renewed_at = $4 "
                "WHERE session_id = $1 AND secret = $2 AND ended_at IS NULL RETURNING session_id",
                session_id,
                old,
                new,
                now,
            )
        return row is not None

    async def choose(self, session_id: str, workspace_id: str | None, role: str | None) -> None:
        """The workspace that this session, and its person at the next sign-in, is in from now on."""
        async with self._database.connected() as connection:
            await connection.execute(
                "WITH chosen AS (UPDATE dashboard.session SET workspace_id = $2, role = $3 "
                "WHERE session_id = $1 RETURNING user_id) "
                "UPDATE dashboard.person p SET workspace_id = $2 FROM chosen "
                "WHERE p.user_id = chosen.user_id AND p.erased_at IS NULL",
                session_id,
                workspace_id,
                role,
            )

    async def end(self, session_id: str, now: int, tell_until: int) -> bool:
        """End it, once, and have the key service told."""
        async with self._database.connected() as connection:
            row = await connection.fetchrow(
                "UPDATE dashboard.session SET ended_at = $2, tell_until = $3 "
                "WHERE session_id = $1 AND ended_at IS NULL RETURNING session_id",
                session_id,
                now,
                tell_until,
            )
        return row is not None

    async def untold(self, now: int, limit: int) -> Sequence[Session]:
        """Ended sessions that the key service is still to be told of."""
        async with self._database.connected() as connection:
            await connection.execute(
                "UPDATE dashboard.session SET tell_until = NULL WHERE tell_until <= $1", now
            )
            rows = await connection.fetch(
                f"{_PRESENT} WHERE s.tell_until IS NOT NULL ORDER BY s.ended_at LIMIT $1", limit
            )
        return [_presence(row).session for row in rows]

    async def told(self, session_id: str) -> None:
        """The key service knows that this one has ended."""
        async with self._database.connected() as connection:
            await connection.execute(
                "UPDATE dashboard.session SET tell_until = NULL WHERE session_id = $1", session_id
            )

    async def forget(self, before: int, limit: int) -> int:
        """Drop some sessions that were over at this time."""
        async with self._database.connected() as connection:
            done = await connection.execute(_FORGET, before, before - IDLE, before - ABSOLUTE, limit)
        return int(done.split()[-1])


class PostgresSpent:
    """`Spent` in Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def spend(self, digest: bytes, until: int, now: int) -> bool:
        """Whether this is the first time."""
        del now
        async with self._database.connected() as connection:
            row = await connection.fetchrow(
                "INSERT INTO dashboard.spent (digest, until) VALUES ($1, $2) "
                "ON CONFLICT DO NOTHING RETURNING until",
                digest,
                until,
            )
        return row is not None

    async def clear(self, now: int) -> None:
        """Forget what is no longer valid."""
        async with self._database.connected() as connection:
            await connection.execute("DELETE FROM dashboard.spent WHERE until <= $1", now)


class PostgresSigningKeys:
    """`SigningKeys` in Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> Sequence[StoredKey]:
        """Every key, the oldest first."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(
                "SELECT kid, starts_at, sealed FROM dashboard.signing_key ORDER BY starts_at, kid"
            )
        return [StoredKey(KeyTimes(row["kid"], row["starts_at"]), row["sealed"]) for row in rows]

    async def add(self, key: StoredKey, after: str | None) -> bool:
        """Add it unless another process did."""
        async with self._database.connected() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('signing keys', 0))")
            last = await connection.fetchval(
                "SELECT kid FROM dashboard.signing_key ORDER BY starts_at DESC, kid DESC LIMIT 1"
            )
            if last != after:
                return False
            await connection.execute(
                "INSERT INTO dashboard.signing_key (kid, starts_at, sealed) VALUES ($1, $2, $3)",
                key.times.kid,
                key.times.starts_at,
                key.sealed,
            )
        return True

    async def drop(self, kids: Sequence[str]) -> None:
        """Remove keys that are no longer published."""
        async with self._database.connected() as connection:
            await connection.execute(
                "DELETE FROM dashboard.signing_key WHERE kid = ANY($1::text[])", list(kids)
            )


def _presence(row: asyncpg.Record) -> Presence:
    session = Session(
        row["session_id"],
        row["user_id"],
        row["workspace_id"],
        row["role"],
        row["created_at"],
        row["renewed_at"],
        row["ended_at"],
    )
    return Presence(session, Person(row["user_id"], row["name"], row["mail"]))
