"""Reads of the key service over Postgres's primary; each is one statement, so each is one snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keyledger.events import Epoch, Recorded
from keyledger.server.postgres import AWAY, Pool, fetch, postgres_away
from services.keys.ports import HeadNow, KeptAnswer, KeyFilter, Stored

HEAD_COLUMNS = (
    "h.epoch_number, h.epoch_line, h.position AS head_position, h.hash AS head_hash, h.at AS head_at"
)
STATE_COLUMNS = "s.stream_id, s.workspace_id, s.version, s.position, s.created_position, s.body"
_ONLY_HEAD = f"SELECT {HEAD_COLUMNS} FROM ledger.log_head h"  # noqa: S608 — these are constants
#: The state of a deleted workspace's key waits for its erasure and is not there for anyone.
_THERE = "NOT EXISTS (SELECT FROM ledger.erasure d WHERE d.workspace_id = s.workspace_id)"
_GET = f"""
    SELECT {STATE_COLUMNS}, {HEAD_COLUMNS} FROM ledger.log_head h
      LEFT JOIN ledger.state s ON s.stream_id = $1 AND {_THERE}
"""  # noqa: S608
_CREDENTIAL = f"""
    SELECT {STATE_COLUMNS} FROM ledger.state s WHERE s.stream_id = $1 AND s.kind = 'key'
     UNION ALL
    SELECT {STATE_COLUMNS} FROM ledger.state k JOIN ledger.state s ON s.stream_id = k.workspace_id
     WHERE k.stream_id = $1 AND k.kind = 'key'
"""  # noqa: S608
#: `now` decides what has expired; the order of the cases is the order in which a verifier looks.
_STATUS = """
    CASE WHEN s.body ? 'revoked_at' THEN 'revoked'
         WHEN s.body @> '{"enabled": false}' THEN 'disabled'
         WHEN (s.body ->> 'expires_at')::bigint <= $6 THEN 'expired' ELSE 'active' END
"""
_KEYS = f"""
    SELECT {STATE_COLUMNS}, {HEAD_COLUMNS} FROM ledger.log_head h LEFT JOIN LATERAL (
        SELECT * FROM ledger.state s
         WHERE s.kind = 'key' AND s.workspace_id = $1 AND {_THERE}
           AND ($2::bigint IS NULL OR s.created_position < $2)
           AND ($3::text IS NULL OR s.body ->> 'environment' = $3)
           AND ($4::text IS NULL OR s.body ->> 'external_id' = $4)
           AND ($5::text IS NULL OR {_STATUS} = $5)
           AND ($7::text IS NULL OR s.body ->> 'name' ILIKE $7 OR s.stream_id = $8
                OR s.body ->> 'external_id' ILIKE $7
                OR ($10::text IS NOT NULL AND EXISTS (
                    SELECT FROM jsonb_array_elements(s.body -> 'secrets') x
                     WHERE right(x ->> 'hint', 5) = $10)))
         ORDER BY s.created_position DESC LIMIT $9) s ON true
"""  # noqa: S608
_WORKSPACES = f"""
    SELECT {STATE_COLUMNS}, {HEAD_COLUMNS} FROM ledger.log_head h LEFT JOIN LATERAL (
        SELECT * FROM ledger.state s
         WHERE s.kind = 'workspace' AND ($1::bigint IS NULL OR s.created_position < $1)
         ORDER BY s.created_position DESC LIMIT $2) s ON true
"""  # noqa: S608
_EVENTS = f"""
    SELECT e.*, {HEAD_COLUMNS} FROM ledger.log_head h LEFT JOIN LATERAL (
        SELECT * FROM ledger.event e
         WHERE e.workspace_id = $1 AND e.position > $3 AND ($2::text IS NULL OR e.stream_id = $2)
         ORDER BY e.position LIMIT $4) e ON true
"""  # noqa: S608
_EVENTS_BEFORE = f"""
    SELECT e.*, {HEAD_COLUMNS} FROM ledger.log_head h LEFT JOIN LATERAL (
        SELECT * FROM ledger.event e
         WHERE e.workspace_id = $1 AND ($2::bigint IS NULL OR e.position < $2)
         ORDER BY e.position DESC LIMIT $3) e ON true
"""  # noqa: S608
# along the stream's own versions: its events may be few among very many of the workspace
_EVENTS_OF_BEFORE = f"""
    SELECT e.*, {HEAD_COLUMNS} FROM ledger.log_head h LEFT JOIN LATERAL (
        SELECT * FROM ledger.event e
         WHERE e.stream_id = $4 AND e.workspace_id = $1 AND ($2::bigint IS NULL OR e.position < $2)
         ORDER BY e.version DESC LIMIT $3) e ON true
"""  # noqa: S608
_EVENTS_BEHIND = """
    SELECT e.* FROM unnest($2::text[], $3::bigint[]) AS asked (stream_id, version) CROSS JOIN LATERAL (
        SELECT * FROM ledger.event e
         WHERE e.stream_id = asked.stream_id AND e.version > asked.version AND e.position <= $4
         ORDER BY e.version LIMIT $5) e
     WHERE e.workspace_id = $1 ORDER BY e.position LIMIT $5
"""
_POSITION_AT = "SELECT ledger.position_at($1)"
_MOMENT_OF = "SELECT at FROM ledger.event WHERE position = $1"
_SYSTEM = """
    SELECT stream_id FROM ledger.state WHERE kind = 'workspace' AND body @> '{"system": true}'
     ORDER BY created_position LIMIT 1
