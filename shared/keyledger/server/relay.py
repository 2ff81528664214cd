"""The relay: what Postgres committed goes to JetStream, each position once and in order.

There is no checkpoint that could be wrong: where to go on is read from the stream itself, and a batch is
stored only right after the position its relay believes to be the last. Any number of relays may run. The
stream may be deleted, cut or restored at any time, and the relay follows what it finds there.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog
from msgspec import Struct

from keyledger.server.jetstream import StreamMissing, WrongLastSequence
from keyledger.server.log_stream import (
    BATCH_MESSAGES,
    LogNames,
    LogStream,
    Outgoing,
    SourceHead,
    StreamEnd,
    StreamLimits,
    one_batch,
)
from keyledger.verification.ports import Bus

_log = structlog.get_logger("keyledger.relay")


class Source(Protocol):
    """The log as its primary holds it, each call in a snapshot of its own. May raise anything."""

    async def head(self) -> SourceHead:
        """Where the log ends now."""
        ...

    async def after(self, position: int, limit: int) -> Sequence[Outgoing]:
        """At most `limit` events that follow this position, oldest first, without a hole."""
        ...

    async def hash_at(self, position: int) -> bytes | None:
        """The hash of the event at this position, None when the log has none (any more)."""
        ...


class RelaySettings(Struct, frozen=True, kw_only=True):
    """Times in seconds."""

    poll: float = 0.05
    recheck: float = 5.0
    """How long the stream's end is believed without another look at it."""
    ack_timeout: float = 1.0
    longest_pause: float = 2.0
    limits: StreamLimits = StreamLimits()


class Regression(Struct, frozen=True):
    """The stream holds what the log does not: Postgres went back in time, or somebody else published.

    `end` is the stream's; at `end.hashed` the hashes differ, or `head` lies before `end.position`.
    """

    stream: str
    end: StreamEnd
    head: SourceHead


class _Regressed(Exception):
    def __init__(self, stream: LogStream, end: StreamEnd, head: SourceHead) -> None:
        super().__init__("the stream holds what the log does not")
        self.regression = Regression(stream.name, end, head)


