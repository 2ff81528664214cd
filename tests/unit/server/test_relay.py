"""The relay without a broker: what it does when answers are lost, and what it does not do."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from keyledger.events import Epoch
from keyledger.server.log_stream import BATCH_BYTES, KEY_LOG, USE_LOG, Outgoing, SourceHead, one_batch
from keyledger.server.relay import Relay, RelaySettings
from tests.support.memory_jetstream import Fate, MemoryJetStream, MemoryStream
from tests.support.memory_log import MemoryLog, new_epoch
from tests.support.relays import never, running
from tests.support.waiting import until

FAST = RelaySettings(poll=0.002, recheck=60, longest_pause=0.005)
EPOCH = Epoch(3, bytes.fromhex("0123456789abcdef"))


def relay_of(bus: MemoryJetStream, log: MemoryLog, settings: RelaySettings = FAST) -> Relay:
    return Relay(bus, log, KEY_LOG, on_regression=never, settings=settings)


def stream_of(bus: MemoryJetStream, log: MemoryLog) -> MemoryStream:
    return bus.streams[KEY_LOG.stream_of(log.epoch)]


def reached(relay: Relay, position: int) -> Callable[[], Awaitable[bool]]:
    async def there() -> bool:
        return relay.last_position >= position and relay.state == "running"

    return there


def is_a_slice_of(log: MemoryLog, stream: MemoryStream) -> bool:
    """Whether every message sits at its own position, without a hole."""
    sequences = list(stream.messages)
    assert sequences == list(range(stream.config["first_seq"], stream.last + 1))
    for sequence, (_, headers, body) in stream.messages.items():
        event = log.events[sequence - 1]
        assert (headers["Kl-Hash"], body) == (event.hash.hex(), event.body)
    return True


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_is_lost_each_position_is_stored_once(seed: int) -> None:
    chance = random.Random(seed)
    fates: list[Fate] = ["stored", "stored", "lost", "unheard", "late"]
    bus = MemoryJetStream(lambda: chance.choice(fates))
    log = MemoryLog()
    relays = [relay_of(bus, log) for _ in range(chance.randint(1, 3))]
    async with running(*relays):
        await until(reached(relays[0], 0))
        for _ in range(30):
            log.append(chance.randint(1, 300))
            for relay in relays:
                if chance.random() < 0.6:
                    relay.kick()
            if chance.random() < 0.1:
                bus.streams.clear()
            for _ in range(chance.randint(0, 40)):
                await asyncio.sleep(0)
            for stream in bus.streams.values():
                assert is_a_slice_of(log, stream), f"seed {seed}"
        for relay in relays:
            await until(reached(relay, len(log.events)))
    for stream in bus.streams.values():
        assert is_a_slice_of(log, stream), f"seed {seed}"
    assert all(relay.backlog == 0 for relay in relays)


async def test_what_another_relay_published_is_read_not_tried() -> None:
    bus, log = MemoryJetStream(), MemoryLog()
    kicked, idle = relay_of(bus, log), relay_of(bus, log)
    async with running(kicked, idle):
        for relay in (kicked, idle):
            await until(reached(relay, 0))
        for position in range(1, 20):
            log.append(1)
            kicked.kick()
            await until(reached(kicked, position))
            await until(reached(idle, position))
    # a poll may fall between a commit and the kick; then its relay is first, which is as good
    assert kicked.published + idle.published == 19
    assert idle.retries == 0


async def test_an_idle_relay_asks_only_for_the_head() -> None:
    bus, log = MemoryJetStream(), MemoryLog()
    relay = relay_of(bus, log)
    async with running(relay):
        await until(reached(relay, 0))
        asked, heads = len(bus.asked), log.heads

        async def polled_often() -> bool:
            return log.heads > heads + 20

        await until(polled_often)
        assert len(bus.asked) == asked


async def test_a_stream_is_looked_at_again_even_when_idle() -> None:
    bus, log = MemoryJetStream(), MemoryLog()
    log.append(3)
    relay = relay_of(bus, log, RelaySettings(poll=0.002, recheck=0.01))
    async with running(relay):
        await until(reached(relay, 3))
        bus.streams.clear()

        async def created_again() -> bool:
            return relay.streams_created == 2

        await until(created_again)
    assert stream_of(bus, log).last == 3


async def test_a_log_with_a_hole_is_not_published() -> None:
    bus, log = MemoryJetStream(), MemoryLog()
    relay = relay_of(bus, log)
    async with running(relay):
        await until(reached(relay, 0))
        log.append(3)
        del log.events[1]
        relay.kick()

        async def refused() -> bool:
            return relay.state.startswith("ValueError: the log has a hole")

        await until(refused)
    assert stream_of(bus, log).messages == {}


async def test_one_contradiction_is_looked_at_again_before_it_counts() -> None:
    class Stutters(MemoryLog):
        stutter = False

        async def head(self) -> SourceHead:
            head = await super().head()
            if self.stutter:
                self.stutter = False
                return SourceHead(head.epoch, head.position - 1, b"another hash")
            return head

    bus, log = MemoryJetStream(), Stutters()
    relay = relay_of(bus, log)
    async with running(relay):
        await until(reached(relay, 0))
        for position in range(1, 6):
            log.append(1)
            relay.kick()
            await until(reached(relay, position))
            log.stutter = True

            async def stuttered() -> bool:
                return not log.stutter

            await until(stuttered)
    assert relay.regressions == 0
    assert is_a_slice_of(log, stream_of(bus, log))


async def test_events_of_another_line_never_reach_this_lines_stream() -> None:
    """Between the page and the head the epoch changes: the page is dropped."""
    bus, log = MemoryJetStream(), MemoryLog()
    old = log.epoch

    class ChangesWhilePaging(MemoryLog):
        async def after(self, position: int, limit: int) -> list[Outgoing]:
            page = list(await super().after(position, limit))
            if self.epoch is old and len(self.events) > 5:
                self.epoch = new_epoch(2)
            return page

    log = ChangesWhilePaging(old)
    relay = relay_of(bus, log)
    async with running(relay):
        await until(reached(relay, 0))
        log.append(5)
        relay.kick()
        await until(reached(relay, 5))
        log.append(3)
        relay.kick()

        async def follows() -> bool:
            return KEY_LOG.stream_of(log.epoch) in bus.streams and log.epoch is not old

        await until(follows)
        log.append(1)
        relay.kick()
        await until(reached(relay, 9))
    assert bus.streams[KEY_LOG.stream_of(old)].last == 5
    assert list(stream_of(bus, log).messages) == [9]


async def test_a_pause_ends_when_the_broker_is_back() -> None:
    bus, log = MemoryJetStream(), MemoryLog()
    bus.connected = False
    relay = relay_of(bus, log, RelaySettings(poll=0.002, longest_pause=3600))
    async with running(relay):

        async def pauses_long() -> bool:
            bus.disturb("connected")
            return relay.retries > 20  # pauses of minutes by now, each ended by the bus

        await until(pauses_long)
        bus.connected = True
        bus.disturb("connected")
        await until(reached(relay, 0))


async def test_the_backlog_grows_with_the_log_while_the_bus_is_away() -> None:
    bus, log = MemoryJetStream(), MemoryLog()
    log.append(5)
    relay = relay_of(bus, log)

    def is_behind(events: int) -> Callable[[], Awaitable[bool]]:
        async def behind() -> bool:
            return relay.backlog == events

        return behind

    async with running(relay):
        await until(reached(relay, 5))
        bus.connected = False
        log.append(3)
        relay.kick()
        await until(is_behind(3))
        log.append(4)
        await until(is_behind(7))
        failures = relay.retries
        log.fail = OSError("the log is away, too")

        async def failed_again() -> bool:
            return relay.retries > failures + 3

        await until(failed_again)
        assert relay.backlog == 7, "what is known stays"
        log.fail, bus.connected = None, True
        await until(is_behind(0))
    assert stream_of(bus, log).last == 12


async def test_a_relay_that_never_reached_the_bus_is_behind_by_the_whole_log() -> None:
    bus, log = MemoryJetStream(), MemoryLog()
    bus.connected = False
    log.append(6)
    relay = relay_of(bus, log)
    async with running(relay):

        async def behind() -> bool:
            return relay.backlog == 6

        await until(behind)


def test_the_names_on_the_broker() -> None:
    assert KEY_LOG.stream_of(EPOCH) == "KEYS_0123456789abcdef"
    assert KEY_LOG.subject_of(EPOCH, "ws_a.key_b") == "kl.ev.0123456789abcdef.ws_a.key_b"
    assert KEY_LOG.live_subject_of(EPOCH, ">") == "kl.live.0123456789abcdef.>"
    assert USE_LOG.stream_of(EPOCH) == "USES_0123456789abcdef"
    assert USE_LOG.subject_of(EPOCH) == "kl.uselog.0123456789abcdef"
    assert USE_LOG.live_subject_of(EPOCH) == "kl.uselive.0123456789abcdef"


@pytest.mark.parametrize(
    ("sizes", "taken"),
    [
        ([10], 1),
        ([BATCH_BYTES + 1, 1], 1),
        ([BATCH_BYTES, 1], 1),
        ([BATCH_BYTES - 1, 1, 1], 2),
        ([1] * 200, 200),
        ([1] * 201, 200),
        ([1] * 300, 200),
    ],
)
def test_a_batch_keeps_both_limits_and_is_never_empty(sizes: list[int], taken: int) -> None:
    page = [Outgoing(number, b"", "", bytes(size)) for number, size in enumerate(sizes, start=1)]
    assert list(one_batch(page)) == page[:taken]
