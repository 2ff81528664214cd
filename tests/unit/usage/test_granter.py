"""The granter at work, on a bus and a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from keyledger.grants import (
    COMMITTED_SUBJECT,
    GRANT_SUBJECT,
    RECALL_SUBJECT,
    Ask,
    Grants,
    Recall,
    Want,
    span,
)
from keyledger.verification.ports import BusUnavailable, Message
from services.usage.domain.pool import Holding
from services.usage.granter import GrantMetrics, GrantServer
from tests.support.followed_log import START, HandClock
from tests.support.memory_bus import MemoryBus
from tests.support.memory_grants import MemoryGrants
from tests.support.waiting import until

NOW = START // 1_000_000


class Stage:
    """One store, one bus, and as many granters as are started."""

    def __init__(self) -> None:
        self.store = MemoryGrants()
        self.bus = MemoryBus()
        self.clock = HandClock()
        self.seq = 0

    @asynccontextmanager
    async def granter(self, *, granting: bool = True) -> AsyncGenerator[GrantServer]:
        metrics = GrantMetrics(CollectorRegistry())
        server = GrantServer(self.store, self.bus, self.clock, metrics, owner="a")
        task = asyncio.create_task(server.run())

        async def settled() -> bool:
            return server.granting is granting

        try:
            await until(settled)
            yield server
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def ask(self, *wants: Want, term: int | None = None) -> Grants:
        self.seq += 1
        committed = bool(wants) and wants[0].window == "day"
        believed = (await self.store.claim()).term if term is None else term  # type: ignore[union-attr]
        body = msgspec.msgpack.encode(Ask("v1", believed, self.seq, wants))
        subject = COMMITTED_SUBJECT if committed else GRANT_SUBJECT
        answer = await self.bus.request(subject, body, timeout=1)
        return msgspec.msgpack.decode(answer.body, type=Grants)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def minute(need: int, *, spent: int = 0) -> Want:
    return Want("ws", 60, span(60, NOW)[0], 1000, spent, 0, need)


def day(need: int, *, spent: int = 0) -> Want:
    return Want("ws", "day", span("day", NOW)[0], 1000, spent, 0, need)


async def test_the_first_one_ever_grants_at_once_even_of_the_cell_that_runs(stage: Stage) -> None:
    async with stage.granter():
        assert (await stage.ask(term=0)).term == NOW
        assert (await stage.ask(minute(700))).grants[0].amount == 700


async def test_a_standby_is_silent_and_goes_on_in_the_middle_of_a_cell_when_the_other_stops(
    stage: Stage,
) -> None:
    async with stage.granter() as first:
        await stage.ask(minute(700))
        async with stage.granter(granting=False) as second:
            (cell,) = await second.cells("ws")
            assert (cell.charged, first.granting) == (700, True)
    async with stage.granter():
        assert (await stage.ask(minute(700, spent=700))).grants[0].amount == 300


async def test_after_a_kill_the_next_one_waits_for_the_claim_and_grants_no_cell_of_the_dead_one(
    stage: Stage,
) -> None:
    async with stage.granter():
        await stage.ask(minute(700))
        term = (await stage.store.claim()).term  # type: ignore[union-attr]
        stage.store.away = True
    stage.store.away = False
    async with stage.granter(granting=False) as server:
        stage.clock.advance(4)

        async def took_over() -> bool:
            return server.granting

        await until(took_over)
        assert (await stage.ask(minute(1))).term > term
        assert (await stage.ask(minute(1))).grants[0].amount == 0


async def test_one_whose_term_was_taken_grants_no_more_committed_cell(stage: Stage) -> None:
    async with stage.granter() as server:
        assert (await stage.ask(day(1))).grants[0].amount == 5
        seen = await stage.store.claim()
        assert seen is not None
        await stage.store.take(seen, seen.term + 9, "b", seen.until + 1)
        with pytest.raises(BusUnavailable):
            await stage.ask(day(1), term=seen.term)
        assert not server.granting


async def test_what_cannot_be_committed_is_not_told_and_not_lost(stage: Stage) -> None:
    async with stage.granter():
        stage.store.away = True
        with pytest.raises(BusUnavailable):
            await stage.ask(day(400), term=NOW)
        # what lives in memory goes on
        assert (await stage.ask(minute(1), term=NOW)).grants[0].amount == 500
        stage.store.away = False
        assert (await stage.ask(day(1000))).grants[0].amount == 1000
        assert (await stage.ask(day(1, spent=1000))).grants[0].amount == 0


async def test_a_committed_cell_goes_on_after_a_kill(stage: Stage) -> None:
    async with stage.granter():
        await stage.ask(day(400))
        stage.store.away = True
    stage.store.away = False
    stage.clock.advance(4)
    async with stage.granter() as server:
        assert (await stage.ask(day(1000, spent=400))).grants[0].amount == 600
        (cell,) = await server.cells("ws")
        assert (cell.limit, cell.left, cell.holdings) == (1000, 0, {"v1": Holding(1000, 400)})


async def test_what_cannot_be_read_is_not_answered(stage: Stage) -> None:
    async with stage.granter():
        for subject in (GRANT_SUBJECT, COMMITTED_SUBJECT):
            with pytest.raises(BusUnavailable):
                await stage.bus.request(subject, b"\xc1", timeout=1)


async def test_verifiers_are_asked_before_a_cell_is_shown(stage: Stage) -> None:
    async with stage.granter() as server:
        await stage.ask(minute(700))

        async def told(message: Message) -> None:
            recall = msgspec.msgpack.decode(message.body, type=Recall)
            if recall.tell == "ws":
                await stage.ask(minute(0, spent=321))

        await stage.bus.subscribe(RECALL_SUBJECT, told)
        (cell,) = await server.cells("ws")
        assert cell.spent == 321