"""
_DATA_KEY = "SELECT wrapped FROM ledger.workspace_key WHERE workspace_id = $1"
_ANSWER = (
    "SELECT request_hash, sealed, position, at FROM ledger.idempotency WHERE id = $1 AND kept_until > $2"
)


class PostgresStates:
    """`States` on a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def head(self) -> HeadNow:
        """The head as of now."""
        return head_of((await self._fetch(_ONLY_HEAD))[0])

    async def get(self, stream_id: str) -> tuple[Stored | None, HeadNow]:
        """One state, and the head it was read at."""
        (row,) = await self._fetch(_GET, stream_id)
        return stored(row) if row["stream_id"] else None, head_of(row)

    async def credential(self, key_id: str) -> tuple[Stored, Stored] | None:
        """A key and its workspace."""
        rows = {row["stream_id"]: row for row in await self._fetch(_CREDENTIAL, key_id)}
        key = rows.get(key_id)
        if key is None or key["workspace_id"] not in rows:
            return None
        return stored(key), stored(rows[key["workspace_id"]])

    async def keys(
        self, workspace_id: str, wanted: KeyFilter, *, before: int | None, limit: int
    ) -> tuple[Sequence[Stored], HeadNow]:
        """Keys created before that position, newest first."""
        pattern = None if wanted.search is None else f"%{_literal(wanted.search)}%"
        rows = await self._fetch(
            _KEYS,
            workspace_id,
            before,
            wanted.environment,
            wanted.external_id,
            wanted.status,
            wanted.now,
            pattern,
            wanted.search,
            limit,
            wanted.hint_ending,
        )
        return [stored(row) for row in rows if row["stream_id"]], head_of(rows[0])

    async def workspaces(self, *, before: int | None, limit: int) -> tuple[Sequence[Stored], HeadNow]:
        """Workspaces created before that position, newest first."""
        rows = await self._fetch(_WORKSPACES, before, limit)
        return [stored(row) for row in rows if row["stream_id"]], head_of(rows[0])

    async def events(
        self, workspace_id: str, stream_id: str | None, *, after: int, limit: int
    ) -> tuple[Sequence[Recorded], HeadNow]:
        """Events of a workspace, or of one of its streams, oldest first."""
        rows = await self._fetch(_EVENTS, workspace_id, stream_id, after, limit)
        return [recorded(row, b"") for row in rows if row["stream_id"]], head_of(rows[0])

    async def events_before(
        self, workspace_id: str, stream_id: str | None, *, before: int | None, limit: int
    ) -> tuple[Sequence[Recorded], HeadNow]:
        """Events of a workspace, or of one of its streams, before a position, newest first."""
        if stream_id is None:
            rows = await self._fetch(_EVENTS_BEFORE, workspace_id, before, limit)
        else:
            rows = await self._fetch(_EVENTS_OF_BEFORE, workspace_id, before, limit, stream_id)
        return [recorded(row, b"") for row in rows if row["stream_id"]], head_of(rows[0])

    async def events_behind(
        self, workspace_id: str, versions: Mapping[str, int], *, until: int, limit: int
    ) -> Sequence[Recorded]:
        """Events of these streams behind the version given for each, up to a position, oldest first."""
        rows = await self._fetch(
            _EVENTS_BEHIND, workspace_id, list(versions), list(versions.values()), until, limit
        )
        return [recorded(row, b"") for row in rows]

    async def position_at(self, moment: int) -> int:
        """The last position at or before `moment` (µs), 0 before the first."""
        return (await self._fetch(_POSITION_AT, moment))[0][0]

    async def moment_of(self, position: int) -> int | None:
        """The moment (µs) of the event at this position, None where there is none."""
        rows = await self._fetch(_MOMENT_OF, position)
        return rows[0][0] if rows else None

    async def data_key(self, workspace_id: str) -> bytes | None:
        """The wrapped data key, or None once it is destroyed."""
        rows = await self._fetch(_DATA_KEY, workspace_id)
        return rows[0]["wrapped"] if rows else None

    async def system_workspace(self) -> str | None:
        """The id of the system workspace, None before the first bootstrap."""
        rows = await self._fetch(_SYSTEM)
        return rows[0]["stream_id"] if rows else None

    async def answer(self, answer_id: bytes, *, now: int) -> KeptAnswer | None:
        """A kept answer that is still valid at `now`."""
        rows = await self._fetch(_ANSWER, answer_id, now)
        return KeptAnswer(**rows[0]) if rows else None

    async def _fetch(self, statement: str, *arguments: Any) -> Sequence[Any]:
        try:
            return await fetch(self._pool, statement, *arguments)
        except AWAY:
            raise postgres_away() from None


def recorded(row: Any, previous_hash: bytes) -> Recorded:
    """An event as the log holds it."""
    return Recorded(
        position=row["position"],
        stream_id=row["stream_id"],
        version=row["version"],
        type=row["type"],
        schema_version=row["schema_version"],
        workspace_id=row["workspace_id"],
        actor=row["actor"],
        request_id=row["request_id"],
        at=row["at"],
        data=row["data"],
        hash=row["hash"],
        previous_hash=previous_hash,
    )


def _literal(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def stored(row: Any) -> Stored:
    """A state as it stands."""
    return Stored(
        row["stream_id"],
        row["workspace_id"],
        row["version"],
        row["position"],
        row["created_position"],
        row["body"].encode(),
    )


def head_of(row: Any) -> HeadNow:
    """The head that the row was read at."""
    epoch = Epoch(row["epoch_number"], row["epoch_line"])
    return HeadNow(epoch, row["head_position"], row["head_hash"], row["head_at"])
