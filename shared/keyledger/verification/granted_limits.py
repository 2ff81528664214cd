"""Limits shared by any number of verifiers: spent from what is held, while a task asks for more.

No check waits for anybody as long as tokens are held. Without the granter they are spent up, then a static
share of the next cells (see `Leases`), and then limits are closed, unless a limit says otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence

import msgspec

from keyledger.clock import Clock
from keyledger.grants import (
    COMMITTED_SUBJECT,
    GRANT_SUBJECT,
    MORE,
    RECALL_SUBJECT,
    Ask,
    Grants,
    Recall,
    span,
)
from keyledger.verification.conversation import Conversation, GranterClock
from keyledger.verification.holding import Held
from keyledger.verification.leases import Leases
from keyledger.verification.limits import SECOND, Demand, LimitState, Spending, beyond, tightest
from keyledger.verification.ports import Bus, BusUnavailable, Message

TIMEOUTS = (1.0, 0.15)
"""Seconds that an answer may take in the committed lane, and in the quick one."""
TRIES = 2
PAUSE = 0.004
"""Seconds before asking again what is being recalled from others."""
RENEW_EVERY = 2.0
"""Seconds between two messages that ask for a lease and do not get one."""
JOIN_AFTER = 0.02
"""Seconds before a newcomer asks again for its first lease; twice as many each time."""
LOOK_EVERY = 2.0
"""Seconds between two looks for what the granter was not told of."""
LONGEST_PAUSE = 1.0
LEAVE_WITHIN = 0.5
MOST_HIDDEN = 10_000

_ASK = msgspec.msgpack.Encoder()
_GRANTS = msgspec.msgpack.Decoder(Grants)
_RECALL = msgspec.msgpack.Decoder(Recall)
_log = logging.getLogger(__name__)


class GrantedLimits:
    """`Limits` of one verifier process, from `start` to `stop`."""

    def __init__(self, bus: Bus, clock: Clock, *, verifier: str, replaces: str = "") -> None:
        """`verifier` names this process for ever; `replaces` one that is certainly dead."""
        self._bus = bus
        self._steady = clock.steady
        self._clock = GranterClock()
        self._due = (asyncio.Event(), asyncio.Event())
        self._granter_heard = (asyncio.Event(), asyncio.Event())
        self._held = Held(Leases(), self._wake)
        self._spend = self._held.spend
        self._talk = Conversation(verifier, self._held, replaces=replaces)
        self._news: asyncio.Future[None] | None = None
        self._renew_at = 0.0
        self._join_after = JOIN_AFTER
        self._look_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def away(self) -> bool:
        """Whether no grants can be had just now."""
        return self._held.away[True] or self._talk.term == 0

    def spend(self, demands: Sequence[Demand], cost: int, now: int, *, patient: bool = False) -> Spending:
        """As `Limits.spend`; cells are the granter's, whatever `now` is."""
        clock = self._clock
        if not clock.known:
            return self._untold(demands, cost, now, patient)
        return self._spend(demands, cost, clock.base + int(self._steady() * SECOND), patient)

    async def granted(self, demands: Sequence[Demand], cost: int, within: float) -> None:
        """Wait until the granter has said something, `within` seconds at most."""
        if self._clock.known and self._held.has(demands, cost):
            return
        await asyncio.wait([self._next_news()], timeout=within)

    async def ready(self, within: float) -> None:
        """Wait until the first lease has come, or nobody answers, `within` seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not (self._held.leases.any or self._held.away[True]):
                    await self._next_news()

    async def start(self) -> None:
        """Begin to talk to the granter; it need not be there."""
        with contextlib.suppress(BusUnavailable):
            await self._bus.subscribe(RECALL_SUBJECT, self._recalled)
        self._tasks = [
            asyncio.create_task(self._ask_on(quick), name=f"ask for grants {quick}")
            for quick in (True, False)
        ]

    async def stop(self) -> None:
        """Give back what is held and say goodbye, within a second; nothing may be spent any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._held.give_up()
        for quick in (False, True):
            self._talk.unanswered(quick=quick)
            ask = self._talk.next(quick=quick, leaving=quick)
            if ask is not None and self._talk.term:
                with contextlib.suppress(BusUnavailable):
                    await self._bus.request(_subject(quick), _ASK.encode(ask), timeout=LEAVE_WITHIN)

    def _untold(self, demands: Sequence[Demand], cost: int, now: int, patient: bool) -> Spending:
        """Before the granter's time is known there is no cell: only what needs no token is let in."""
        later = patient and not self._held.away[True]
        allowed = not cost or (not later and all(demand.on_outage == "open" for demand in demands))
        states: list[LimitState] = []
        for demand in demands:
            if cost > demand.limit:
                raise beyond(demand)
            if not (allowed or later) and len(self._held.hidden) < MOST_HIDDEN:
                self._held.hidden.add((demand.holder, demand.window))
            start, end = span(demand.window, now // SECOND)
            states.append(
                LimitState(demand.policy, demand.limit, demand.limit if allowed else 0, end, end - start)
            )
        return Spending(allowed, tightest(states), later and not allowed)

    def _wake(self, quick: bool) -> None:
        self._due[quick].set()

    async def _ask_on(self, quick: bool) -> None:
        """Send what is due, one message at a time, for ever."""
        failures = 0
        while True:
            await self._something_due(quick)
            ask = self._talk.next(quick=quick, anyway=quick and self._renewing())
            if ask is None:
                continue
            self._granter_heard[quick].clear()
            try:
                grants = await self._exchange(ask, quick)
            except Exception as error:  # without this task no grant ever comes again
                _log.error("asking for grants failed: %s", type(error).__name__)
                grants = None
            if grants is not None:
                failures = 0
                self._held.away[quick] = False
                self._tell()
                if any(grant.state == MORE and not grant.amount for grant in grants.grants):
                    await asyncio.sleep(PAUSE)
                continue
            failures += 1
            self._talk.unanswered(quick=quick)
            self._held.away[quick] = True
            self._tell()
            await self._pause(quick, min(LONGEST_PAUSE, 0.05 * 2 ** min(failures, 10)))

    async def _pause(self, quick: bool, seconds: float) -> None:
        """Wait before the next try, less when a granter is heard or was since the last."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds * random.uniform(0.5, 1.0)):  # noqa: S311 (spread, not secrecy)
                await self._granter_heard[quick].wait()

    async def _something_due(self, quick: bool) -> None:
        """Return when there may be something to say."""
        due = self._due[quick]
        if not due.is_set() and not (quick and self._renewing(ahead=True)):
            pause = random.uniform(0.5, 1.0)  # noqa: S311 (spread, not secrecy)
            if quick and not self._held.leases.any:
                pause = min(pause, self._join_after)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await due.wait()
        if quick and self._steady() >= self._look_at:
            self._look_at = self._steady() + LOOK_EVERY
            self._held.look()
        due.clear()
        if self._held.due[quick] and self._talk.term:
            # there may be more than one message takes
            due.set()

    def _renewing(self, *, ahead: bool = False) -> bool:
        """Whether it is time to hear of the granter, or of its next lease; asked `ahead` it stays time."""
        steady = self._steady()
        if self._talk.term == 0:
            return True
        if steady < self._renew_at or not self._talk.renews(self._clock.now(steady) // SECOND):
            return False
        if not ahead:
            self._renew_at = steady + (RENEW_EVERY if self._held.leases.any else self._join_after)
            self._join_after = min(RENEW_EVERY, 2 * self._join_after)
        return True

    async def _exchange(self, ask: Ask, quick: bool) -> Grants | None:
        """The answer that was heeded, or None when there was none in time."""
        body = _ASK.encode(ask)
        for _ in range(TRIES):
            try:
                answer = await self._bus.request(_subject(quick), body, timeout=TIMEOUTS[quick])
                grants = _GRANTS.decode(answer.body)
            except (BusUnavailable, msgspec.MsgspecError, UnicodeDecodeError):
                continue
            steady = self._steady()
            if quick and grants.term >= self._talk.term:
                self._clock.told(grants.now, steady)
            if self._talk.answered(grants, self._clock.now(steady) // SECOND, quick=quick):
                return grants
        return None

    async def _recalled(self, message: Message) -> None:
        try:
            recall = _RECALL.decode(message.body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        for heard in self._granter_heard:
            heard.set()
        if self._clock.known:
            self._talk.recalled(recall, recall.now)

    def _next_news(self) -> asyncio.Future[None]:
        """What is done when the granter has said something, or does not answer."""
        if self._news is None or self._news.done():
            self._news = asyncio.get_running_loop().create_future()
        return self._news

    def _tell(self) -> None:
        """Wake whoever waits for news."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


def _subject(quick: bool) -> str:
    return GRANT_SUBJECT if quick else COMMITTED_SUBJECT
