"""Following the use log: each batch once, whatever is lost, repeated, late, or away for a while."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from keyledger.clock import SystemClock
from keyledger.events import Epoch
from keyledger.wire import ErasedUses, Page, RecordedUses, Use
from services.usage.consumer import HELD_MESSAGES, Metrics, UseConsumer
from services.usage.domain.parking import TRIES, Parked
from services.usage.domain.period import MINUTE
from services.usage.domain.tally import Tally, tally
from tests.support.memory_bus import MemoryBus
from tests.support.memory_usage import MemoryFeed, MemoryUsageStore
from tests.support.waiting import until

EPOCH, NEXT_EPOCH = Epoch(1, b"line-one"), Epoch(2, b"line-two")


class House:
    """A consumer and all it is connected to."""

    def __init__(self, epoch: Epoch = EPOCH, *, page_size: int = 100, feed: MemoryFeed | None = None) -> None:
        self.store = MemoryUsageStore()
        self.feed = feed or MemoryFeed(epoch, page_size=page_size)
        self.bus = MemoryBus()
        self.registry = CollectorRegistry()
        self.consumer = UseConsumer(self.store, self.feed, self.bus, SystemClock(), Metrics(self.registry))

    def record(self, count: int = 1) -> list[RecordedUses]:
        """Record this many batches of one use each."""
        first = self.feed.batches[-1].position + 1 if self.feed.batches else 1
        use = Use("ws", "key", "live", MINUTE, "VALID", 1, 1, MINUTE)
        made = [RecordedUses(position, 0, (use,)) for position in range(first, first + count)]
        self.feed.batches += made
        return made

    async def say(self, *batches: RecordedUses, epoch: Epoch | None = None) -> None:
        """Publish them live."""
        line = (epoch or self.feed.epoch).line.hex()
        for batch in batches:
            await self.bus.publish(f"kl.uselive.{line}", msgspec.msgpack.encode(batch))

    def counted(self) -> int:
        """How many uses the store counts."""
        return sum(count.count for count in self.store.buckets["day"].values())

    def sample(self, name: str, **labels: str) -> float:
        """The value of a metric."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def poison(self, use: Use) -> None:
        """Record a batch of a good use and this one."""
        good = Use("ws", "key", "live", MINUTE, "VALID", 1, 1, MINUTE)
        self.feed.batches.append(RecordedUses(self.feed.batches[-1].position + 1, 0, (good, use)))

    async def at(self, position: int) -> None:
        """Wait until everything up to this position is folded, and known to be."""

        async def there() -> bool:
            return self.consumer.position == position and self.consumer.age() is not None

        await until(there, describe=f"position {position}")

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """While the consumer runs."""
        task = asyncio.create_task(self.consumer.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def house() -> House:
    return House()


@pytest.mark.parametrize("live", [False, True])
async def test_a_batch_that_tells_of_a_deletion_erases_what_was_counted_before_it(
    house: House, live: bool
) -> None:
    house.record(3)
    kept = RecordedUses(5, 0, (Use("other", "key", "live", MINUTE, "VALID", 7, 7, MINUTE),))
    late = [ErasedUses(4, 0, (), ("ws",)), kept]
    if not live:
        house.feed.batches += late
    async with house.running():
        if live:
            await house.at(3)
            assert house.counted() == 3
            house.feed.batches += late
            await house.say(*late)
        await house.at(5)

        async def erased() -> bool:
            return house.counted() == 7

        await until(erased)


async def test_what_was_recorded_before_is_paged_in() -> None:
    house = House(page_size=7)
    house.record(30)
    async with house.running():
        await house.at(30)
    assert (house.counted(), house.feed.asked) == (30, [0, 0, 7, 14, 21, 28])
    assert house.sample("keyledger_position") == house.sample("keyledger_head_position") == 30


async def test_live_batches_are_folded_without_asking_the_feed(house: House) -> None:
    async with house.running():
        await house.at(0)
        asked = len(house.feed.asked)
        await house.say(*house.record(5))
        await house.at(5)
        assert len(house.feed.asked) == asked
    assert house.counted() == 5
    assert house.sample("keyledger_usage_batches_total", source="live") == 5


async def test_a_gap_is_filled_from_the_feed(house: House) -> None:
    async with house.running():
        await house.at(0)
        await house.say(house.record(4)[3])
        await house.at(4)
    assert house.counted() == 4
    assert house.sample("keyledger_usage_gaps_total") == 1


async def test_repeated_and_old_batches_count_once(house: House) -> None:
    async with house.running():
        await house.at(0)
        batches = house.record(3)
        await house.say(*batches, *batches, batches[0])
        await house.at(3)
        await house.say(*house.record(1))
        await house.at(4)
    assert house.counted() == 4


async def test_more_than_can_be_held_comes_by_the_feed(house: House) -> None:
    async with house.running():
        await house.at(0)
        await house.say(*house.record(HELD_MESSAGES + 50))
        await house.at(HELD_MESSAGES + 50)
    assert house.counted() == HELD_MESSAGES + 50


async def test_a_disturbance_makes_it_ask_at_once(house: House) -> None:
    async with house.running():
        await house.at(0)
        house.record(2)
        house.bus.disturb("the connection was lost")
        await house.at(2)
    assert house.counted() == 2


async def test_silence_on_the_bus_is_found_out_by_asking(house: House) -> None:
    async with house.running():
        await house.at(0)
        house.record(2)
        await house.at(2)
    assert house.counted() == 2


async def test_a_new_line_goes_on_where_the_old_one_was_left(house: House) -> None:
    house.record(5)
    async with house.running():
        await house.at(5)
        house.feed.epoch = NEXT_EPOCH
        house.record(2)
        house.bus.disturb("the connection was lost")

        async def followed() -> bool:
            return house.consumer.epoch == NEXT_EPOCH and house.consumer.position == 7

        await until(followed)
        await house.say(*house.record(1))
        await house.at(8)
    assert house.counted() == 8
    assert house.store.lines == {EPOCH.line: (1, 5), NEXT_EPOCH.line: (2, 8)}


async def test_what_a_restored_log_has_lost_stays_counted(house: House) -> None:
    house.record(5)
    async with house.running():
        await house.at(5)
        del house.feed.batches[3:]
        house.feed.epoch = NEXT_EPOCH
        house.bus.disturb("the connection was lost")

        async def followed() -> bool:
            return house.consumer.epoch == NEXT_EPOCH and house.consumer.position == 3

        await until(followed)
        await house.say(*house.record(2))
        await house.at(5)
    assert house.counted() == 7


async def test_a_database_that_went_back_under_the_same_line_is_followed(house: House) -> None:
    house.record(5)
    async with house.running():
        await house.at(5)
        house.store.lines[EPOCH.line] = (1, 2)
        del house.feed.batches[2:]
        house.bus.disturb("the connection was lost")

        async def followed() -> bool:
            return house.consumer.position == 2

        await until(followed)
        await house.say(*house.record(1))
        await house.at(3)
    assert house.counted() == 6


async def test_a_batch_of_another_line_is_not_folded(house: House) -> None:
    async with house.running():
        await house.at(0)
        await house.say(RecordedUses(1, 0, ()), epoch=NEXT_EPOCH)
        await house.say(*house.record(1))
        await house.at(1)
    assert house.counted() == 1


async def test_it_goes_on_where_the_store_stands(house: House) -> None:
    house.record(9)
    await house.store.begin(EPOCH, 9)
    await house.store.fold(EPOCH, 0, 6, Tally({"minute": {}, "hour": {}, "day": {}}, {}))
    async with house.running():
        await house.at(9)
    assert house.counted() == 3


async def test_two_of_them_count_each_batch_once(house: House) -> None:
    other = House()
    other.store, other.feed = house.store, house.feed
    other.consumer = UseConsumer(
        house.store, house.feed, other.bus, SystemClock(), Metrics(CollectorRegistry())
    )
    house.record(150)
    async with house.running(), other.running():
        await house.at(150)
        await other.at(150)
        for batch in house.record(20):
            await house.say(batch)
            await other.say(batch)
        await house.at(170)
        await other.at(170)
    assert house.counted() == 170


async def test_a_feed_and_a_store_that_were_away_are_tried_again(house: House) -> None:
    house.feed.away = True
    house.record(3)
    async with house.running():

        async def failed() -> bool:
            return house.sample("keyledger_usage_failures_total", cause="FeedUnavailable") >= 1

        await until(failed)
        assert house.consumer.age() is None
        house.store.away, house.feed.away = True, False

        async def failed_again() -> bool:
            return house.sample("keyledger_usage_failures_total", cause="StoreUnavailable") >= 1

        await until(failed_again)
        house.store.away = False
        await house.at(3)
    assert house.counted() == 3


async def test_garbage_on_the_bus_is_counted_and_passed_over(house: House) -> None:
    async with house.running():
        await house.at(0)
        await house.bus.publish(f"kl.uselive.{EPOCH.line.hex()}", b"\xc1garbage")
        await house.say(*house.record(1))
        await house.at(1)
    assert house.sample("keyledger_usage_failures_total", cause="undecodable") == 1


@pytest.mark.parametrize("trouble", ["older epoch", "behind", "hole"])
async def test_a_feed_that_contradicts_itself_is_not_believed(house: House, trouble: str) -> None:
    house.record(3)
    async with house.running():
        await house.at(3)
        if trouble == "older epoch":
            house.feed.epoch = Epoch(0, b"line-nil")
        elif trouble == "behind":
            del house.feed.batches[1:]
        else:
            house.record(3)
            del house.feed.batches[3]
        house.bus.disturb("connected")

        async def failed() -> bool:
            return house.sample("keyledger_usage_failures_total", cause="FeedUnavailable") >= 1

        await until(failed)
        assert (house.consumer.epoch, house.consumer.position) == (EPOCH, 3)
    assert house.counted() == 3


BAD = {
    "more than a counter holds": Use("ws", "key", "live", MINUTE, "VALID", 2**62, 1, MINUTE),
    "fewer than none": Use("ws", "key", "live", MINUTE, "VALID", -5, 1, MINUTE),
    "a cost below nothing": Use("ws", "key", "live", MINUTE, "VALID", 1, -1, MINUTE),
    "a minute of no calendar": Use("ws", "key", "live", 2**62, "VALID", 1, 1, MINUTE),
    "a last use of no calendar": Use("ws", "key", "live", MINUTE, "VALID", 1, 1, 2**62),
    "what the store cannot hold": Use("ws", "key\0", "live", MINUTE, "VALID", 1, 1, MINUTE),
}


@pytest.mark.parametrize("words", BAD)
@pytest.mark.parametrize("live", [False, True])
async def test_a_batch_that_cannot_be_counted_costs_itself_and_no_other(
    house: House, words: str, live: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    house.record(3)
    if live:
        async with house.running():
            await house.at(3)
            house.poison(BAD[words])
            house.record(2)
            await house.say(*house.feed.batches[3:])
            await house.at(6)
    else:
        house.poison(BAD[words])
        house.record(2)
        async with house.running():
            await house.at(6)
    assert house.counted() == 5
    assert [(each.position, each.uses) for each in house.store.passed_over.values()] == [(4, 2)]
    assert house.sample("keyledger_usage_parked_batches") == house.consumer.parked == 1
    assert house.sample("keyledger_usage_failures_total", cause="Unfoldable") == TRIES - 1
    assert capsys.readouterr().out.count("batch_parked") == 1


async def test_a_record_that_cannot_be_read_is_passed_over_at_its_place() -> None:
    class Garbled(MemoryFeed):
        async def page(self, after: int, limit: int) -> tuple[Page, list[memoryview]]:
            page, records = await super().page(after, limit)
            return page, [
                memoryview(b"\xc1") if at == 3 else each for at, each in enumerate(records, after + 1)
            ]

    house = House(feed=Garbled(EPOCH, page_size=4))
    house.record(6)
    async with house.running():
        await house.at(6)
    assert house.counted() == 5
    assert [each.why for each in house.store.passed_over.values()] == ["unreadable"]


async def test_what_is_garbled_once_is_counted(house: House) -> None:
    garbled = house.record(1)[0]
    house.feed.batches = [RecordedUses(1, 0, (BAD["fewer than none"],))]
    async with house.running():

        async def failed() -> bool:
            return house.sample("keyledger_usage_failures_total", cause="Unfoldable") >= 1

        await until(failed)
        house.feed.batches = [garbled]
        await house.at(1)
    assert (house.counted(), house.consumer.parked) == (1, 0)


async def test_what_was_passed_over_before_is_known_after_a_restart(house: House) -> None:
    await house.store.begin(EPOCH, 0)
    await house.store.fold(EPOCH, 0, 1, tally([]), parked=[Parked(1, 1, "count")])
    house.record(2)
    async with house.running():
        await house.at(2)
    assert house.sample("keyledger_usage_parked_batches") == 1


async def test_a_store_that_fails_for_another_reason_passes_nothing_over(house: House) -> None:
    house.record(2)
    house.store.broken = True
    async with house.running():

        async def failed() -> bool:
            return house.sample("keyledger_usage_failures_total", cause="RuntimeError") > TRIES

        await until(failed)
        assert house.store.passed_over == {}
        house.store.broken = False
        await house.at(2)
    assert (house.counted(), house.consumer.parked) == (2, 0)
