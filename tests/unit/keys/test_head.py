"""The answer for the head while Postgres is away: the last one known, and never less than we committed."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from keyledger.errors import unavailable
from keyledger.events import Epoch
from keyledger.verification.ports import HEAD_SUBJECT
from keyledger.wire import Head, HeadQuestion
from services.keys.consumer import Consumer
from services.keys.handlers.receipts import Receipts
from services.keys.ports import Appended, HeadNow
from tests.support.followed_log import HandClock
from tests.support.memory_bus import MemoryBus
from tests.support.memory_keys import MemoryKeys
from tests.unit.keys.test_receipts import MemoryFollowers

LINE, OTHER = b"\x01" * 8, b"\x02" * 8
KNOWN = HeadNow(Epoch(1, LINE), 7, b"h" * 32, 0)


class Away(MemoryKeys):
    """Answers for the head until it is away."""

    away = False

    async def head(self) -> HeadNow:
        if self.away:
            raise unavailable("unavailable", "away")
        return KNOWN


@pytest.mark.parametrize(
    ("committed", "told"),
    [
        (None, 7),
        (Appended(1, 5, 0, Epoch(1, LINE)), 7),
        (Appended(2, 9, 0, Epoch(1, LINE)), 9),
        (Appended(2, 9, 0, Epoch(2, OTHER)), 7),
    ],
    ids=["nothing", "what is known already", "what nobody heard of yet", "in another telling"],
)
async def test_what_was_committed_here_is_told_though_postgres_is_away(
    committed: Appended | None, told: int
) -> None:
    states, clock = Away(), HandClock()
    receipts = Receipts(clock, MemoryFollowers())
    consumer = Consumer(MemoryBus(), states, states, receipts, clock, committed=lambda: committed)
    head = await consumer.head(HeadQuestion("n", "v"))
    assert (head.position, head.writable) == (7, True)
    states.away = True
    head = await consumer.head(HeadQuestion("n", "v"))
    assert (head.position, head.writable) == (told, False)


class Restorable(MemoryKeys):
    """Its head is what is set; a read that is held back answers with what it found when it began."""

    def __init__(self) -> None:
        super().__init__()
        self.now = KNOWN
        self.held: asyncio.Event | None = None

    async def head(self) -> HeadNow:
        found, held = self.now, self.held
        if held is not None:
            self.held = None
            await held.wait()
        return found


async def test_a_postgres_that_was_restored_is_told_as_it_is() -> None:
    """And an answer that was read before that, and comes late, does not bring the old head back."""
    states, clock = Restorable(), HandClock()
    consumer = Consumer(MemoryBus(), states, states, Receipts(clock, MemoryFollowers()), clock)
    held = states.held = asyncio.Event()
    early = asyncio.create_task(consumer.head(HeadQuestion("early", "v")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    states.now = HeadNow(Epoch(1, LINE), 3, b"r" * 32, 0)
    assert (await consumer.head(HeadQuestion("n", "v"))).position == 3
    held.set()
    assert (await early).position == 3
    assert (await consumer.head(HeadQuestion("n", "v"))).position == 3


async def test_one_that_never_reached_postgres_says_that_it_cannot_write() -> None:
    states, clock, bus = Away(), HandClock(), MemoryBus()
    states.away = True
    await Consumer(bus, states, states, Receipts(clock, MemoryFollowers()), clock, writer="w").start()
    answer = await bus.request(HEAD_SUBJECT, msgspec.msgpack.encode(HeadQuestion("n", "v")), timeout=1)
    head = msgspec.msgpack.decode(answer.body, type=Head)
    assert (head.nonce, head.epoch_number, head.writable, head.writer) == ("n", 0, False, "w")
