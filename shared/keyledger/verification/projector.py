"""The follower of a store that outlives it: what it knows stands on the board, for others and the next one.

The next process of the same boot goes on where this one was killed, as fresh as it was. One that has left in
good order has told so: nobody waits for what it will have applied, so the next one proves itself first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from keyledger.clock import Clock
from keyledger.verification.board import Standing
from keyledger.verification.follower import Follower
from keyledger.verification.forever import forever
from keyledger.verification.heads import Source
from keyledger.verification.opening import WritingPlace
from keyledger.verification.ports import Bus
from keyledger.verification.snapshot import Snapshots

BEAT = 0.1
"""Seconds between two signs of life."""
TEND = 60.0
PAUSE, LOOK = 0.004, 0.5
"""Seconds between two turns of tidying up, and until the next look when all is tidy."""
_LONGEST_NAME = 64


class Projector(Follower):
    """Follows into the store of a place that this process writes."""

    def __init__(
        self,
        place: WritingPlace,
        source: Source,
        bus: Bus | None,
        clock: Clock,
        *,
        name: str,
        held_seconds: float,
        peppers: Callable[[], tuple[str, ...]],
        snapshots: Snapshots | None,
        max_staleness: float,
    ) -> None:
        """As `Follower`."""
        super().__init__(
            place.store,
            source,
            bus,
            clock,
            name=name,
            held_seconds=held_seconds,
            peppers=peppers,
            snapshots=snapshots,
            max_staleness=max_staleness,
        )
        self._place = place
        self._tended = clock.steady()
        before = place.board.standing
        self.pepper = before.pepper
        self.freshness.restore(before.proven_at, before.held_at, before.head)
        self.freshness.told = self._stand
        self.unreadable, self.rebuilds, self.forks = before.unreadable, before.rebuilds, before.forks
        self._own: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """As `Follower.start`, give signs of life, and tidy up."""
        self._own = [
            asyncio.create_task(forever(self._beat), name="signs of life"),
            asyncio.create_task(forever(self._tidy), name="tidy the store"),
        ]
        await super().start()

    async def stop(self) -> None:
        """As `Follower.stop`."""
        for task in self._own:
            task.cancel()
        await asyncio.gather(*self._own, return_exceptions=True)
        await super().stop()

    async def leave(self) -> None:
        """As `Follower.leave`; then the store is closed, and another process may write it.

        Whoever starts after a good end counts from nothing.
        """
        self.unreadable = self.rebuilds = self.forks = 0
        try:
            await super().leave()
        finally:
            self._place.close()

    async def _beat(self) -> None:
        self._stand()
        board = self._place.board
        if board.broken and not self._forked:
            self.distrust()
        if board.wanted > self._place.store.position:
            self._ask_now.set()
        if self._clock.steady() - self._tended >= TEND:
            self._tended = self._clock.steady()
            self._place.store.tend()
        await asyncio.sleep(BEAT)

    async def _tidy(self) -> None:
        store = self._place.store
        store.tidy()
        await asyncio.sleep(PAUSE if store.untidy else LOOK)

    def _stand(self) -> None:
        proven_at, held_at = self.freshness.instants
        if proven_at is not None:
            self._place.board.starts = 0
        self._place.board.stand(
            Standing(
                self._clock.steady(),
                proven_at,
                held_at,
                self.freshness.head,
                self.hearing,
                self.pepper if len(self.pepper) <= _LONGEST_NAME else "",
                self.unreadable,
                self.rebuilds,
                self.forks,
            )
        )
