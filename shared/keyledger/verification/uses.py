"""Report uses: summed in memory, spooled each second, sent until they are committed, exactly once for ever.

Lost is at most the last second at a kill -9, and what does not fit the bounds or stood in a file that cannot
be read; what is lost otherwise than by a kill is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import TypeAlias

import msgspec

from keyledger.clock import SECOND
from keyledger.verification.ports import USES_SUBJECT, Bus, BusUnavailable
from keyledger.verification.projection import KeyRecord
from keyledger.verification.spool import Batch, Spool
from keyledger.wire import Use, UseBatch

MINUTE = 60 * SECOND
FLUSH_INTERVAL = 1.0
SEND_TIMEOUT = 2.0
LONGEST_PAUSE = 10.0
STOP_WITHIN = 3.0
MAX_SUMS = 100_000
MAX_FIRSTS = 10_000
FIRST_AGAIN = 10 * SECOND
"""A first use that is not heeded within this time is told again."""
MAX_BATCH = 1_000
"""Sums in one batch: some 100 KB, far below a broker's message limit of 1 MB, and a millisecond to make."""

_BATCH = msgspec.msgpack.Encoder()
_BATCHES = msgspec.msgpack.Decoder(UseBatch)
_NEXT_SEQ = msgspec.msgpack.Decoder(int)
_log = logging.getLogger(__name__)


_Name: TypeAlias = "tuple[str, int, str, str | None]"
"""Key, minute, outcome, and the external id that the key had then."""


class _Sum(msgspec.Struct, gc=False):
    """The uses of one key with one outcome in one minute."""

    workspace_id: str
    environment: str
    count: int
    cost: int
    last_at: int


