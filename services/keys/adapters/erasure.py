"""What is left to do once a workspace is deleted: small steps in Postgres, then its words in the streams.

Postgres says what is still to be done, so a crash only interrupts it, and any number of processes may do it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from keyledger.clock import Clock
from keyledger.events import Epoch, WorkspaceDeleted, tag_of
from keyledger.server import jetstream
from keyledger.server.jetstream import JetStreamError, StreamMissing
from keyledger.server.log_stream import KEY_LOG, USE_LOG
from keyledger.server.postgres import AWAY, UNDONE, Pool, fetch
from keyledger.verification.ports import Bus, BusUnavailable
from services.keys.adapters.lost_tail import followed

STEP_ROWS = 500
"""Rows that one step removes, or use batches that it looks through: a few milliseconds of locks."""
LOOK_EVERY = 1.0
_DELETED = tag_of(WorkspaceDeleted())
_NEW = """
    SELECT h.epoch_line AS line, d.workspace_id, d.position
      FROM ledger.log_head h LEFT JOIN ledger.erasure d ON d.position > $1 ORDER BY d.position LIMIT 1000
"""
_STEP = "SELECT ledger.erase_some($1, $2)"
_TO_PURGE = """
    SELECT workspace_id, position, marker FROM ledger.erasure WHERE NOT purged ORDER BY position LIMIT 100
"""
_LINE = "SELECT epoch_number, epoch_line FROM ledger.log_head"
_PURGED = "SELECT ledger.stream_purged($1)"
_log = structlog.get_logger("keyledger.keys")


class Eraser:
    """Erases what deleted workspaces left; in every process each `forget` is called with their ids."""

    def __init__(
        self, pool: Pool, bus: Bus, clock: Clock, *, forget: Sequence[Callable[[str], None]]
    ) -> None:
        self._pool = pool
        self._bus = bus
        self._clock = clock
        self._forget = forget
        self._line = b""
        self._seen = 0
        self._trouble = ""
        self._wake = asyncio.Event()

    def kick(self) -> None:
        """Say that a workspace was deleted."""
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Erase whatever there is, until `stop` is set; what fails is tried again at the next look."""
        stopping = asyncio.create_task(stop.wait())
        stopping.add_done_callback(lambda _: self._wake.set())
        try:
            while not stop.is_set():
                self._wake.clear()
                await self._look(stop)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY):
                        await self._wake.wait()
        finally:
            stopping.cancel()

    async def _look(self, stop: asyncio.Event) -> None:
        trouble = ""
        try:
            await self.forget_new()
            await self.erase_rows(stop)
            await self.purge()
        except (*AWAY, *UNDONE, BusUnavailable, JetStreamError) as error:
            trouble = type(error).__name__
        if trouble != self._trouble:
            self._trouble = trouble
            (_log.warning if trouble else _log.info)("erasure", why=trouble or "goes on")

    async def forget_new(self) -> None:
        """Forget the workspaces that were deleted since the last look, here or elsewhere."""
        for row in await self._fetch(_NEW, self._seen):
            if row["line"] != self._line:
                # Postgres went back in time: what is deleted now may stand before what was seen
                self._line, self._seen = row["line"], 0
                return await self.forget_new()
            if row["workspace_id"] is not None:
                for forget in self._forget:
                    forget(row["workspace_id"])
                self._seen = row["position"]
        return None

    async def erase_rows(self, stop: asyncio.Event) -> None:
        """Remove rows step by step, each a transaction of its own, until none are left."""
        while not stop.is_set():
            ((more,),) = await self._fetch(_STEP, STEP_ROWS, self._clock.now())
            if not more:
                return

    async def purge(self) -> None:
        """Purge the subjects, and the uses, of the workspaces whose last word is in the streams by now."""
        waiting = await self._fetch(_TO_PURGE)
        if not waiting:
            return
        ((number, line),) = await self._fetch(_LINE)
        epoch = Epoch(number, line)
        current, uses = KEY_LOG.stream_of(epoch), USE_LOG.stream_of(epoch)
        # those of lost tellings, too, which a restored log does not know
        streams = await jetstream.names(self._bus, f"{KEY_LOG.stream}_")
        use_streams = await jetstream.names(self._bus, f"{USE_LOG.stream}_")
        if current not in streams or uses not in use_streams:
            # the relay is about to make it, perhaps from before the deletion
            return
        told = (await jetstream.info(self._bus, current)).state.last_seq
        told_uses = (await jetstream.info(self._bus, uses)).state.last_seq
        for row in waiting:
            if row["position"] > told or row["marker"] is None or row["marker"] > told_uses:
                # the relay has yet to tell of its end
                return
            for stream in streams:
                with contextlib.suppress(StreamMissing):
                    await self._purge(stream, row["workspace_id"])
            for stream in use_streams:
                # whose uses are in a batch its subject does not tell; the feed has what others still need
                with contextlib.suppress(StreamMissing):
                    await jetstream.purge(self._bus, stream, before=row["marker"] if stream == uses else None)
            await self._fetch(_PURGED, row["workspace_id"])
            _log.info("workspace_erased", workspace_id=row["workspace_id"])

    async def _purge(self, stream: str, workspace_id: str) -> None:
        """Leave nothing of it in this stream but that it was deleted, if the stream tells so.

        That word holds ids only, and a log restored to before it has to learn of it from here. It is the last
        one: no later event of the workspace is appended, and its data key is gone.
        """
        own = KEY_LOG.subject_of_any_line(f"{workspace_id}.{workspace_id}")
        word = await jetstream.last_message(self._bus, stream, own)
        event = None if word is None else followed(word)
        kept = word.sequence if word and event and event.type == _DELETED else None
        subject = KEY_LOG.subject_of_any_line(f"{workspace_id}.>")
        await jetstream.purge(self._bus, stream, subject, before=kept)

    async def _fetch(self, statement: str, *arguments: Any) -> Sequence[Any]:
        return await fetch(self._pool, statement, *arguments)
