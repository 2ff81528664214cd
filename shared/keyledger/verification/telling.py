"""Read a telling of the log into a store of its own, beside the one that answers meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from keyledger.clock import Clock
from keyledger.events import Epoch
from keyledger.verification.ports import FeedUnavailable
from keyledger.verification.store import Fit, Store
from keyledger.wire import Followed, Page

SLICE = 500
"""Events applied before other work of this process gets its turn (a few ms)."""
ReadPage: TypeAlias = Callable[[int], Awaitable[tuple[Page, list[Followed]]]]


async def read_telling(beside: Store, read: ReadPage, clock: Clock) -> tuple[Page, float]:
    """Apply what follows the store up to the head as of now; the last page, and when it was asked for.

    Raises `FeedUnavailable` when a page cannot be had, or what it brings is no continuation.
    """
    while True:
        asked_at = clock.steady()
        page, events = await read(beside.position)
        epoch = Epoch(page.epoch_number, page.epoch_line)
        if beside.epoch is None:
            beside.begin(epoch)
        if beside.epoch is None or beside.epoch.line != epoch.line:
            raise FeedUnavailable("the line changed meanwhile")
        for at in range(0, len(events), SLICE):
            with beside.batch():
                for event in events[at : at + SLICE]:
                    if beside.fit(event) is not Fit.NEXT:
                        raise FeedUnavailable("the feed's chain is broken")
                    beside.apply(event)
            await asyncio.sleep(0)
        if beside.position >= page.head_position:
            return page, asked_at
        if not events:
            raise FeedUnavailable("the feed ends before its head")