class Uses:
    """Counts uses, and gets them to the key service.

    `dropped` are those that no bound had room for or whose file cannot be read: such a file of a process
    before this one counts as one use, since nobody knows how many it held.
    """

    def __init__(self, spool: Spool, bus: Bus | None, *, boot: str, max_sums: int = MAX_SUMS) -> None:
        """`boot` names this process for ever: 32 hex characters from a CSPRNG."""
        self.dropped = 0
        self.when_dropped: Callable[[int], None] | None = None
        """Told how many, each time."""
        self._spool = spool
        self._bus = bus
        self._boot = boot
        self._seq = 0
        self._max_sums = max_sums
        self._sums: dict[_Name, _Sum] = {}
        self._firsts: list[tuple[str, int]] = []
        self._held: dict[Batch, int] = {}
        self._told: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._spooling: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._spooled = asyncio.Event()
        self._ending = False
        self._due = asyncio.Event()

    def count(self, record: KeyRecord, outcome: str, *, cost: int, now: int) -> None:
        """One use of this key at `now` (µs) met this outcome and spent `cost`. Never waits."""
        name = (record.key_id, now - now % MINUTE, outcome, record.external_id)
        entry = self._sums.get(name)
        if entry is None:
            if len(self._sums) >= self._max_sums:
                self._count_dropped(1)
                return
            self._sums[name] = _Sum(record.workspace_id, record.environment, 1, cost, now)
            return
        entry.count += 1
        entry.cost += cost
        if now > entry.last_at:  # noqa: PLR1730 (this is the hot path: a call costs more)
            entry.last_at = now

    def first_use(self, key_id: str, secret: int, *, now: int) -> None:
        """The key's secret of this version was used at `now` (µs), for which its key waits. Never waits."""
        name = (key_id, secret)
        if now - self._told.get(name, -FIRST_AGAIN) < FIRST_AGAIN or len(self._firsts) >= MAX_BATCH:
            return
        self._told[name] = now
        self._told.move_to_end(name)
        if len(self._told) > MAX_FIRSTS:
            self._told.popitem(last=False)
        self._firsts.append(name)
        self._due.set()

    async def start(self) -> None:
        """Begin to spool and to send, what dead boots left first."""
        self._spooled.set()
        self._spooling = asyncio.create_task(self._flush_on(), name="spool uses")
        self._sending = asyncio.create_task(self._send_on(), name="send uses")

    async def stop(self) -> None:
        """Spool what is summed and try to send it; whatever is not acknowledged stays in the spool.

        Takes at most twice `STOP_WITHIN` seconds.
        """
        self._ending = True
        self._due.set()
        if self._spooling is not None:
            # not cancelled in the middle of a write: a later batch must not overtake it
            await asyncio.wait([self._spooling], timeout=STOP_WITHIN)
        tasks = [task for task in (self._spooling, self._sending) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_WITHIN):
                await self.send()

    async def flush(self) -> None:
        """Move the sums into the spool, as one batch or a few; without room they are dropped and counted."""
        while self._sums or self._firsts:
            names = list(islice(self._sums, MAX_BATCH))
            taken = {name: self._sums.pop(name) for name in names}
            firsts, self._firsts = tuple(self._firsts), []
            batch = Batch(self._boot, self._seq)
            body = _BATCH.encode(
                UseBatch(self._boot, self._seq, tuple(_use(*each) for each in taken.items()), firsts)
            )
            try:
                if not self._spool.room(len(body)):
                    self._drop(taken, "the spool is full")
                    return
                # the write goes on when we are cancelled, so its number is spent either way
                self._seq += 1
                self._held[batch] = _uses_in(taken)
                await asyncio.to_thread(self._spool.write, batch, body)
            except OSError as error:
                # a number must not be missing: nothing else was written since
                self._seq = batch.seq
                self._held.pop(batch, None)
                self._drop(taken, error.strerror or "the disk")
                return
        self._spooled.set()

    async def send(self) -> bool:
        """Send what is spooled, in order; False when one was not acknowledged, and the rest not sent."""
        for batch in self._spool.batches(self._boot):
            body = await asyncio.to_thread(self._spool.read, batch)
            if body is None or not _is_batch(batch, body):
                _log.error("batch %d of boot %s cannot be read: its uses are lost", batch.seq, batch.boot)
                self._count_dropped(self._held.get(batch, 1))
            elif not await self._acknowledged(batch, body):
                return False
            await asyncio.to_thread(self._spool.remove, batch)
            self._held.pop(batch, None)
        return True

    async def _acknowledged(self, batch: Batch, body: bytes) -> bool:
        """Whether the key service says that this batch is committed."""
        if self._bus is None:
            return False
        try:
            answer = await self._bus.request(USES_SUBJECT, body, timeout=SEND_TIMEOUT)
            return _NEXT_SEQ.decode(answer.body) > batch.seq
        except (BusUnavailable, msgspec.MsgspecError, UnicodeDecodeError):
            return False

    async def _flush_on(self) -> None:
        ending = False
        while not ending:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_INTERVAL):
                    await self._due.wait()
            self._due.clear()
            ending = self._ending
            try:
                await self.flush()
            except Exception as error:
                _log.error("uses cannot be spooled: %s", type(error).__name__)

    async def _send_on(self) -> None:
        failures = 0
        while True:
            await self._spooled.wait()
            self._spooled.clear()
            try:
                sent = await self.send()
            except Exception as error:
                _log.error("uses cannot be sent: %s", type(error).__name__)
                sent = False
            if sent:
                failures = 0
                continue
            failures += 1
            pause = min(LONGEST_PAUSE, 0.5 * 2 ** min(failures, 10))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (spread, not secrecy)
            self._spooled.set()

    def _count_dropped(self, count: int) -> None:
        self.dropped += count
        if self.when_dropped is not None:
            self.when_dropped(count)

    def _drop(self, taken: dict[_Name, _Sum], why: str) -> None:
        lost = _uses_in(taken)
        self._count_dropped(lost)
        _log.error("%d uses are dropped: %s", lost, why)


def _is_batch(batch: Batch, body: bytes) -> bool:
    """Whether the body is whole and of this name; any other would be sent in vain for ever, first of all."""
    try:
        found = _BATCHES.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return (found.boot, found.seq) == (batch.boot, batch.seq)


def _uses_in(sums: dict[_Name, _Sum]) -> int:
    return sum(entry.count for entry in sums.values())


def _use(name: _Name, entry: _Sum) -> Use:
    key_id, minute, outcome, external_id = name
    return Use(
        entry.workspace_id,
        key_id,
        entry.environment,
        minute,
        outcome,
        entry.count,
        entry.cost,
        entry.last_at,
        external_id or "",
    )
