"""Following the use log: live batches as they come, pages of the feed on a gap, every two seconds, at start.

What is live is only a shortcut: positions are dense, so a batch that was lost shows as a gap, and the feed
has it. The store refuses a fold that does not begin where it stands, so any number of these may run. A batch
that cannot be counted is tried alone a few times, and then passed over: it costs itself and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Collection, Sequence

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from keyledger.clock import Clock
from keyledger.events import Epoch
from keyledger.verification.ports import USE_LIVE_SUBJECT, Bus, BusUnavailable, Feed, FeedUnavailable, Message
from keyledger.wire import ErasedUses
from services.usage.domain.parking import Parked, Tries, Unfoldable, Unread, check
from services.usage.domain.tally import Tally, tally
from services.usage.ports import StoreUnavailable, UsageStore

ASK_SECONDS = 2.0
BATCHES = 100
"""At most this many batches a page and a transaction."""
USES = 50_000
"""At most this many uses a transaction, or one batch that has more."""
HELD_MESSAGES = 256
"""Live messages held while pages are folded; what is pushed out is a gap, and comes by the feed."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0

_DECODER = msgspec.msgpack.Decoder(ErasedUses)
_log = structlog.get_logger("keyledger.usage")


class Metrics:
    """How far the log is folded, and what it took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.position = Gauge("keyledger_position", "Last use batch that is folded", registry=registry)
        self.head = Gauge("keyledger_head_position", "Last use batch known to be recorded", registry=registry)
        self.age = Gauge("keyledger_age_seconds", "Age of the folded state", registry=registry)
        self.folded = Counter("keyledger_usage_batches", "Batches folded", ["source"], registry=registry)
        self.gaps = Counter("keyledger_usage_gaps", "Gaps in what was live", registry=registry)
        self.parked = Gauge("keyledger_usage_parked_batches", "Batches not counted", registry=registry)
        self.failures = Counter("keyledger_usage_failures", "Failed rounds", ["cause"], registry=registry)


class UseConsumer:
    """Folds the use log into a store for as long as `run` runs. One at a time per instance."""

    def __init__(self, store: UsageStore, feed: Feed, bus: Bus, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._feed = feed
        self._bus = bus
        self._clock = clock
        self._metrics = metrics
        self._live: deque[ErasedUses] = deque(maxlen=HELD_MESSAGES)
        self._wake = asyncio.Event()
        self._ask = False
        # the head that was read for a question, and when the question was sent
        self._owed: tuple[int, float] | None = None
        self._fresh_as_of: float | None = None
        self._trouble = ""
        self._tries = Tries()
        self.epoch: Epoch | None = None
        self.position = 0
        self.head = 0
        self.parked = 0
        """Batches that are passed over, since they cannot be counted."""
        metrics.age.set_function(lambda: self.age() or 0.0)

    def age(self) -> float | None:
        """Seconds since the latest instant as of which everything recorded is known to be folded."""
        return None if self._fresh_as_of is None else self._clock.steady() - self._fresh_as_of

    async def run(self) -> None:
        """Follow until cancelled; whatever fails is tried again, ever more slowly."""
        self._bus.on_disturbance(self._disturbed)
        await self._subscribe()
        failures = 0
        while True:
            stood = self.position
            try:
                await self._catch_up()
                await self._erase()
                failures = 0
                self._say("")
                await self._follow()
            except Exception as error:
                # one that stands in the way must not make the wait for the next one longer
                failures = failures + 1 if self.position == stood else 1
                self._metrics.failures.labels(type(error).__name__).inc()
                expected = isinstance(error, FeedUnavailable | StoreUnavailable | Unfoldable)
                # other exceptions may quote what they met: only their class is told
                self._say(f"{type(error).__name__}: {error}" if expected else type(error).__name__)
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures, 10))
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (spread, not secrecy)

    async def _subscribe(self) -> None:
        try:
            await self._bus.subscribe(f"{USE_LIVE_SUBJECT}.*", self._heard)
        except BusUnavailable as error:
            _log.warning("bus_unavailable", why=str(error))

    async def _heard(self, message: Message) -> None:
        """Hold a live batch of the epoch that is followed; any other will be met in the feed."""
        if self.epoch is None or message.subject.rpartition(".")[2] != self.epoch.line.hex():
            return
        try:
            batch = _DECODER.decode(message.body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._metrics.failures.labels("undecodable").inc()
            return
        self._live.append(batch)
        self._wake.set()

    def _disturbed(self, why: str) -> None:
        del why
        self._ask = True
        self._wake.set()

    async def _catch_up(self) -> None:
        """Fold page after page until the head that the feed told of."""
        self._ask = False
        self._stand(await self._store.parked())
        while True:
            sent = self._clock.steady()
            page, records = await self._feed.page(self.position, BATCHES)
            if self.epoch is None or page.epoch_line != self.epoch.line:
                await self._enter(Epoch(page.epoch_number, page.epoch_line), page.head_position)
                continue
            self._owe(page.head_position, sent)
            if self.position > page.head_position:
                # a restored database has forgotten both, and its feed is right
                self.position = await self._store.position(self.epoch.line)
                raise FeedUnavailable("the feed's head is behind what was folded")
            await self._fold([_read(*each) for each in enumerate(records, self.position + 1)], "feed")
            if self.position >= page.head_position:
                return
            if not records:
                raise FeedUnavailable("the feed has a hole")

    async def _enter(self, epoch: Epoch, head: int) -> None:
        """Go on where this epoch's line was left; an older epoch than the current one is no place to go."""
        if self.epoch is not None and epoch.number < self.epoch.number:
            raise FeedUnavailable("the feed tells an older epoch")
        position = await self._store.begin(epoch, head)
        self.epoch, self.position, self._owed, self._fresh_as_of = epoch, position, None, None
        self._live.clear()
        _log.info("epoch", epoch=epoch.text, position=position)

    async def _follow(self) -> None:
        """Fold what is live until the feed should be asked again: after a while, on a gap, when disturbed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ASK_SECONDS
        while not self._ask and loop.time() < deadline:
            self._wake.clear()
            if not await self._fold_live():
                self._metrics.gaps.inc()
                return
            if not self._live:
                # only the waiting is cut short, never a transaction
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline):
                        await self._wake.wait()

    async def _fold_live(self) -> bool:
        """Fold what continues the position; False when something is missing before the next held batch."""
        ready: list[ErasedUses] = []
        uses = 0
        while self._live and len(ready) < BATCHES and (not ready or uses + len(self._live[0].uses) <= USES):
            expected = (ready[-1].position if ready else self.position) + 1
            if self._live[0].position > expected:
                break
            batch = self._live.popleft()
            if batch.position == expected:
                ready.append(batch)
                uses += len(batch.uses)
        await self._fold(ready, "live")
        return not self._live or self._live[0].position <= self.position + 1

    async def _fold(self, batches: Sequence[ErasedUses | Unread], source: str) -> None:
        """Add these batches, which must continue the position; the one that cannot be added holds up none."""
        if [batch.position for batch in batches] != list(
            range(self.position + 1, self.position + 1 + len(batches))
        ):
            raise FeedUnavailable("the feed's positions are not dense")
        try:
            await self._add(batches, source)
        except Unfoldable:
            for batch in batches:
                try:
                    await self._add([batch], source)
                except Unfoldable as error:
                    if not self._tries.spent(batch.position):
                        raise
                    await self._park(Parked(batch.position, len(batch.uses), str(error)))
        self._settle()

    async def _add(self, batches: Sequence[ErasedUses | Unread], source: str) -> None:
        """Add these batches in one transaction; `Unfoldable` when one of them cannot be added."""
        if not batches or self.epoch is None or batches[0].position != self.position + 1:
            return
        check(batches)
        erased = {workspace for batch in batches for workspace in batch.erased}
        totals = tally(use for batch in batches for use in batch.uses if use.workspace_id not in erased)
        last = batches[-1].position
        if await self._moved(self.epoch, last, totals, erased):
            self._metrics.folded.labels(source).inc(len(batches))

    async def _park(self, batch: Parked) -> None:
        """Pass over a batch, and say so."""
        if self.epoch is None or batch.position != self.position + 1:
            return
        if await self._moved(self.epoch, batch.position, tally(()), parked=[batch]):
            _log.error("batch_parked", position=batch.position, count=batch.uses, why=batch.why)
            self._stand(self.parked + 1)

    async def _moved(
        self,
        epoch: Epoch,
        last: int,
        totals: Tally,
        erased: Collection[str] = (),
        parked: Sequence[Parked] = (),
    ) -> bool:
        """Whether the store moved on to `last`; else another process was here, and has gone further."""
        moved = await self._store.fold(epoch, self.position, last, totals, erased, parked=parked)
        self.position = last if moved else await self._store.position(epoch.line)
        self.head = max(self.head, self.position)
        return moved

    async def _erase(self) -> None:
        """Remove what deleted workspaces left, step by step, whoever was told of them."""
        while await self._store.erase_some():
            pass

    def _stand(self, parked: int) -> None:
        self.parked = parked
        self._metrics.parked.set(parked)

    def _owe(self, head: int, sent: float) -> None:
        self.head = head
        if self._owed is None:
            self._owed = (head, sent)

    def _settle(self) -> None:
        """Once the head of a question is folded, the state is fresh as of when the question was sent."""
        if self._owed is not None and self.position >= self._owed[0]:
            self._fresh_as_of, self._owed = self._owed[1], None
        self._metrics.position.set(self.position)
        self._metrics.head.set(self.head)

    def _say(self, trouble: str) -> None:
        """Log a change of state once, however often it is met again."""
        if trouble != self._trouble:
            self._trouble = trouble
            (_log.warning if trouble else _log.info)("following", why=trouble or "caught up")


def _read(position: int, record: memoryview) -> ErasedUses | Unread:
    """The feed's record at this position."""
    try:
        return _DECODER.decode(record)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Unread(position)
