"""Recorded events as followers get them, for the feed and for the relay: opened, without proofs.

What the data key of a destroyed workspace had sealed stays closed: `private` is then null.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec

from keyledger import events, wire
from keyledger.events import Epoch
from keyledger.server.log_stream import Outgoing, SourceHead
from keyledger.server.postgres import AWAY, STATEMENT_TIMEOUT, Pool, fetch, postgres_away
from keyledger.server.seal import SealBroken, Sealer, open_text
from keyledger.wire import Followed, Page, RecordedUses, Use

_CACHED_KEYS = 10_000
_HEAD = "SELECT epoch_number, epoch_line, position, hash FROM ledger.log_head"
_USE_HEAD = """
    SELECT h.epoch_number, h.epoch_line, u.position, ''::bytea AS hash
      FROM ledger.log_head h, ledger.use_head u
"""
# the row before the first gives the hash that the first event follows
_AFTER = "SELECT * FROM ledger.event WHERE position >= $1 AND position <= $1 + $2 ORDER BY position"
_HASH_AT = "SELECT hash FROM ledger.event WHERE position = $1"
_EPOCH_BASE = "SELECT base_hash FROM ledger.epoch WHERE base_position = $1 ORDER BY number DESC LIMIT 1"
_WRAPPED = "SELECT workspace_id, wrapped FROM ledger.workspace_key WHERE workspace_id = ANY($1)"
_USES_AFTER = """
    SELECT b.position AS batch, b.at AS recorded_at, r.* FROM ledger.use_batch b
      LEFT JOIN ledger.use_record r ON r.position = b.position
     WHERE b.position > $1 AND b.position <= $1 + $2 ORDER BY b.position
"""


class KeyLogSource:
    """The key log for followers, by feed page and for the relay."""

    def __init__(self, pool: Pool, sealer: Sealer) -> None:
        self._pool = pool
        self._sealer = sealer
        self._keys: OrderedDict[str, bytes] = OrderedDict()

    async def head(self) -> SourceHead:
        """The head, read from the primary in a snapshot of its own."""
        return _source_head((await _fetch(self._pool, _HEAD))[0])

    async def hash_at(self, position: int) -> bytes | None:
        """The hash of the event at this position, None where there is none."""
        rows = await _fetch(self._pool, _HASH_AT, position)
        if not rows:
            rows = await _fetch(self._pool, _EPOCH_BASE, position)
        return rows[0][0] if rows else None

    async def after(self, position: int, limit: int) -> Sequence[Outgoing]:
        """The next events, for the relay."""
        return [
            Outgoing(
                event.position,
                event.hash,
                f"{event.workspace_id}.{event.stream_id}",
                msgspec.msgpack.encode(event),
            )
            for event in await self.followed(position, limit)
        ]

    async def page(self, after: int, limit: int) -> bytes:
        """A feed page: the head first, so that the page never claims more than it was read at."""
        head = await self.head()
        records = await self.followed(after, limit)
        last = records[-1].position if records else after
        return wire.frame(
            [
                msgspec.msgpack.encode(
                    Page(head.epoch.number, head.epoch.line, head.position, head.hash, last)
                ),
                *map(msgspec.msgpack.encode, records),
            ]
        )

    async def followed(self, after: int, limit: int) -> list[Followed]:
        """Events after a position, opened and without proofs."""
        rows = await _fetch(self._pool, _AFTER, after, limit)
        previous = events.GENESIS
        if rows and rows[0]["position"] == after:
            previous = rows[0]["hash"]
            rows = rows[1:]
        elif rows and after:
            return []
        await self._learn({row["workspace_id"] for row in rows})
        found: list[Followed] = []
        for row in rows:
            found.append(
                Followed(
                    row["position"],
                    previous,
                    row["hash"],
                    row["stream_id"],
                    row["version"],
                    row["type"],
                    row["schema_version"],
                    row["workspace_id"],
                    row["at"],
                    opened(row, self._keys.get(row["workspace_id"])),
                )
            )
            previous = row["hash"]
        return found

    async def _learn(self, workspaces: set[str]) -> None:
        unknown = [workspace for workspace in workspaces if workspace not in self._keys]
        if unknown:
            for row in await _fetch(self._pool, _WRAPPED, unknown):
                self._keys[row["workspace_id"]] = self._sealer.unwrap(row["workspace_id"], row["wrapped"])
        while len(self._keys) > _CACHED_KEYS:
            self._keys.popitem(last=False)


def opened(row: Any, data_key: bytes | None) -> bytes:
    """An event's data with its private part open and its proof left out.

    What cannot be read or opened stays as it is: its key fails closed at the followers, the others go on.
    """
    data: bytes = row["data"]
    try:
        event = msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return data
    sealed = event.get("private")
    if sealed is None:
        return data
    event["private"] = None
    if data_key is not None:
        try:
            plain = open_text(
                data_key,
                msgspec.convert(sealed, bytes, builtin_types=()),
                events.private_place(row["stream_id"], row["version"], row["type"]),
            )
        except (SealBroken, msgspec.MsgspecError):
            return data
        event["private"] = msgspec.json.decode(plain)
        event["private"].pop("proof", None)
    return msgspec.json.encode(event)


class UseLogSource:
    """The use log for followers: positions without hashes."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def head(self) -> SourceHead:
        """The head, read from the primary in a snapshot of its own."""
        return _source_head((await _fetch(self._pool, _USE_HEAD))[0])

    async def hash_at(self, position: int) -> bytes | None:
        """Use batches are not chained: every position has the empty hash."""
        del position
        return b""

    async def after(self, position: int, limit: int) -> Sequence[Outgoing]:
        """The next batches, for the relay."""
        return [
            Outgoing(batch.position, b"", "", msgspec.msgpack.encode(batch))
            for batch in await self.batches(position, limit)
        ]

    async def uses(self, after: int, limit: int) -> bytes:
        """A page of the use feed."""
        head = await self.head()
        batches = await self.batches(after, limit)
        last = batches[-1].position if batches else after
        return wire.frame(
            [
                msgspec.msgpack.encode(Page(head.epoch.number, head.epoch.line, head.position, b"", last)),
                *map(msgspec.msgpack.encode, batches),
            ]
        )

    async def batches(self, after: int, limit: int) -> list[RecordedUses]:
        """Batches after a position, oldest first."""
        grouped: dict[int, tuple[int, list[Use]]] = {}
        for row in await _fetch(self._pool, _USES_AFTER, after, limit):
            _, uses = grouped.setdefault(row["batch"], (row["recorded_at"], []))
            if row["workspace_id"] is not None:
                uses.append(
                    Use(
                        row["workspace_id"],
                        row["key_id"],
                        row["environment"],
                        row["minute"],
                        row["outcome"],
                        row["count"],
                        row["cost"],
                        row["last_at"],
                    )
                )
        return [RecordedUses(position, at, tuple(uses)) for position, (at, uses) in grouped.items()]


def _source_head(row: Any) -> SourceHead:
    return SourceHead(Epoch(row["epoch_number"], row["epoch_line"]), row["position"], row["hash"])


async def _fetch(pool: Pool, statement: str, *arguments: Any) -> Sequence[Any]:
    try:
        return await fetch(pool, statement, *arguments, within=STATEMENT_TIMEOUT)
    except AWAY:
        raise postgres_away() from None
