"""Epochs over Postgres: begin one when Postgres has gone back in time, tell of them, accept one.

The log and the stream that contradicts it are both looked at again while the head is locked, so that however
many relays find the same, one of them begins the epoch and the others find it begun.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import structlog
from asyncpg.pool import PoolConnectionProxy

from keyledger import events
from keyledger.clock import Clock
from keyledger.errors import conflict
from keyledger.events import Epoch, EpochAccepted, EpochStarted, LostDenial
from keyledger.server.jetstream import StreamMissing
from keyledger.server.log_stream import KEY_LOG, USE_LOG, LogStream, SourceHead, StreamEnd, StreamLimits
from keyledger.server.postgres import AWAY, Pool, fetch, postgres_away
from keyledger.server.relay import Regression
from keyledger.verification.ports import Bus
from services.keys.adapters.feed import KeyLogSource, UseLogSource
from services.keys.adapters.lost_tail import LostTail, later_lines, read_lost_tail
from services.keys.domain.tellings import in_parts
from services.keys.ports import EpochAt, EpochTold

_ACQUIRE = 2.0
_SYSTEM = """
    SELECT stream_id FROM ledger.state WHERE kind = 'workspace' AND body @> '{"system": true}'
     ORDER BY created_position LIMIT 1
"""
_BEGIN = "SELECT * FROM ledger.begin_epoch($1, $2, $3, $4, $5, $6)"
_ACCEPT = "SELECT * FROM ledger.accept_epoch($1, $2, $3, $4, $5, $6, $7)"
_EPOCHS = "SELECT number, line, base_position, at, accepted_at FROM ledger.epoch ORDER BY number"
_TOLD = """
    SELECT type, schema_version, data FROM ledger.event
     WHERE stream_id = 'epochs' AND type = 'epoch_started' ORDER BY position
"""
_LOST = """
    SELECT workspace_id, what, key_id, secret, since FROM ledger.lost_denial
     WHERE key_id = $1 OR (key_id IS NULL AND workspace_id = $2)
