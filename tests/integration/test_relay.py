"""The relay against a real broker: every position once, in order, whatever happens to the stream."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from keyledger.events import GENESIS
from keyledger.server import jetstream
from keyledger.server.log_stream import KEY_LOG, USE_LOG
from keyledger.server.ticker import Ticker
from keyledger.verification.bus import NatsBus
from keyledger.verification.ports import TICK_SUBJECT, Message
from keyledger.wire import Head
from tests.support.memory_log import MemoryLog
from tests.support.relays import (
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


async def test_the_streams_sequence_is_the_position(bus: NatsBus, log: MemoryLog) -> None:
    relay = relay_of(bus, log)
    async with running(relay):
        await until(running_well(relay))
        for count in (1, 3, 250):
            log.append(count)
            relay.kick()
            await until(published_up_to(relay, len(log.events)))
    assert as_the_log_has_it(await stored(bus, log), log, 1)
    assert relay.published == 254
    assert relay.backlog == 0


async def test_a_new_stream_begins_behind_the_head(bus: NatsBus, log: MemoryLog) -> None:
    log.append(40)
    relay = relay_of(bus, log)
    async with running(relay):
        await until(published_up_to(relay, 40))
        log.append(2)
        await until(published_up_to(relay, 42))  # without a kick: by polling
    assert as_the_log_has_it(await stored(bus, log), log, 41)
    info = await jetstream.info(bus, KEY_LOG.stream_of(log.epoch))
    assert info.metadata["base_position"] == "40"
    assert info.metadata["base_hash"] == log.events[39].hash.hex()
    assert info.metadata["epoch_line"] == log.epoch.line.hex()


async def test_two_relays_publish_each_position_once(bus: NatsBus, nats_url: str, log: MemoryLog) -> None:
    other = await NatsBus.connect(nats_url, name="the other relay")
    relays = [relay_of(bus, log), relay_of(other, log)]
    async with running(*relays):
        await until(running_well(relays[0]))
        for _ in range(60):
            log.append(7)
            for relay in relays:
                relay.kick()
            await asyncio.sleep(0)
        for relay in relays:
            await until(published_up_to(relay, 420))
    await other.close()
    assert as_the_log_has_it(await stored(bus, log), log, 1)
    assert sum(relay.published for relay in relays) == 420


async def test_stored_messages_arrive_live_and_in_order(bus: NatsBus, nats_url: str, log: MemoryLog) -> None:
    subscriber = await NatsBus.connect(nats_url, name="a follower")
    seen: list[Message] = []

    async def see(message: Message) -> None:
        seen.append(message)

    await subscriber.subscribe(KEY_LOG.live_subject_of(log.epoch, ">"), see)
    relays = [relay_of(bus, log), relay_of(bus, log)]
    async with running(*relays):
        await until(running_well(relays[0]))
        for count in (1, 200, 150):
            log.append(count)
            for relay in relays:  # the one that loses must leave nothing on the live subject
                relay.kick()
            await until(published_up_to(relays[0], len(log.events)))

        async def all_seen() -> bool:
            return len(seen) >= 351

        await until(all_seen)
    await subscriber.close()
    assert [message.headers["Nats-Sequence"] for message in seen] == [str(n) for n in range(1, 352)]
    assert [message.body for message in seen] == [event.body for event in log.events]
    assert {message.subject for message in seen} == {KEY_LOG.live_subject_of(log.epoch, log.tail)}


async def test_the_use_log_has_one_subject(bus: NatsBus) -> None:
    log = MemoryLog(tail="")
    seen: list[Message] = []

    async def see(message: Message) -> None:
        seen.append(message)

    await bus.subscribe(USE_LOG.live_subject_of(log.epoch), see)
    relay = relay_of(bus, log, USE_LOG)
    async with running(relay):
        await until(running_well(relay))
        log.append(5)
        relay.kick()

        async def all_seen() -> bool:
            return len(seen) == 5

        await until(all_seen)
    await jetstream.delete(bus, USE_LOG.stream_of(log.epoch))
    assert seen[0].subject == f"kl.uselive.{log.epoch.line.hex()}"


async def test_a_deleted_stream_comes_back_empty_behind_the_head(bus: NatsBus, log: MemoryLog) -> None:
    relay = relay_of(bus, log)
    async with running(relay):
        await until(running_well(relay))
        log.append(30)
        relay.kick()
        await until(published_up_to(relay, 30))
        await jetstream.delete(bus, KEY_LOG.stream_of(log.epoch))

        async def created_again() -> bool:
            return relay.streams_created == 2

        await until(created_again)  # without any commit, so that the next event is not missed
        log.append(3)
        relay.kick()
        await until(published_up_to(relay, 33))
    assert as_the_log_has_it(await stored(bus, log), log, 31)


async def test_the_end_of_a_purged_stream_is_still_its_position(bus: NatsBus, log: MemoryLog) -> None:
    relay = relay_of(bus, log)
    async with running(relay):
        await until(running_well(relay))
        log.append(10)
        log.tail = "ws_b.key_b"
        log.append(5)
        relay.kick()
        await until(published_up_to(relay, 15))
    stream = KEY_LOG.stream_of(log.epoch)
    assert await jetstream.purge(bus, stream, KEY_LOG.subject_of(log.epoch, "ws_b.*")) == 5
    relay = relay_of(bus, log)
    async with running(relay):
        log.append(1)
        await until(published_up_to(relay, 16))
    assert list(await stored(bus, log)) == [*range(1, 11), 16]


async def test_ticks_tell_the_head(bus: NatsBus) -> None:
    ticks: list[Head] = []
    answers = iter([None, 1, 2])

    async def see(message: Message) -> None:
        ticks.append(msgspec.msgpack.decode(message.body, type=Head))

    async def head() -> Head:
        position = next(answers, 3)
        if position is None:
            raise ConnectionError("Postgres is away")
        return Head("", 1, b"12345678", position, GENESIS, 0)

    await bus.subscribe(TICK_SUBJECT, see)
    stop = asyncio.Event()
    ticker = Ticker(bus, head, interval=0.02)
    task = asyncio.create_task(ticker.run(stop))

    async def three() -> bool:
        return len(ticks) >= 3

    await until(three)
    stop.set()
    await task
    assert [tick.position for tick in ticks[:3]] == [1, 2, 3]
