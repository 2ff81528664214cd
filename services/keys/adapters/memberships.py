"""Who may do what where, over Postgres: a table that the append keeps beside the states.."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keyledger.server.postgres import AWAY, Pool, fetch, postgres_away
from services.keys.adapters.states import HEAD_COLUMNS, STATE_COLUMNS, head_of, stored
from services.keys.ports import HeadNow, Standing, Stored

#: What a restored log does not know to refuse; a suspended workspace is still managed.
_NOT_LOST = """
    NOT EXISTS (SELECT FROM ledger.lost_denial d
                 WHERE d.workspace_id = m.workspace_id AND (d.key_id = m.user_id OR d.key_id IS NULL)
                   AND d.what <> 'suspended')
"""
_STANDING = f"""
    SELECT (SELECT m.role FROM ledger.membership m
             WHERE m.workspace_id = $1 AND m.user_id = $2 AND {_NOT_LOST}) AS role,
           EXISTS (SELECT FROM ledger.ended_session e WHERE e.session_id = $3) AS ended
"""  # noqa: S608 — these are constants
_WORKSPACES = f"""
    SELECT {STATE_COLUMNS}, s.role, {HEAD_COLUMNS} FROM ledger.log_head h LEFT JOIN LATERAL (
        SELECT s.*, m.role FROM ledger.membership m JOIN ledger.state s ON s.stream_id = m.workspace_id
         WHERE m.user_id = $1 AND ($2::bigint IS NULL OR s.created_position < $2) AND {_NOT_LOST}
         ORDER BY s.created_position DESC LIMIT $3) s ON true
"""  # noqa: S608
_END = "SELECT ledger.end_session($1, $2)"


class PostgresMemberships:
    """`Memberships` on a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def standing(self, user_id: str, workspace_id: str, session_id: str) -> Standing:
        """The user's role in this workspace, and whether this session was ended."""
        (row,) = await self._fetch(_STANDING, workspace_id, user_id, session_id)
        return Standing(row["role"], row["ended"])

    async def workspaces_of(
        self, user_id: str, *, before: int | None, limit: int
    ) -> tuple[Sequence[tuple[Stored, str]], HeadNow]:
        """The user's workspaces that were created before that position, newest first, with their role."""
        rows = await self._fetch(_WORKSPACES, user_id, before, limit)
        return [(stored(row), row["role"]) for row in rows if row["stream_id"]], head_of(rows[0])

    async def end(self, session_id: str, *, until: int) -> None:
        """Refuse this session from now on; it may be forgotten after `until` (µs)."""
        await self._fetch(_END, session_id, until)

    async def _fetch(self, statement: str, *arguments: Any) -> Sequence[Any]:
        try:
            return await fetch(self._pool, statement, *arguments)
        except AWAY:
            raise postgres_away() from None