"""
_log = structlog.get_logger("keyledger.epochs")


class Moved(Exception):
    """The old stream is not what it was when it was read: read it again."""


class PostgresEpochs:
    """`Epochs` on a pool, and what a relay calls when its stream holds what the log does not."""

    def __init__(
        self,
        pool: Pool,
        bus: Bus,
        source: KeyLogSource,
        use_source: UseLogSource,
        clock: Clock,
        *,
        limits: StreamLimits,
    ) -> None:
        """`limits` are those of the streams that the relays make."""
        self._pool = pool
        self._bus = bus
        self._source = source
        self._use_source = use_source
        self._clock = clock
        self._limits = limits

    async def begin(self, regression: Regression) -> None:
        """A new epoch, once, with what the old one denied, unless log and streams now agree.

        Raises whatever kept it from that; the relay calls again.
        """
        old = regression.head.epoch
        tail = await self._lost_tail(old)
        async with self._pool.acquire(timeout=_ACQUIRE) as connection, connection.transaction():
            head = await connection.fetchrow("SELECT * FROM ledger.lock_head()")
            if head is None or head["epoch_line"] != old.line:
                return
            end = await self._end(LogStream(self._bus, KEY_LOG, old, self._limits))
            if not await self._contradicted(old, end, head["position"]):
                return
            if end != (tail and tail.end):
                raise Moved("the old stream has changed meanwhile")
            begun = await self._record(connection, head, old, tail)
        if begun is not None:
            self._report(regression, begun, tail)

    async def told(self) -> Sequence[EpochTold]:
        """Every epoch, oldest first, with what was lost at its beginning."""
        rows, started = await self._fetch(_EPOCHS), await self._fetch(_TOLD)
        lost: dict[int, list[LostDenial]] = {row["number"]: [] for row in rows}
        for row in started:
            event = events.decode(row["type"], row["schema_version"], row["data"])
            if isinstance(event, EpochStarted):
                lost.setdefault(event.number, []).extend(event.lost)
        return [
            EpochTold(
                Epoch(row["number"], row["line"]),
                row["base_position"],
                row["at"],
                row["accepted_at"],
                tuple(lost[row["number"]]),
            )
            for row in rows
        ]

    async def accept(self, number: int, *, actor: str, request_id: str, workspace_id: str) -> EpochAt:
        """Let the log's own word count from here on; a `conflict` unless `number` is the epoch of now."""
        event = EpochAccepted(number)
        rows = await self._fetch(
            _ACCEPT,
            number,
            workspace_id,
            events.schema_version_of(event),
            actor,
            request_id,
            events.encode(event),
            self._clock.now(),
        )
        if not rows:
            raise conflict("Another epoch has begun: look at what was lost, and accept that one.")
        return EpochAt(Epoch(number, rows[0]["epoch_line"]), rows[0]["head_position"], rows[0]["accepted_at"])

    async def lost(self, key_id: str, workspace_id: str) -> Sequence[LostDenial]:
        """What was lost of this key, or of all keys of its workspace, and is not accepted."""
        return [LostDenial(**row) for row in await self._fetch(_LOST, key_id, workspace_id)]

    async def _lost_tail(self, old: Epoch) -> LostTail | None:
        stream = LogStream(self._bus, KEY_LOG, old, self._limits)
        end = await self._end(stream)
        if end is None:
            _log.error("lost_events_unknown", stream=stream.name, why="the stream is lost as well")
            return None
        head = await self._source.head()
        tail = await read_lost_tail(self._bus, stream.name, end, self._source, head.position)
        known = [row["line"] for row in await self._fetch(_EPOCHS)]
        denials = list(tail.denials)
        for epoch in await later_lines(self._bus, old, known, self._source):
            later = LogStream(self._bus, KEY_LOG, epoch, self._limits)
            read = await read_lost_tail(self._bus, later.name, await later.end(), self._source, head.position)
            denials += read.denials
        return LostTail(tail.shared, tail.end, tuple(dict.fromkeys(denials)))

    async def _end(self, stream: LogStream) -> StreamEnd | None:
        try:
            return await stream.end()
        except StreamMissing:
            return None

    async def _contradicted(self, old: Epoch, end: StreamEnd | None, position: int) -> bool:
        """Whether a stream of this line holds what the log, whose head is locked, does not."""
        if end is not None:
            ours = await self._source.hash_at(end.hashed)
            if end.position > position or (end.hash and ours and end.hash != ours):
                return True
        # uses first on the stream, then in the log: what is stored was committed before
        uses = await self._end(LogStream(self._bus, USE_LOG, old, self._limits))
        return uses is not None and uses.position > (await self._use_source.head()).position

    async def _record(
        self, connection: PoolConnectionProxy, head: Any, old: Epoch, tail: LostTail | None
    ) -> Any:
        number, line = head["epoch_number"] + 1, secrets.token_bytes(8)
        epoch = Epoch(number, line)
        # made here, so that it holds the new line from its first event on: a relay would make it without that
        stream = LogStream(self._bus, KEY_LOG, epoch, self._limits)
        await stream.create(SourceHead(epoch, head["position"], head["hash"]), previous=old.line)
        system = await connection.fetchval(_SYSTEM)
        told = [
            EpochStarted(
                number,
                line,
                head["position"],
                head["position"] if tail is None else tail.shared,
                0 if tail is None else tail.end.position,
                lost,
            )
            for lost in in_parts(() if tail is None else tail.denials)
        ]
        return await connection.fetchrow(
            _BEGIN,
            old.line,
            line,
            system,
            events.schema_version_of(told[0]),
            [] if system is None else [events.encode(event) for event in told],
            self._clock.now(),
        )

    def _report(self, regression: Regression, begun: Any, tail: LostTail | None) -> None:
        _log.error(
            "epoch_begun",
            why="Postgres went back in time; `keyledger epoch status` lists what was lost",
            stream=regression.stream,
            epoch=begun["epoch_number"],
            position=begun["head_position"],
            shared_position=None if tail is None else tail.shared,
            lost_position=None if tail is None else tail.end.position,
            lost=0 if tail is None else len(tail.denials),
        )

    async def _fetch(self, statement: str, *arguments: Any) -> Sequence[Any]:
        try:
            return await fetch(self._pool, statement, *arguments)
        except AWAY:
            raise postgres_away() from None
