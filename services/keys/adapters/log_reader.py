"""The whole log over Postgres, by position and by stream, in pages that are each one short snapshot.

A stream's state follows from its own events alone, so a page of streams can be compared while others are
appended to; nothing here needs a long transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from keyledger.events import Epoch, Recorded
from keyledger.server.postgres import Pool
from services.keys.adapters.states import recorded
from services.keys.domain.chain import ChainEnd, EpochBegun
from services.keys.domain.fold import StateRow, StreamFound, StreamRow
from services.keys.domain.roles import Member

MOST_EVENTS = 20_000
"""Events of one page of streams, unless a single stream has more."""
BEFORE_FIRST = -(2**63)
_LAST_ID = "\U0010ffff"
_EPOCHS = "SELECT number, line, base_position, base_hash FROM ledger.epoch ORDER BY number"
_EVENTS = "SELECT * FROM ledger.event WHERE position > $1 ORDER BY position LIMIT $2"
_ENDS = """
    SELECT h.*, coalesce((SELECT max(position) FROM ledger.event), 0) AS last_position FROM ledger.log_head h
"""
_IDS = "SELECT id, version FROM ledger.stream WHERE id > $1 ORDER BY id LIMIT $2"
_TOUCHED = "SELECT DISTINCT stream_id FROM ledger.event WHERE position > $1 AND position <= $2"
_DELETED = """
    SELECT stream_id FROM ledger.event WHERE stream_id = ANY($1::text[]) AND type = 'workspace_deleted'
"""
_DATA_KEYS = "SELECT workspace_id, wrapped FROM ledger.workspace_key WHERE workspace_id = ANY($1::text[])"
_HASHES = "SELECT position, hash FROM ledger.event WHERE position > $1 ORDER BY position LIMIT $2"
#: The four tables, each for a range of ids or for the ids of a list.
_RANGE = "{id} > $1 AND {id} <= $2"
_LISTED = "{id} = ANY($1::text[])"


class PostgresLogReader:
    """`LogReader` on a pool. A role that may not read data keys goes without them, by `data_keys=False`."""

    def __init__(self, pool: Pool, *, data_keys: bool = True) -> None:
        self._pool = pool
        self._data_keys = data_keys

    async def epochs(self) -> Sequence[EpochBegun]:
        """Every epoch there ever was."""
        return [
            EpochBegun(Epoch(row["number"], row["line"]), row["base_position"], row["base_hash"])
            for row in await self._pool.fetch(_EPOCHS)
        ]

    async def events(self, after: int, limit: int) -> Sequence[Recorded]:
        """Events after a position, in order of position; `previous_hash` is left empty."""
        return [recorded(row, b"") for row in await self._pool.fetch(_EVENTS, after, limit)]

    async def hashes(self, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        """Positions and hashes after a position."""
        return [(row["position"], row["hash"]) for row in await self._pool.fetch(_HASHES, after, limit)]

    async def ends(self) -> tuple[ChainEnd, int]:
        """What the head says, and the last position that an event has (0 without any)."""
        (row,) = await self._pool.fetch(_ENDS)
        epoch = Epoch(row["epoch_number"], row["epoch_line"])
        return ChainEnd(epoch, row["position"], row["hash"], row["at"]), row["last_position"]

    async def streams(self, after: str, limit: int) -> tuple[Sequence[StreamFound], str | None]:
        """At most so many streams behind this id, in order, and the id to go on behind, if any."""
        async with self._snapshot() as connection:
            last, events = None, 0
            rows = await connection.fetch(_IDS, after, limit)
            for row in rows:
                events += row["version"]
                if last is not None and events > MOST_EVENTS:
                    break
                last = row["id"]
            if rows and len(rows) < limit and last == rows[-1]["id"]:
                # the last page also holds what has no row in the table of streams
                last = None
            upper = _LAST_ID if last is None else last
            return await self._found(connection, _RANGE, after, upper), last

    async def these(self, stream_ids: Sequence[str]) -> Sequence[StreamFound]:
        """These streams, as far as anything is there of them."""
        async with self._snapshot() as connection:
            return await self._found(connection, _LISTED, list(stream_ids))

    async def touched(self, after: int, until: int) -> Sequence[str]:
        """The streams that have events after the one position, up to the other."""
        return [row["stream_id"] for row in await self._pool.fetch(_TOUCHED, after, until)]

    @asynccontextmanager
    async def _snapshot(self) -> AsyncGenerator[Any]:
        async with (
            self._pool.acquire(timeout=2) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection

    async def _found(self, connection: Any, which: str, *arguments: Any) -> list[StreamFound]:
        found = await _streams(connection, which, *arguments)
        workspaces = list({stream.workspace_id for stream in found})
        keys: dict[str, bytes] = {}
        if self._data_keys:
            keys = {row[0]: row[1] for row in await connection.fetch(_DATA_KEYS, workspaces)}
        deleted = {row[0] for row in await connection.fetch(_DELETED, workspaces)}
        return [
            msgspec.structs.replace(
                stream, data_key=keys.get(stream.workspace_id), deleted=stream.workspace_id in deleted
            )
            for stream in found
        ]


async def _streams(connection: Any, which: str, *arguments: Any) -> list[StreamFound]:
    where = which.format(id="stream_id")
    rows = {
        row["id"]: StreamRow(row["workspace_id"], row["version"])
        for row in await connection.fetch(
            f"SELECT * FROM ledger.stream WHERE {which.format(id='id')}",  # noqa: S608 — constants
            *arguments,
        )
    }
    stored = {
        row["stream_id"]: _state_row(row)
        for row in await connection.fetch(f"SELECT * FROM ledger.state WHERE {where}", *arguments)  # noqa: S608
    }
    members: dict[str, dict[str, Member]] = defaultdict(dict)
    for row in await connection.fetch(
        f"SELECT * FROM ledger.membership WHERE {which.format(id='workspace_id')}",  # noqa: S608
        *arguments,
    ):
        members[row["workspace_id"]][row["user_id"]] = Member(
            row["role"], row["since"], row["added_by"], row["added"]
        )
    events: dict[str, list[Recorded]] = defaultdict(list)
    for row in await connection.fetch(
        f"SELECT * FROM ledger.event WHERE {where} ORDER BY stream_id, version",  # noqa: S608
        *arguments,
    ):
        events[row["stream_id"]].append(recorded(row, b""))
    return [
        StreamFound(
            stream_id,
            tuple(events[stream_id]),
            rows.get(stream_id),
            stored.get(stream_id),
            data_key=None,
            deleted=False,
            members=members.get(stream_id, {}),
        )
        for stream_id in sorted({*rows, *stored, *events, *members})
    ]


def _state_row(row: Any) -> StateRow:
    return StateRow(
        row["kind"],
        row["workspace_id"],
        row["version"],
        row["position"],
        row["created_position"],
        row["body"].encode(),
    )