class Relay:
    """Publishes one log. Counters and gauges are plain attributes, for the composition root to export."""

    def __init__(
        self,
        bus: Bus,
        source: Source,
        names: LogNames,
        *,
        on_regression: Callable[[Regression], Awaitable[None]],
        settings: RelaySettings | None = None,
    ) -> None:
        """`on_regression` begins a new epoch under its own lock, if its own look agrees.

        It is called again, with pauses, for as long as stream and log contradict each other.
        """
        self.published = 0
        self.last_position = 0
        self.backlog = 0
        """Events that are not known to be on the bus: it grows with the log while the bus is away."""
        self.retries = 0
        self.regressions = 0
        self.streams_created = 0
        self.state = "starting"
        """`running`, or in words why nothing is published just now."""
        self._bus = bus
        self._source = source
        self._names = names
        self._on_regression = on_regression
        self._settings = settings or RelaySettings()
        self._stream: LogStream | None = None
        self._end: StreamEnd | None = None
        self._looked = 0.0
        self._suspicion = False
        self._failures = 0
        self._wake = asyncio.Event()
        self._resume = asyncio.Event()
        # a broker that is back ends a pause early
        bus.on_disturbance(lambda _: self._resume.set())

    def kick(self) -> None:
        """Say that something was committed; from the event loop's own thread."""
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until `stop` is set; no error ends it."""
        self._end = None
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._wake_at(stop))
            eager = True
            while not stop.is_set():
                eager = self._wake.is_set() or eager
                self._wake.clear()
                eager = await self._guarded_step(eager, stop)
                if not eager:
                    await _wait(self._wake, self._settings.poll)

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()
        self._resume.set()

    async def _guarded_step(self, eager: bool, stop: asyncio.Event) -> bool:
        """One step; True when the next one should not wait."""
        try:
            more = await self._step(eager)
        except WrongLastSequence:
            # another relay was faster, which is no trouble; only one that never wins slows down
            await self._failed("", stop, patience=1)
        except _Regressed as error:
            await self._regressed(error.regression, stop)
        except Exception as error:  # whatever the source or the broker may raise, the relay goes on
            await self._measure()
            await self._failed(f"{type(error).__name__}: {error}", stop)
        else:
            self._failures = 0
            self._suspicion = False
            self._say("running")
            return more
        return True

    async def _step(self, eager: bool) -> bool:
        """Publish the next page when `eager`, else only look whether there is one; True: there is more."""
        stream = self._stream or self._follow(await self._source.head())
        end = await self._believed_end(stream)
        page = await self._page_from(end) if eager else ()
        # The head comes last: if its line is still ours, so is every event of the page.
        head = await self._source.head()
        if head.epoch.line != stream.epoch.line:
            self._follow(head)
            return True
        last = page[0].hash if page and page[0].position == end.hashed else None
        last = head.hash if head.position == end.hashed else last
        if head.position < end.position or _differ(end.hash, last):
            raise _Regressed(stream, end, head)
        page = [event for event in page if event.position > end.position]
        self.last_position, self.backlog = end.position, head.position - end.position
        if page:
            await self._publish(stream, end, page)
            self.backlog = max(0, head.position - self.last_position)
        elif self.backlog and not eager:
            # not our own commit, so its own relay may have published it: look before trying
            self._end = None
        return self.backlog > 0

    async def _measure(self) -> None:
        """Take the backlog after a step that failed; without the log, which then does not grow, it stays."""
        with contextlib.suppress(Exception):
            self.backlog = max(0, (await self._source.head()).position - self.last_position)

    async def _page_from(self, end: StreamEnd) -> Sequence[Outgoing]:
        """The stream's last event as the log has it, and what follows, both of one snapshot."""
        return await self._source.after(max(0, end.position - 1), BATCH_MESSAGES + 1)

    async def _publish(self, stream: LogStream, end: StreamEnd, page: Sequence[Outgoing]) -> None:
        batch = one_batch(page)
        self._end = await stream.append(batch, after=end.position, timeout=self._settings.ack_timeout)
        self._looked = asyncio.get_running_loop().time()
        self.published += len(batch)
        self.last_position = self._end.position

    async def _believed_end(self, stream: LogStream) -> StreamEnd:
        """The stream's end as acknowledged a moment ago, else read and compared with the log."""
        now = asyncio.get_running_loop().time()
        if self._end is None or now - self._looked > self._settings.recheck:
            self._end = await self._read_end(stream)
            self._looked = now
        return self._end

    async def _read_end(self, stream: LogStream) -> StreamEnd:
        # The stream first, then the log: what is stored was committed before, so the log cannot be behind.
        try:
            end = await stream.end()
        except StreamMissing:
            return await self._create(stream)
        head = await self._source.head()
        ours = await self._source.hash_at(end.hashed)
        # a log that no longer holds this position (old uses are dropped) cannot contradict
        if head.epoch.line == stream.epoch.line and _differ(end.hash, ours):
            raise _Regressed(stream, end, head)
        return end

    async def _create(self, stream: LogStream) -> StreamEnd:
        """Nothing is back-filled: followers page from Postgres for what came before."""
        head = await self._source.head()
        if head.epoch.line != stream.epoch.line:
            # this line is over and needs no stream any more; the step, which looks again, follows the new one
            return StreamEnd(head.position, 0, None)
        if await stream.create(head):
            self.streams_created += 1
            _log.warning("a stream was created, empty", stream=stream.name, position=head.position)
        return await stream.end()

    def _follow(self, head: SourceHead) -> LogStream:
        self._end = None
        self._stream = LogStream(self._bus, self._names, head.epoch, self._settings.limits)
        return self._stream

    async def _regressed(self, regression: Regression, stop: asyncio.Event) -> None:
        """Look at both once more; only what is found twice in a row is acted on."""
        self._end = None
        if not self._suspicion:
            self._suspicion = True
            return
        self._suspicion = False
        self._stream = None
        self.regressions += 1
        _log.error(
            "the stream holds what the log does not",
            stream=regression.stream,
            position=regression.end.position,
            head=regression.head.position,
        )
        why = "the log went back in time"
        try:
            await self._on_regression(regression)
        except Exception as error:
            why = f"no new epoch: {type(error).__name__}: {error}"
        await self._failed(why, stop)

    async def _failed(self, why: str, stop: asyncio.Event, *, patience: int = 0) -> None:
        """Forget what was believed, and pause the longer the more failures there were in a row."""
        self._end = None
        self.retries += 1
        self._failures += 1
        if why:
            self._say(why)
        if self._failures <= patience:
            return
        pause = min(self._settings.longest_pause, 0.01 * 2 ** min(self._failures, 12))
        self._resume.clear()
        if not stop.is_set():
            await _wait(self._resume, pause * random.uniform(0.5, 1.0))  # noqa: S311 (spread, not secrecy)

    def _say(self, state: str) -> None:
        """Log a change of state once; a reason in other words (a number in it) is no change."""
        changed = state.partition(":")[0] != self.state.partition(":")[0]
        self.state = state
        if changed:
            report = _log.info if state == "running" else _log.warning
            report("the relay's state", stream=self._names.stream, state=state)


def _differ(one: bytes | None, other: bytes | None) -> bool:
    """Whether both are known and not the same."""
    return bool(one) and bool(other) and one != other


async def _wait(event: asyncio.Event, timeout: float) -> None:
    """Return when the event is set, `timeout` seconds from now at the latest."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await event.wait()
