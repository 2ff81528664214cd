"""What is left to do once a workspace is deleted: small steps in Postgres, then its subjects in the stream.

Postgres says what is still to be done, so a crash only interrupts it, and any number of processes may do it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from keyledger.clock import Clock
from keyledger.events import Epoch
from keyledger.server import jetstream
from keyledger.server.jetstream import JetStreamError, StreamMissing
from keyledger.server.log_stream import KEY_LOG
from keyledger.server.postgres import AWAY, UNDONE, Pool, fetch
from keyledger.verification.ports import Bus, BusUnavailable

STEP_ROWS = 500
"""Rows that one step removes, or use batches that it looks through: a few milliseconds of locks."""
LOOK_EVERY = 1.0
_NEW = "SELECT workspace_id, position FROM ledger.erasure WHERE position > $1 ORDER BY position LIMIT 1000"
_STEP = "SELECT ledger.erase_some($1, $2)"
_TO_PURGE = "SELECT workspace_id, position FROM ledger.erasure WHERE NOT purged ORDER BY position LIMIT 100"
_LINES = "SELECT number, line FROM ledger.epoch ORDER BY number"
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
            for forget in self._forget:
                forget(row["workspace_id"])
            self._seen = row["position"]

    async def erase_rows(self, stop: asyncio.Event) -> None:
        """Remove rows step by step, each a transaction of its own, until none are left."""
        while not stop.is_set():
            ((more,),) = await self._fetch(_STEP, STEP_ROWS, self._clock.now())
            if not more:
                return

    async def purge(self) -> None:
        """Purge the subjects of the workspaces whose last word is in the stream by now."""
        waiting = await self._fetch(_TO_PURGE)
        if not waiting:
            return
        lines = [Epoch(row["number"], row["line"]) for row in await self._fetch(_LINES)]
        for row in waiting:
            if await self._purged(row["workspace_id"], row["position"], lines):
                await self._fetch(_PURGED, row["workspace_id"])
                _log.info("workspace_erased", workspace_id=row["workspace_id"])

    async def _purged(self, workspace_id: str, position: int, lines: Sequence[Epoch]) -> bool:
        """Whether no line's stream holds anything of it; False while the relay has yet to tell of its end.

        After that there is nothing more to come: no event of it is appended, and its data key is gone.
        """
        *past, current = lines
        try:
            info = await jetstream.info(self._bus, KEY_LOG.stream_of(current))
        except StreamMissing:
            # the relay is about to make it, perhaps from before the deletion
            return False
        if info.state.last_seq < position:
            return False
        for line in (*past, current):
            with contextlib.suppress(StreamMissing):
                subject = KEY_LOG.subject_of(line, f"{workspace_id}.>")
                await jetstream.purge(self._bus, KEY_LOG.stream_of(line), subject)
        return True

    async def _fetch(self, statement: str, *arguments: Any) -> Sequence[Any]:
        return await fetch(self._pool, statement, *arguments)
