"""Keep a store up to date with the key log: live from the bus, whole from the feed, proven by the head.

Nothing arrives for certain and nothing needs to: an event is applied only when it continues our own chain,
a gap is filled from the feed, another history is rebuilt beside and swapped in, and once a second the head
is asked for, which is what says how old the store may be.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Sequence

import msgspec

from keyledger.clock import Clock
from keyledger.events import Epoch
from keyledger.verification.ahead import Ahead
from keyledger.verification.forever import forever
from keyledger.verification.freshness import Freshness
from keyledger.verification.heads import Heads, Source
from keyledger.verification.ports import (
    APPLIED_SUBJECT,
    LIVE_SUBJECT,
    TICK_SUBJECT,
    Bus,
    BusUnavailable,
    FeedUnavailable,
    Message,
)
from keyledger.verification.snapshot import Snapshots, load
from keyledger.verification.store import Fit, Store, StoreUnavailable, has
from keyledger.verification.telling import followed, read_page, read_telling
from keyledger.verification.turns import TURN, Turn
from keyledger.wire import Followed, Head, HeadQuestion, Page

ASK_INTERVAL, ASK_GAP = 1.0, 0.05
REACH_WITHIN = 1.0

_HEAD = msgspec.msgpack.Decoder(Head)
_log = logging.getLogger(__name__)


class Follower:
    """Follows into `store`; between `start` and `stop` three tasks do, and no error ends them."""

    def __init__(
        self,
        store: Store,
        source: Source,
        bus: Bus | None,
        clock: Clock,
        *,
        name: str,
        held_seconds: float = 900,
        peppers: Callable[[], tuple[str, ...]] = tuple,
        snapshots: Snapshots | None = None,
        max_staleness: float = 300,
    ) -> None:
        """`name` is this verifier's in receipts, which tell the `peppers` it holds and the `max_staleness`
        (seconds) it answers from. Without a bus the feed is asked once a second. With `snapshots` an empty
        store need not read a long log from its beginning.
        """
        self.pepper = ""
        """The one under which new digests are made, as the key service last said."""
        self.unreadable = 0
        self.rebuilds = 0
        self.forks = 0
        """How often what was applied proved to be another history."""
        self.freshness = Freshness(held_seconds=held_seconds)
        self._store = store
        self._source = source
        self._bus = bus
        self._clock = clock
        self._name = name
        self._peppers = peppers
        self._max_staleness = max_staleness
        self._heads = Heads(source, bus, clock)
        self._snapshots = snapshots
        self._ahead = Ahead()
        self._behind = True
        self._forked = False
        self._swaps = 0
        self._wake = asyncio.Event()
        self._ask_now = asyncio.Event()
        self._denied = asyncio.Event()
        self._moved = asyncio.Event()
        self._spent = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Subscribe, then begin to follow; returns before the store is up to date."""
        if self._bus is not None:
            self._bus.on_disturbance(self._disturbed)
            await self._bus.subscribe(f"{LIVE_SUBJECT}.>", self._live)
            await self._bus.subscribe(TICK_SUBJECT, self._tick)
        self._wake.set()
        self._tasks = [
            asyncio.create_task(forever(step), name=f"follower {step.__name__}")
            for step in (self._catch_up, self._ask_on, self._announce)
        ]

    async def stop(self) -> None:
        """End the tasks; the store stays as it is."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    @property
    def hearing(self) -> bool:
        """Whether live events arrive; without them the feed is asked, which is slower."""
        return self._bus is not None and self._bus.connected

    def age(self) -> float:
        """Seconds since the store was certainly up to date."""
        return self.freshness.age(self._clock.steady())

    async def reached(self, position: int, epoch: str | None, *, within: float = REACH_WITHIN) -> bool:
        """Whether the store has this position (of this epoch, if given) before `within` seconds are over."""
        if has(self._store, position, epoch):
            return True
        self._ask_now.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not has(self._store, position, epoch):
                    await self._moved.wait()
        return has(self._store, position, epoch)

    async def ask(self) -> bool:
        """Ask for the head once and learn from the answer; False when nobody answered."""
        swaps, question = self._swaps, self._question(secrets.token_hex(8))
        asked_at = self._clock.steady()
        if (head := await self._heads.ask(question)) is None:
            return False
        self.pepper = head.pepper or self.pepper
        if self._swaps != swaps:
            # what was asked was about another store
            return True
        if not head.writable:
            # of another line nothing follows; one who never knew the log still says that it cannot write
            if head.epoch_line == question.epoch_line or head.epoch_number == 0:
                self.freshness.answered(
                    head.position, asked_at=asked_at, applied=self._store.position, writable=False
                )
        elif self._same_line(Epoch(head.epoch_number, head.epoch_line)) and question.epoch_line:
            self._proven(head.position, head.hash, asked_at=asked_at, applied=question.applied)
        else:
            # another telling, or the first word of one: the feed says the rest
            self._repair()
        return True

    def distrust(self) -> None:
        """What the store holds is not to be believed: nothing is fresh until the log is read anew."""
        self.freshness.lost()
        self._forked = True
        self._repair()

    async def leave(self) -> None:
        """Say that this verifier has stopped; nothing it has applied counts as fresh any more."""
        self.freshness.lost()
        await self._tell(msgspec.structs.replace(self._question(""), leaving=True))

    async def repair(self) -> None:
        """Page from the feed until the store is as far as it; or `FeedUnavailable`."""
        rebuilt = False
        while self._behind or self._forked:
            if self._forked:
                if rebuilt:
                    # whoever serves the feed contradicts itself: not without a pause
                    raise FeedUnavailable("another history once more")
                rebuilt = True
                await self._rebuild()
            else:
                self._behind = False
                try:
                    await self._page_on()
                except FeedUnavailable:
                    self._behind = True
                    raise

    # -- what arrives

    async def _live(self, message: Message) -> None:
        epoch = self._store.epoch
        line = message.subject.removeprefix(f"{LIVE_SUBJECT}.").partition(".")[0]
        if epoch is None or line != epoch.line.hex():
            self._ask_now.set()
            return
        began = self._clock.steady()
        try:
            self._take_some([followed(message.body)])
        except (msgspec.MsgspecError, UnicodeDecodeError, StoreUnavailable):
            self._repair()
        self._spent += self._clock.steady() - began
        if self._spent >= TURN:
            # many may have arrived together, and the bus hands them on without a pause
            self._spent = 0.0
            await asyncio.sleep(0)

    async def _tick(self, message: Message) -> None:
        try:
            head = _HEAD.decode(message.body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        self._heads.ticked(head)
        epoch = self._store.epoch
        if epoch is None or head.epoch_line != epoch.line or head.position > self._store.position:
            self._ask_now.set()

    def _disturbed(self, _: str) -> None:
        self._ask_now.set()
        self._repair()

    # -- what is done with it

    def _take_some(self, events: Sequence[Followed], at: int = 0) -> int:
        """Apply what is next of these from `at` on, as much as a turn has time for; the place of the next."""
        before, turn, done = self._store.position, Turn(self._clock.steady), False
        with self._store.batch():
            while not done and at < len(events) and self._take(events[at]):
                at, done = at + 1, turn.over()
            while not (done or self._forked) and (event := self._ahead.take(self._store.position + 1)):
                self._take(event)
                done = turn.over()
        if self._store.position != before:
            self.freshness.applied(self._store.position)
            self._move()
        if self._store.position + 1 in self._ahead:
            self._repair()
        return at

    def _take(self, event: Followed) -> bool:
        """Apply the event if it is next; whether the store now has it."""
        if self._forked:
            return False
        fit = self._store.fit(event)
        if fit is Fit.NEXT:
            self._apply(event)
        elif fit is Fit.GAP:
            self._ahead.keep(event)
            self._repair()
        elif fit is Fit.FORK:
            self._fork(event.position)
        return fit in (Fit.NEXT, Fit.KNOWN)

    def _apply(self, event: Followed) -> None:
        effect = self._store.apply(event)
        self._ahead.take(event.position)
        if effect.unreadable is not None:
            self.unreadable += 1
            _log.warning(
                "an event of type %s cannot be read, at position %d", event.type[:64], event.position
            )
        if effect.denies:
            self._denied.set()

    def _proven(self, position: int, digest: bytes, *, asked_at: float, applied: int) -> None:
        """The head of our line was at `position`, with this hash, after `asked_at`, when we had `applied`."""
        known = self._store.hash_at(position)
        if known is not None and known != digest:
            self._fork(position)
            return
        if position < applied:
            # What we have applied is not there any more: the log went back, and has yet to say so or never
            # will. What is here goes on answering, older by the second, until the log is read anew.
            self._forks_at(position)
            return
        self.freshness.answered(position, asked_at=asked_at, applied=self._store.position, writable=True)
        if position > self._store.position:
            self._repair()

    def _fork(self, position: int) -> None:
        self._forks_at(position)
        self.freshness.lost()

    def _forks_at(self, position: int) -> None:
        if not self._forked:
            self.forks += 1
            _log.error("another history at position %d: rebuilding from the feed", position)
        self._forked = True
        self._repair()

    def _same_line(self, epoch: Epoch) -> bool:
        """Whether this is the telling we follow; the first one heard of becomes it."""
        ours = self._store.epoch
        if ours is None:
            self._store.begin(epoch)
        elif ours.line != epoch.line:
            self._forked = True
            return False
        elif ours.number != epoch.number:
            self._store.renumber(epoch)
        return True

    async def _page_on(self) -> None:
        while self._store.position + 1 in self._ahead and not self._forked:
            self._take_some(())
            await asyncio.sleep(0)
        while True:
            applied, asked_at = self._store.position, self._clock.steady()
            page, events = await read_page(self._source, applied)
            if not self._same_line(Epoch(page.epoch_number, page.epoch_line)):
                return
            more = page.last_position < page.head_position
            if more and applied == 0 and self._snapshots and await self._begin(self._snapshots):
                return
            at = 0
            while at < len(events):
                before, at = at, self._take_some(events, at)
                if at == before:
                    return
                if at < len(events):
                    await asyncio.sleep(0)
            if self._store.position < page.head_position and not events:
                raise FeedUnavailable("the feed ends before its head")
            if self._store.position >= page.head_position:
                self._proven(page.head_position, page.head_hash, asked_at=asked_at, applied=applied)
                return

    async def _begin(self, snapshots: Snapshots) -> bool:
        """Fill a store that knows nothing from a snapshot and what came after; False where that cannot be."""
        beside = self._store.beside()
        if not await load(beside, snapshots, self._clock):
            return False
        await self._become(beside, *await read_telling(beside, self._source, self._clock))
        return True

    async def _rebuild(self) -> None:
        """Read the whole log into a store beside ours, then swap: until then the old one answers."""
        beside = self._store.beside()
        read = await read_telling(beside, self._source, self._clock)
        self.rebuilds += 1
        await self._become(beside, *read)

    async def _become(self, beside: Store, page: Page, asked_at: float) -> None:
        for _ in self._store.become(beside):
            await asyncio.sleep(0)
        self._swaps += 1
        self._forked, self._behind = False, True
        self._ahead.clear()
        self.freshness.lost()
        self._proven(page.head_position, page.head_hash, asked_at=asked_at, applied=0)
        self._denied.set()
        self._move()

    # -- the tasks, each a step done again and again

    async def _catch_up(self) -> None:
        await self._wake.wait()
        self._wake.clear()
        try:
            await self.repair()
        except BaseException:
            self._wake.set()
            raise

    async def _ask_on(self) -> None:
        began = self._clock.steady()
        if not await self.ask():
            raise FeedUnavailable("nobody answers for the head")
        if self._bus is not None and self._heads.deaf():
            await self._bus.reopen("answers arrive, ticks do not")
        # from question to question: what a silent broker has cost must not delay the next one
        spent = self._clock.steady() - began
        # whoever waits for a position may ask for this at any rate
        await asyncio.sleep(ASK_GAP)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, ASK_INTERVAL - ASK_GAP - spent)):
                await self._ask_now.wait()
        self._ask_now.clear()

    async def _announce(self) -> None:
        await self._denied.wait()
        self._denied.clear()
        if self._store.epoch is not None:
            # lost or not, the next question for the head says the same
            await self._tell(self._question(""))

    # --

    def _question(self, nonce: str) -> HeadQuestion:
        line = self._store.epoch.line if self._store.epoch else b""
        position = self._store.position
        return HeadQuestion(nonce, self._name, line, position, self._peppers(), self._max_staleness)

    async def _tell(self, about_us: HeadQuestion) -> None:
        if self._bus is not None:
            with contextlib.suppress(BusUnavailable):
                await self._bus.publish(APPLIED_SUBJECT, msgspec.msgpack.encode(about_us))

    def _repair(self) -> None:
        self._behind = True
        self._wake.set()

    def _move(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
