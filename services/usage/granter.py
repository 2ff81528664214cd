"""The granter at work: it claims its term, answers verifiers on the bus, and hands over when it stops.

Any number of these may run. One has the term; the others look twice a second whether it is over.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from keyledger.clock import SECOND, Clock
from keyledger.grants import (
    CELLS_SUBJECT,
    COMMITTED_SUBJECT,
    GRANT_SUBJECT,
    RECALL_SUBJECT,
    Ask,
    Grants,
    Recall,
)
from keyledger.verification.ports import Bus, BusUnavailable, Message
from services.usage.domain.granting import Granter, Range
from services.usage.domain.pool import Pool
from services.usage.ports import GrantStore, StoreUnavailable

TICK = 0.5
HORIZON = 3 * SECOND
"""Microseconds for which the starts of cells are claimed ahead: a standby takes over when they are past."""
FORGET_EVERY = 60.0
ASK_WITHIN = 1.0
TELL_WITHIN = 0.03
"""Seconds that verifiers have to tell how a holder's cells stand before they are shown."""

_ASK = msgspec.msgpack.Decoder(Ask)
_POOLS = msgspec.msgpack.Decoder(list[Pool])
_ENCODER = msgspec.msgpack.Encoder()
_log = structlog.get_logger("keyledger.granter")


