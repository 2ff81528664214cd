"""Recorded events as followers get them, for the feed and for the relay: opened, without proofs.

What the data key of a destroyed workspace had sealed stays closed: `private` is then null.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec

from keyledger import events, wire
from keyledger.errors import invalid_request
from keyledger.events import Epoch
from keyledger.server.log_stream import Outgoing, SourceHead
from keyledger.server.postgres import AWAY, STATEMENT_TIMEOUT, Pool, fetch, postgres_away
from keyledger.server.seal import Sealer, TextOpener
from keyledger.wire import ErasedUses, Followed, Page, RecordedUses, Use
from services.keys.adapters.opening import opened

_CACHED_KEYS = 10_000
DAY = 86_400_000_000
"""The days of the use log, in µs."""
PAGE_USES = 50_000
"""Uses of one page at most, some 10 MB: more than a batch has that a broker would carry."""
SLICE = 500
"""Events opened before other work of this process gets its turn (some milliseconds)."""
_HEAD = "SELECT epoch_number, epoch_line, position, hash FROM ledger.log_head"
_USE_HEAD = """
    SELECT h.epoch_number, h.epoch_line, u.position, ''::bytea AS hash
      FROM ledger.log_head h, ledger.use_head u
"""
# The data key is asked for each time, since anyone may have destroyed it.
_EVENT = """
    SELECT e.position, e.hash, e.stream_id, e.version, e.type, e.schema_version, e.workspace_id, e.at, e.data,
           k.wrapped
      FROM ledger.event e LEFT JOIN ledger.workspace_key k ON k.workspace_id = e.workspace_id
"""
# the row before the first gives the hash that the first event follows
_AFTER = f"{_EVENT} WHERE e.position >= $1 AND e.position <= $1 + $2 ORDER BY e.position"
_OF_STREAMS = f"""
    {_EVENT} WHERE e.stream_id = ANY($1) AND e.position > $2 AND e.position <= $3 ORDER BY e.position
"""
_HASH_AT = "SELECT hash FROM ledger.event WHERE position = $1"
_EPOCH_BASE = "SELECT base_hash FROM ledger.epoch WHERE base_position = $1 ORDER BY number DESC LIMIT 1"
_BATCHES_AFTER = """
    SELECT b.position, b.at, d.workspace_id AS erased FROM ledger.use_batch b
      LEFT JOIN ledger.erasure d ON d.marker = b.position
     WHERE b.position > $1 AND b.position <= $1 + $2 ORDER BY b.position
"""
# Only the partitions of these days are looked at.
_USES_OF = """
    SELECT position, workspace_id, key_id, environment, minute, outcome, count, cost, last_at, external_id
      FROM ledger.use_record WHERE position > $1 AND position <= $2 AND day >= $3 AND day <= $4
     ORDER BY position LIMIT $5
"""
_GONE_TO = "SELECT gone_to FROM ledger.use_head"
_ENCODER = msgspec.msgpack.Encoder()


class KeyLogSource:
    """The key log for followers, by feed page and for the relay."""

    def __init__(self, pool: Pool, sealer: Sealer) -> None:
        self._pool = pool
        self._sealer = sealer
        self._keys: OrderedDict[str, TextOpener] = OrderedDict()

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
        page = Page(head.epoch.number, head.epoch.line, head.position, head.hash, last)
        return wire.frame([_ENCODER.encode(page), *map(_ENCODER.encode, records)])

    async def followed(self, after: int, limit: int) -> list[Followed]:
        """Events after a position, opened and without proofs."""
        rows = await _fetch(self._pool, _AFTER, after, limit)
        previous = events.GENESIS
        if rows and rows[0]["position"] == after:
            previous = rows[0]["hash"]
            rows = rows[1:]
        elif rows and after:
            return []
        found: list[Followed] = []
        for number, row in enumerate(rows, 1):
            found.append(self._followed(row, previous))
            previous = row["hash"]
            if number % SLICE == 0:
                await asyncio.sleep(0)
        return found

    async def of_streams(self, stream_ids: Sequence[str], *, after: int, upto: int) -> list[Followed]:
        """The events of these streams after `after` up to position `upto`; `previous_hash` is empty."""
        rows = await _fetch(self._pool, _OF_STREAMS, list(stream_ids), after, upto)
        return [self._followed(row, b"") for row in rows]

    def forget(self, workspace_id: str) -> None:
        """Drop the data key of a workspace that was deleted."""
        self._keys.pop(workspace_id, None)

    def _followed(self, row: Any, previous: bytes) -> Followed:
        position, digest, stream, version, tag, schema_version, workspace, at, data, wrapped = row
        opener = None if wrapped is None else self._keys.get(workspace) or self._learn(workspace, wrapped)
        data = opened(data, stream, version, tag, opener)
        return Followed(position, previous, digest, stream, version, tag, schema_version, workspace, at, data)

    def _learn(self, workspace_id: str, wrapped: bytes) -> TextOpener:
        opener = TextOpener(self._sealer.unwrap(workspace_id, wrapped))
        self._keys[workspace_id] = opener
        while len(self._keys) > _CACHED_KEYS:
            self._keys.popitem(last=False)
        return opener


class UseLogSource:
    """The use log for followers: positions without hashes."""

    def __init__(self, pool: Pool, *, page_uses: int = PAGE_USES) -> None:
        self._pool = pool
        self._page_uses = page_uses

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
        """Batches after a position, oldest first: at most `limit`, and fewer where they have many uses.

        Refuses with `invalid_request` when some of them are no longer kept.
        """
        batches = await _fetch(self._pool, _BATCHES_AFTER, after, limit)
        uses: dict[int, list[Use]] = {}
        if batches:
            first, last = batches[0], batches[-1]
            within = (after, last["position"], first["at"] // DAY, last["at"] // DAY)
            for position, *fields in await _fetch(self._pool, _USES_OF, *within, self._page_uses + 1):
                uses.setdefault(position, []).append(Use(*fields))
            if sum(map(len, uses.values())) > self._page_uses:
                # the last one may have been cut
                cut = max(uses)
                batches = [batch for batch in batches if batch["position"] < cut]
        # asked last: a day that was dropped meanwhile shows here, and not as batches without uses
        gone_to = (await _fetch(self._pool, _GONE_TO))[0][0]
        if after < gone_to:
            raise invalid_request(f"Use batches up to {gone_to} are no longer kept.", field="after")
        return [
            RecordedUses(position, at, tuple(uses.get(position, ())))
            if erased is None
            else ErasedUses(position, at, (), (erased,))
            for position, at, erased in batches
        ]


def _source_head(row: Any) -> SourceHead:
    return SourceHead(Epoch(row["epoch_number"], row["epoch_line"]), row["position"], row["hash"])


async def _fetch(pool: Pool, statement: str, *arguments: Any) -> Sequence[Any]:
    try:
        return await fetch(pool, statement, *arguments, within=STATEMENT_TIMEOUT)
    except AWAY:
        raise postgres_away() from None
