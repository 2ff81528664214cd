"""Read a telling of the log into a store of its own, beside the one that answers meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec

from keyledger.clock import Clock
from keyledger.events import Epoch
from keyledger.verification.ports import Feed, FeedUnavailable
from keyledger.verification.store import Fit, Store
from keyledger.verification.turns import Turn
from keyledger.wire import Followed, Page

PAGE_SIZE = 4000
"""Events of one answer: what arrives at once is taken apart at once, in a few ms."""
DECODED = 256
_FOLLOWED = msgspec.msgpack.Decoder(Followed)
followed = _FOLLOWED.decode
"""The event in these bytes; raises what msgspec raises."""


async def read_page(source: Feed, after: int) -> tuple[Page, list[Followed]]:
    """What follows this position, oldest first; `FeedUnavailable` when it cannot be had or not be read."""
    page, records = await source.page(after, PAGE_SIZE)
    events: list[Followed] = []
    try:
        for at in range(0, len(records), DECODED):
            events += [followed(record) for record in records[at : at + DECODED]]
            await asyncio.sleep(0)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise FeedUnavailable("a record cannot be read") from None
    return page, events


async def read_telling(beside: Store, source: Feed, clock: Clock) -> tuple[Page, float]:
    """Apply what follows the store up to the head as of now; the last page, and when it was asked for.

    Raises `FeedUnavailable` when a page cannot be had, or what it brings is no continuation.
    """
    while True:
        asked_at = clock.steady()
        page, events = await read_page(source, beside.position)
        epoch = Epoch(page.epoch_number, page.epoch_line)
        if beside.epoch is None:
            beside.begin(epoch)
        if beside.epoch is None or beside.epoch.line != epoch.line:
            raise FeedUnavailable("the line changed meanwhile")
        waiting, more = iter(events), True
        while more:
            more = _apply(beside, waiting, Turn(clock.steady))
            await asyncio.sleep(0)
        if beside.position >= page.head_position:
            return page, asked_at
        if not events:
            raise FeedUnavailable("the feed ends before its head")


def _apply(beside: Store, events: Iterator[Followed], turn: Turn) -> bool:
    """Apply the next of these together, as many as the turn has time for; whether there may be more."""
    with beside.batch():
        for event in events:
            if beside.fit(event) is not Fit.NEXT:
                raise FeedUnavailable("the feed's chain is broken")
            beside.apply(event)
            if turn.over():
                return True
    return False