class GrantMetrics:
    """What the granter does; no holder is named."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.granting = Gauge("keyledger_granter_active", "1 where the term is", registry=registry)
        self.verifiers = Gauge(
            "keyledger_granter_verifiers", "Verifiers that share limits", registry=registry
        )
        self.cells = Gauge("keyledger_granter_cells", "Cells in memory", registry=registry)
        self.messages = Counter(
            "keyledger_grant_messages", "Verifiers' messages", ["lane"], registry=registry
        )
        self.tokens = Counter("keyledger_granted", "Tokens granted", ["lane"], registry=registry)
        self.recalls = Counter("keyledger_recalls", "Cells asked back", registry=registry)
        self.failures = Counter("keyledger_granter_failures", "Failed rounds", ["cause"], registry=registry)


class GrantServer:
    """Grants for as long as `run` runs; `LimitCells` for who wants to see."""

    def __init__(
        self, store: GrantStore, bus: Bus, clock: Clock, metrics: GrantMetrics, *, owner: str
    ) -> None:
        """`owner` names this process."""
        self._store = store
        self._bus = bus
        self._clock = clock
        self._metrics = metrics
        self._owner = owner
        self._granter: Granter | None = None
        self._until = 0
        self._forget_at = 0.0
        # committed cells are written one message after the other: what is in memory is what is written
        self._committing = asyncio.Lock()
        self._newcomer = asyncio.Event()
        self._trouble = ""

    @property
    def granting(self) -> bool:
        """Whether this one has the term, as far as it knows."""
        return self._granter is not None

    async def run(self) -> None:
        """Grant whenever the term can be had, until cancelled; then hand over."""
        await self._subscribe()
        try:
            while True:
                try:
                    await self._tick()
                    self._say("")
                except Exception as error:
                    self._metrics.failures.labels(type(error).__name__).inc()
                    # other exceptions may quote what they met: only their class is told
                    self._say(type(error).__name__)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK):
                        await self._newcomer.wait()
                self._newcomer.clear()
        finally:
            await asyncio.shield(self._hand_over())

    async def cells(self, holder: str) -> list[Pool]:
        """As `LimitCells.cells`."""
        if self._granter is None:
            return await self._asked(holder)
        return await self._known(self._granter, holder)

    async def _asked(self, holder: str) -> list[Pool]:
        """What the one says that grants."""
        try:
            answer = await self._bus.request(CELLS_SUBJECT, holder.encode(), timeout=ASK_WITHIN)
            return _POOLS.decode(answer.body)
        except (BusUnavailable, msgspec.MsgspecError) as error:
            raise StoreUnavailable("another process grants, or none") from error

    async def _cells(self, message: Message) -> None:
        granter = self._granter
        if granter is not None and message.reply:
            with contextlib.suppress(BusUnavailable, StoreUnavailable, UnicodeDecodeError):
                pools = await self._known(granter, message.body.decode())
                await self._bus.publish(message.reply, _ENCODER.encode(pools))

    async def _known(self, granter: Granter, holder: str) -> list[Pool]:
        """What is known of a holder's cells, once the verifiers have had a moment to tell theirs."""
        with contextlib.suppress(BusUnavailable):
            asked = Recall(granter.term, self._clock.now(), (), holder)
            await self._bus.publish(RECALL_SUBJECT, _ENCODER.encode(asked))
            await asyncio.sleep(TELL_WITHIN)
        second = self._clock.now() // SECOND
        found = {(pool.window, pool.start): pool for pool in await self._store.of_holder(holder, second)}
        found |= {(pool.window, pool.start): pool for pool in granter.of_holder(holder, self._clock.now())}
        return list(found.values())

    async def _subscribe(self) -> None:
        asked = {
            GRANT_SUBJECT: self._quick,
            COMMITTED_SUBJECT: self._committed,
            CELLS_SUBJECT: self._cells,
        }
        for subject, handler in asked.items():
            try:
                await self._bus.subscribe(subject, handler)
            except BusUnavailable as error:
                _log.warning("bus_unavailable", why=str(error))

    async def _tick(self) -> None:
        if self._granter is None:
            await self._take()
        elif not await self._extended():
            self._lose()
        granter = self._granter
        if granter is None:
            return
        planned, rights = granter.plan(self._clock.now())
        if planned:
            if not await self._store.record(granter.term, rights):
                self._lose()
                return
            granter.offer(planned)
        granter.tidy(self._clock.now())
        self._metrics.cells.set(len(granter.pools))
        self._metrics.verifiers.set(granter.shares.live(self._clock.now() // SECOND))
        if self._clock.steady() >= self._forget_at:
            self._forget_at = self._clock.steady() + FORGET_EVERY
            await self._store.forget(self._clock.now() // SECOND - 1)

    async def _take(self) -> None:
        """Begin a term, when the last one has let go of it."""
        seen, now = await self._store.claim(), self._clock.now()
        if seen is not None and now <= seen.until and not seen.left_over:
            return
        # beyond every term that a restored database may have forgotten
        term = max(now // SECOND, 1 if seen is None else seen.term + 1)
        start = 0 if seen is None else max(seen.until, now)
        until = max(now, start) + HORIZON
        taken = await self._store.take(seen, term, self._owner, until)
        if taken is None:
            return
        legacy, rights = taken
        granter = Granter(term, legacy)
        if legacy is None:
            granter.shares.inherit(rights)
        granter.claim(Range(start, until))
        self._granter, self._until = granter, until
        self._metrics.granting.set(1)
        _log.info("term", term=term, went_on=legacy is not None)
        # it asks nothing back: who has waited for a granter hears that there is one
        with contextlib.suppress(BusUnavailable):
            await self._bus.publish(RECALL_SUBJECT, _ENCODER.encode(Recall(term, now, ())))

    async def _extended(self) -> bool:
        """Claim a little more; False when the term is over."""
        granter, now = self._granter, self._clock.now()
        if granter is None:
            return False
        until = now + HORIZON
        if until <= self._until + HORIZON // 3:
            return True
        if not await self._store.extend(granter.term, until):
            return False
        # what lies before may have been claimed by nobody, and is past
        granter.claim(Range(max(self._until, now), until))
        self._until = until
        return True

    def _lose(self) -> None:
        _log.warning("term_over", term=self._granter and self._granter.term)
        self._granter = None
        self._metrics.granting.set(0)

    async def _hand_over(self) -> None:
        granter = self._granter
        if granter is None:
            return
        async with self._committing:
            self._lose()
            with contextlib.suppress(StoreUnavailable):
                await self._store.release(granter.term, self._until, granter.legacy())

    async def _quick(self, message: Message) -> None:
        granter, ask = self._granter, self._decoded(message, "quick")
        if granter is None or ask is None:
            return
        await self._reply(message, granter.answer(ask, self._clock.now()), "quick")
        if granter.shares.newcomers:
            # it waits for its first lease
            self._newcomer.set()

    async def _committed(self, message: Message) -> None:
        ask = self._decoded(message, "committed")
        if ask is None:
            return
        async with self._committing:
            granter = self._granter
            if granter is None:
                return
            try:
                answered = await self._commit(granter, ask)
            except StoreUnavailable:
                granter.drop(ask)
                self._metrics.failures.labels(StoreUnavailable.__name__).inc()
                return
        await self._reply(message, answered, "committed")

    async def _commit(self, granter: Granter, ask: Ask) -> tuple[Grants, Recall | None] | None:
        """The answer to a message about committed cells, once they are written."""
        if ask.term == granter.term and (missing := granter.missing(ask, self._clock.now())):
            granter.adopt(await self._store.cells(missing))
        answered = granter.answer(ask, self._clock.now(), quick=False)
        touched = granter.asked(ask) if answered is not None and ask.term == granter.term else []
        if touched and not await self._store.commit(granter.term, touched):
            self._lose()
            return None
        return answered

    async def _reply(
        self, message: Message, answered: tuple[Grants, Recall | None] | None, lane: str
    ) -> None:
        if answered is None:
            return
        grants, recall = answered
        self._metrics.tokens.labels(lane).inc(sum(grant.amount for grant in grants.grants))
        with contextlib.suppress(BusUnavailable):
            await self._bus.publish(message.reply, _ENCODER.encode(grants))
            if recall is not None:
                self._metrics.recalls.inc(len(recall.cells))
                await self._bus.publish(RECALL_SUBJECT, _ENCODER.encode(recall))

    def _decoded(self, message: Message, lane: str) -> Ask | None:
        self._metrics.messages.labels(lane).inc()
        try:
            return _ASK.decode(message.body) if message.reply else None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._metrics.failures.labels("undecodable").inc()
            return None

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            _log.warning("granter", state=trouble or "running")
