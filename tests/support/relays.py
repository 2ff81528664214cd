"""Relays in tests: run some for the length of a block, wait for them, compare what is stored with the log."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from keyledger.server import jetstream
from keyledger.server.log_stream import KEY_LOG, LogNames, StreamLimits
from keyledger.server.relay import Regression, Relay, RelaySettings
from keyledger.verification.ports import Bus
from tests.support.memory_log import MemoryLog

LIMITS = StreamLimits(max_msgs=100_000, max_bytes=32 << 20)
SETTINGS = RelaySettings(recheck=0.2, ack_timeout=0.3, longest_pause=0.2, limits=LIMITS)


async def never(_: Regression) -> None:
    """What is called when a log went back in time, where none does."""
    raise AssertionError("nothing went back in time")


def relay_of(bus: Bus, log: MemoryLog, names: LogNames = KEY_LOG) -> Relay:
    """A relay with short times, whose log never goes back in time."""
    return Relay(bus, log, names, on_regression=never, settings=SETTINGS)


@asynccontextmanager
async def running(*relays: Relay) -> AsyncGenerator[None]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(relay.run(stop)) for relay in relays]
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(5):
            await asyncio.gather(*tasks)


def running_well(relay: Relay) -> Callable[[], Awaitable[bool]]:
    async def runs() -> bool:
        return relay.state == "running"

    return runs


def published_up_to(relay: Relay, position: int) -> Callable[[], Awaitable[bool]]:
    async def published() -> bool:
        return relay.last_position >= position

    return published


async def stored(bus: Bus, log: MemoryLog, names: LogNames = KEY_LOG) -> dict[int, jetstream.StoredMessage]:
    """Everything the stream holds, by sequence."""
    name, found = names.stream_of(log.epoch), dict[int, jetstream.StoredMessage]()
    info = await jetstream.info(bus, name)
    for sequence in range(info.state.first_seq, info.state.last_seq + 1):
        message = await jetstream.message(bus, name, sequence)
        if message is not None:
            found[sequence] = message
    return found


def as_the_log_has_it(found: Mapping[int, jetstream.StoredMessage], log: MemoryLog, first: int) -> bool:
    events = log.events[first - 1 :]
    assert list(found) == [event.position for event in events]
    for event in events:
        message = found[event.position]
        assert message.body == event.body
        assert message.headers["Kl-Hash"] == event.hash.hex()
        assert message.headers["Kl-Position"] == str(event.position)
        assert message.headers["Kl-Epoch"] == log.epoch.text
    return True
