"""The relay when answers are lost, Postgres goes back in time, or the broker dies."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from keyledger.server import jetstream
from keyledger.server.log_stream import KEY_LOG, USE_LOG, LogStream
from keyledger.server.relay import Regression, Relay
from keyledger.verification.bus import NatsBus
from keyledger.verification.ports import BusUnavailable, Message
from tests.support.broker import Broker
from tests.support.memory_log import MemoryLog, new_epoch
from tests.support.relays import (
    LIMITS,
    SETTINGS,
    as_the_log_has_it,
    published_up_to,
    relay_of,
    running,
    running_well,
    stored,
)
from tests.support.waiting import until


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[NatsBus]:
    bus = await NatsBus.connect(nats_url, name="relay test")
    yield bus
    await bus.close()


@pytest.fixture
async def log(bus: NatsBus) -> AsyncIterator[MemoryLog]:
    log = MemoryLog()
    yield log
    for names in (KEY_LOG, USE_LOG):
        try:
            await jetstream.delete(bus, names.stream_of(log.epoch))
        except jetstream.StreamMissing:
            continue


class LossyBus(NatsBus):
    """Loses the next answers to publishes: they are stored, and their publisher hears nothing of it."""

    losses = 0

    async def request(
        self, subject: str, body: bytes, *, timeout: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        answer = await super().request(subject, body, timeout=timeout, headers=headers)
        if self.losses and not subject.startswith("$JS"):
            self.losses -= 1
            raise BusUnavailable(f"no answer within {timeout:g} s")
        return answer


async def test_a_lost_acknowledgement_heals(nats_url: str, bus: NatsBus, log: MemoryLog) -> None:
    lossy = await LossyBus.connect(nats_url, name="loses answers")
    relay = relay_of(lossy, log)
    async with running(relay):
        await until(running_well(relay))
        for count in (1, 50):
            lossy.losses = 2
            log.append(count)
            relay.kick()
            await until(published_up_to(relay, len(log.events)))
            log.append(1)
            relay.kick()
            await until(published_up_to(relay, len(log.events)))
    await lossy.close()
    assert as_the_log_has_it(await stored(bus, log), log, 1)
    assert relay.state == "running"


@pytest.mark.parametrize("again", [0, 5, 20], ids=["shorter", "other events", "longer"])
async def test_a_log_gone_back_in_time_begins_a_new_epoch(bus: NatsBus, log: MemoryLog, again: int) -> None:
    regressions: list[Regression] = []
    old = log.epoch

    async def begin_epoch(regression: Regression) -> None:
        regressions.append(regression)
        log.epoch = new_epoch(2)

    relay = Relay(bus, log, KEY_LOG, on_regression=begin_epoch, settings=SETTINGS)
    async with running(relay):
        await until(running_well(relay))
        log.append(15)
        relay.kick()
        await until(published_up_to(relay, 15))
    log.go_back_to(10)
    log.append(again, salt="another history")
    async with running(relay):

        async def new_stream() -> bool:
            return relay.streams_created == 2 and relay.state == "running"

        await until(new_stream)
        log.append(2, salt="another history")
        relay.kick()
        await until(published_up_to(relay, len(log.events)))
    assert len(regressions) == 1
    assert regressions[0].end.position == 15
    assert as_the_log_has_it(await stored(bus, log), log, len(log.events) - 1)
    left = await jetstream.info(bus, KEY_LOG.stream_of(old))
    assert left.state.last_seq == 15  # for what the old epoch denied
    await jetstream.delete(bus, KEY_LOG.stream_of(old))


async def test_a_regression_that_stays_is_reported_again_and_nothing_is_published(
    bus: NatsBus, log: MemoryLog
) -> None:
    calls = 0

    async def refuse(_: Regression) -> None:
        nonlocal calls
        calls += 1
        raise ConnectionError("the lock cannot be had")

    relay = Relay(bus, log, KEY_LOG, on_regression=refuse, settings=SETTINGS)
    async with running(relay):
        await until(running_well(relay))
        log.append(5)
        relay.kick()
        await until(published_up_to(relay, 5))
        log.go_back_to(3)

        async def called_again() -> bool:
            return calls >= 3

        await until(called_again)
        assert relay.state.startswith("no new epoch: ConnectionError")
    assert (await jetstream.info(bus, KEY_LOG.stream_of(log.epoch))).state.last_seq == 5


async def test_a_source_that_fails_is_asked_again(bus: NatsBus, log: MemoryLog) -> None:
    relay = relay_of(bus, log)
    log.append(1)
    log.fail = ConnectionError("Postgres is away")
    async with running(relay):

        async def noticed() -> bool:
            return relay.state.startswith("ConnectionError")

        await until(noticed)
        log.fail = None
        await until(published_up_to(relay, 1))
        log.append(1)
        await until(published_up_to(relay, 2))


async def test_a_body_too_large_leaves_its_position_and_stops_nothing(bus: NatsBus, log: MemoryLog) -> None:
    relay = relay_of(bus, log)
    async with running(relay):
        await until(running_well(relay))
        log.append(1)
        log.append(1, size=2 << 20)
        log.append(5, size=200_000)
        relay.kick()
        await until(published_up_to(relay, 7))
    found = await stored(bus, log)
    assert [len(message.body) for message in found.values()] == [200, 0, *[200_000] * 5]


async def test_a_broker_that_comes_late_and_is_killed_loses_nothing(tmp_path: Path) -> None:
    log = MemoryLog()
    with Broker(tmp_path) as broker:
        bus = await NatsBus.connect(broker.url, name="early", connect_timeout=0.05)
        assert not bus.connected
        relay = relay_of(bus, log)
        async with running(relay):

            async def noticed() -> bool:
                return relay.state.startswith("BusUnavailable")

            await until(noticed)
            log.append(4)
            await broker.start()
            await until(published_up_to(relay, 4))
            for _ in range(3):
                position = log.append(120)
                relay.kick()
                await until(published_up_to(relay, position))
                broker.kill()
                position = log.append(120)
                relay.kick()
                await until(noticed)
                await broker.start()
                await until(published_up_to(relay, position))
        assert relay.streams_created == 1
        assert as_the_log_has_it(await stored(bus, log), log, 5)
        await bus.close()


async def test_a_frozen_broker_is_waited_for(tmp_path: Path) -> None:
    log = MemoryLog()
    with Broker(tmp_path) as broker:
        await broker.start()
        bus = await NatsBus.connect(broker.url, name="patient")
        relay = relay_of(bus, log)
        async with running(relay):
            await until(running_well(relay))
            broker.freeze()
            position = log.append(30)
            relay.kick()

            async def given_up() -> bool:
                return relay.retries > 3 and not bus.connected

            await until(given_up, within=10)
            broker.thaw()
            await until(published_up_to(relay, position))
        assert as_the_log_has_it(await stored(bus, log), log, 1)
        await bus.close()


async def test_a_foreign_stream_of_our_name_is_reported_not_overwritten(bus: NatsBus, log: MemoryLog) -> None:
    stream = LogStream(bus, KEY_LOG, log.epoch, LIMITS)
    log.append(9)
    ahead = await log.head()
    assert await stream.create(ahead)
    log.go_back_to(2)
    reported = asyncio.Event()

    async def report(_: Regression) -> None:
        reported.set()

    relay = Relay(bus, log, KEY_LOG, on_regression=report, settings=SETTINGS)
    async with running(relay), asyncio.timeout(5):
        await reported.wait()
    assert relay.published == 0
