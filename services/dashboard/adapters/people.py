"""Users and invitations in Postgres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg

from services.dashboard.adapters.store import Database
from services.dashboard.domain.sign_in import Identity
from services.dashboard.ports import Arrival, Invitation, Person

_ARRIVE = """
INSERT INTO dashboard.person AS p (user_id, issuer, subject, name, mail, created_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (issuer, subject) DO UPDATE SET name = excluded.name, mail = excluded.mail
RETURNING user_id, name, mail, workspace_id
"""
_COLUMNS = "id, workspace_id, role, invited_by, note, created_at, expires_at"


class PostgresPeople:
    """`People` in Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def arrive(self, identity: Identity, new_user_id: str, now: int) -> Arrival:
        """The user of this identity; a new one gets `new_user_id`."""
        async with self._database.connected() as connection:
            [row] = await connection.fetch(
                _ARRIVE,
                new_user_id,
                identity.issuer,
                identity.subject,
                identity.name,
                identity.mail,
                now,
            )
        return Arrival(_person(row), row["user_id"] == new_user_id, row["workspace_id"])

    async def known(self, user_ids: Sequence[str]) -> Mapping[str, Person]:
        """Those of these users that there are, by id."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(
                "SELECT user_id, name, mail FROM dashboard.person WHERE user_id = ANY($1::text[])",
                list(user_ids),
            )
        return {row["user_id"]: _person(row) for row in rows}

    async def holding(self, text: str, most: int) -> Sequence[Person]:
        """At most so many whose name or mail holds this text, in whatever case; newest first."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(
                "SELECT user_id, name, mail FROM dashboard.person "
                "WHERE strpos(lower(coalesce(name, '')), lower($1)) > 0 "
                "OR strpos(lower(coalesce(mail, '')), lower($1)) > 0 "
                "ORDER BY created_at DESC, user_id DESC LIMIT $2",
                text,
                most,
            )
        return [_person(row) for row in rows]

    async def erase(self, user_id: str, now: int, tell_until: int) -> bool:
        """Forget who this is, withdraw what they invited to, and end every session."""
        async with self._database.connected() as connection:
            there = await connection.fetchrow(
                "UPDATE dashboard.person SET issuer = NULL, subject = NULL, name = NULL, mail = NULL, "
                "workspace_id = NULL, erased_at = $2 WHERE user_id = $1 AND erased_at IS NULL RETURNING 1",
                user_id,
                now,
            )
            await connection.execute("DELETE FROM dashboard.invitation WHERE invited_by = $1", user_id)
            await connection.execute(
                "UPDATE dashboard.session SET ended_at = $2, tell_until = $3 "
                "WHERE user_id = $1 AND ended_at IS NULL",
                user_id,
                now,
                tell_until,
            )
        return there is not None

    async def ping(self) -> None:
        """Return when the store answers."""
        async with self._database.reading() as connection:
            await connection.fetchval("SELECT 1")


class PostgresInvitations:
    """`Invitations` in Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, invitation: Invitation, digest: bytes, most: int) -> bool:
        """Keep it, unless the workspace has `most` open ones."""
        async with self._database.connected() as connection:
            # one at a time a workspace, or two would both find room for the last one
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended('invitations ' || $1, 0))",
                invitation.workspace_id,
            )
            row = await connection.fetchrow(
                f"INSERT INTO dashboard.invitation ({_COLUMNS}, digest) "  # noqa: S608 (names of columns)
                "SELECT $1, $2, $3, $4, $5, $6, $7, $8 WHERE (SELECT count(*) FROM dashboard.invitation "
                "WHERE workspace_id = $2 AND expires_at > $6) < $9 RETURNING id",
                invitation.id,
                invitation.workspace_id,
                invitation.role,
                invitation.invited_by,
                invitation.note,
                invitation.created_at,
                invitation.expires_at,
                digest,
                most,
            )
        return row is not None

    async def of_workspace(self, workspace_id: str, now: int) -> Sequence[Invitation]:
        """Those into this workspace, newest first."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(
                f"SELECT {_COLUMNS} FROM dashboard.invitation "  # noqa: S608 (names of columns)
                "WHERE workspace_id = $1 AND expires_at > $2 ORDER BY created_at DESC, id DESC",
                workspace_id,
                now,
            )
        return [_invitation(row) for row in rows]

    async def find(self, digest: bytes, now: int) -> Invitation | None:
        """The open invitation with this token."""
        async with self._database.reading() as connection:
            row = await connection.fetchrow(
                f"SELECT {_COLUMNS} FROM dashboard.invitation "  # noqa: S608 (names of columns)
                "WHERE digest = $1 AND expires_at > $2",
                digest,
                now,
            )
        return None if row is None else _invitation(row)

    async def close(self, workspace_id: str, invitation_id: str, now: int) -> bool:
        """Make it void, once."""
        async with self._database.connected() as connection:
            row = await connection.fetchrow(
                "DELETE FROM dashboard.invitation WHERE workspace_id = $1 AND id = $2 "
                "RETURNING expires_at > $3 AS open",
                workspace_id,
                invitation_id,
                now,
            )
        return row is not None and row["open"]

    async def clear(self, now: int) -> None:
        """Remove those that are over."""
        async with self._database.connected() as connection:
            await connection.execute("DELETE FROM dashboard.invitation WHERE expires_at <= $1", now)


def _person(row: asyncpg.Record) -> Person:
    return Person(row["user_id"], row["name"], row["mail"])


def _invitation(row: asyncpg.Record) -> Invitation:
    return Invitation(
        row["id"],
        row["workspace_id"],
        row["role"],
        row["invited_by"],
        row["note"],
        row["created_at"],
        row["expires_at"],
    )
