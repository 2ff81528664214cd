"""The follower: whatever the bus does, the store ends as a fresh fold of the log, and knows how old it is."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyledger.events import Epoch, KeyChanged, KeyRevoked
from keyledger.verification.follower import Follower
from keyledger.verification.freshness import NEVER
from keyledger.verification.ports import APPLIED_SUBJECT, HEAD_SUBJECT, TICK_SUBJECT, FeedUnavailable, Message
from keyledger.verification.store import MemoryStore
from keyledger.wire import Followed, Head, HeadQuestion, Page
from tests.support.followed_log import (
    START,
    WORKSPACE,
    FollowedLog,
    key_created,
    key_id,
    key_rotated,
)
from tests.support.verifying import World
from tests.support.waiting import until

KEY = key_id(1)


async def world_with_key() -> World:
    world = World()
    world.add(KEY, key_created(1))
    return await world.caught_up()


async def listening(world: World) -> World:
    """With the subscriptions of a running follower, and none of its tasks."""
    await world.follower.start()
    await world.follower.stop()
    return world


def records(store: MemoryStore, log: FollowedLog) -> list[object]:
    streams = sorted({event.stream_id for event in log.events})
    return [store.get(stream) or store.workspace(stream) for stream in streams]


def folded(log: FollowedLog) -> MemoryStore:
    store = MemoryStore()
    for event in log.events:
        store.apply(event)
    return store


def fold(log: FollowedLog) -> list[object]:
    return records(folded(log), log)


async def test_it_reads_the_log_page_by_page() -> None:
    world = World()
    for number in range(50):
        world.add(key_id(number), key_created(number))
    await world.caught_up()
    assert world.store.position == 51
    assert records(world.store, world.log) == fold(world.log)
    assert world.follower.age() == 0


async def test_a_live_event_is_applied_at_once() -> None:
    world = await listening(await world_with_key())
    pages = world.log.pages
    await world.log.publish(world.bus, world.log.append(KEY, KeyRevoked()))
    record = world.store.get(KEY)
    assert record is not None
    assert record.revoked
    assert world.log.pages == pages


async def test_a_lost_event_is_fetched_when_the_next_one_shows_the_gap() -> None:
    world = await listening(await world_with_key())
    world.log.append(KEY, KeyRevoked())
    await world.log.publish(world.bus, world.log.append(key_id(2), key_created(2)))
    assert world.store.position == 2
    await world.follower.repair()
    assert world.store.position == 4


async def test_a_lost_last_event_is_found_by_the_head() -> None:
    world = await listening(await world_with_key())
    world.clock.advance(5)
    world.log.append(KEY, KeyRevoked())
    await world.follower.ask()
    assert world.follower.age() == 5
    await world.follower.repair()
    assert world.store.position == 3
    assert world.follower.age() == 0


async def test_the_age_counts_from_when_the_question_was_sent() -> None:
    world = await world_with_key()
    world.clock.advance(3)

    async def slow(message: Message) -> None:
        question = msgspec.msgpack.decode(message.body, type=HeadQuestion)
        world.clock.advance(2)
        head = await world.log.head(question)
        await world.bus.publish(message.reply, msgspec.msgpack.encode(head))

    await world.bus.subscribe(HEAD_SUBJECT, slow)
    assert await world.follower.ask()
    assert world.follower.age() == 2


async def test_an_answer_to_another_question_proves_nothing() -> None:
    world = await world_with_key()
    world.clock.advance(3)

    async def liar(message: Message) -> None:
        head = Head("other", 1, world.log.epoch.line, 2, world.log.hash, START)
        await world.bus.publish(message.reply, msgspec.msgpack.encode(head))

    await world.bus.subscribe(HEAD_SUBJECT, liar)
    world.log.away = True
    assert not await world.follower.ask()
    assert world.follower.age() == 3
    world.log.away = False
    assert await world.follower.ask()
    assert world.follower.age() == 0


async def test_without_the_bus_the_head_is_asked_over_http() -> None:
    world = await world_with_key()
    world.bus.connected = False
    world.clock.advance(9)
    assert await world.follower.ask()
    assert world.follower.age() == 0


async def test_when_nobody_answers_the_age_grows() -> None:
    world = await world_with_key()
    world.log.away = True
    world.clock.advance(301)
    assert not await world.follower.ask()
    assert world.follower.age() == 301


async def test_while_postgres_is_away_the_state_is_held() -> None:
    world = await world_with_key()
    world.log.writable = False
    world.clock.advance(600)
    assert await world.follower.ask()
    assert world.follower.age() == 0
    assert world.follower.freshness.held
    world.clock.advance(301)
    assert await world.follower.ask()
    assert world.follower.age() == 901


async def test_a_head_behind_what_is_applied_proves_nothing_and_has_the_log_read_anew() -> None:
    world = await world_with_key()
    world.add(KEY, KeyRevoked())
    await world.caught_up()
    world.clock.advance(10)
    world.log.events.pop()
    await world.follower.ask()
    assert (world.follower.age(), world.store.position) == (10, 3)
    await world.follower.repair()
    assert (world.follower.forks, world.follower.rebuilds) == (1, 1)
    assert (world.follower.age(), world.store.position) == (0, 2)
    record = world.store.get(KEY)
    assert record is not None
    assert record.revoked


async def test_another_history_at_a_known_position_is_rebuilt() -> None:
    world = await listening(await world_with_key())
    good = world.log.events[-1]
    forged = msgspec.structs.replace(good, hash=b"x" * 32)
    await world.log.publish(world.bus, forged)
    assert world.follower.age() == NEVER
    await world.follower.repair()
    assert world.follower.rebuilds == 1
    assert world.follower.age() == 0
    assert records(world.store, world.log) == fold(world.log)


async def test_a_head_of_another_history_is_found_by_its_hash() -> None:
    world = await world_with_key()
    world.add(KEY, KeyRevoked())
    await world.caught_up()
    world.log.events.pop()
    world.add(KEY, KeyChanged(enabled=False))
    await world.follower.ask()
    assert (world.follower.age(), world.follower.forks) == (NEVER, 1)
    await world.follower.repair()
    record = world.store.get(KEY)
    assert record is not None
    assert (record.revoked, record.enabled, world.follower.age()) == (True, False, 0)


async def test_an_answer_about_the_store_before_it_was_rebuilt_says_nothing() -> None:
    world = await world_with_key()
    world.add(KEY, KeyRevoked())
    await world.caught_up()
    world.log.events.pop()
    await world.follower.ask()

    async def rebuilt_meanwhile(message: Message) -> None:
        await world.follower.repair()
        question = msgspec.msgpack.decode(message.body, type=HeadQuestion)
        await world.bus.publish(message.reply, msgspec.msgpack.encode(await world.log.head(question)))

    await world.bus.subscribe(HEAD_SUBJECT, rebuilt_meanwhile)
    assert await world.follower.ask()
    assert (world.follower.forks, world.follower.rebuilds, world.follower.age()) == (1, 1, 0)


async def test_one_that_cannot_write_and_knows_another_line_changes_nothing() -> None:
    world = await world_with_key()
    world.log.writable = False
    world.log.epoch = Epoch(7, b"\x07" * 8)
    world.clock.advance(5)
    assert await world.follower.ask()
    assert (world.follower.age(), world.follower.freshness.held, world.follower.forks) == (5, False, 0)
    assert world.store.epoch == Epoch(1, b"\x01" * 8)


async def test_one_that_left_says_so_and_is_fresh_no_more() -> None:
    world = await world_with_key()
    await world.follower.leave()
    told = msgspec.msgpack.decode(world.bus.published[-1].body, type=HeadQuestion)
    assert (world.bus.published[-1].subject, told.verifier, told.leaving) == (
        APPLIED_SUBJECT,
        "verifier-test",
        True,
    )
    assert world.follower.age() == NEVER


async def test_a_feed_that_contradicts_itself_is_not_read_again_without_a_pause() -> None:
    world = await world_with_key()
    pages = world.log.page

    async def of_another_line_each_time(after: int, limit: int) -> tuple[Page, list[memoryview]]:
        world.log.epoch = Epoch(2, world.log.pages.to_bytes(8))
        return await pages(after, limit)

    world.log.page = of_another_line_each_time
    world.log.epoch = Epoch(2, bytes(8))
    await world.follower.ask()
    with pytest.raises(FeedUnavailable):
        await world.follower.repair()
    assert world.follower.rebuilds == 1


async def test_an_event_that_does_not_continue_our_chain_is_never_applied() -> None:
    world = await listening(await world_with_key())
    forged = Followed(3, b"y" * 32, b"z" * 32, KEY, 2, "key_revoked", 1, WORKSPACE, START, b"{}")
    await world.log.publish(world.bus, forged)
    record = world.store.get(KEY)
    assert record is not None
    assert not record.revoked


async def test_an_event_of_another_line_is_not_applied() -> None:
    world = await listening(await world_with_key())
    other = FollowedLog(2, b"\x09" * 8)
    other.events = list(world.log.events)
    await other.publish(world.bus, other.append(KEY, KeyRevoked()))
    assert world.store.position == 2


async def test_a_new_epoch_is_rebuilt_and_its_denials_survive() -> None:
    world = await world_with_key()
    for number in (2, 3, 4):
        world.add(key_id(number), key_created(number))
    before = world.log.position
    world.add(KEY, KeyRevoked())
    world.add(key_id(2), KeyChanged(enabled=False))
    world.add(key_id(3), key_rotated(3, 2, START))
    await world.caught_up()
    old = world.log
    restored = old.restored(before)
    follower_log_moves_to(world, restored)
    await world.caught_up()
    assert world.store.epoch == Epoch(2, bytes(8))
    assert world.store.position == before
    revoked, disabled, rotated, untouched = (world.store.get(key_id(number)) for number in (1, 2, 3, 4))
    assert revoked is not None
    assert revoked.revoked
    assert disabled is not None
    assert not disabled.enabled
    assert rotated is not None
    assert rotated.secrets[0].valid_until == START
    assert untouched == folded(restored).get(key_id(4))
    assert world.follower.age() == 0


def follower_log_moves_to(world: World, log: FollowedLog) -> None:
    """The key service goes on with another log."""
    world.log.events, world.log.epoch = log.events, log.epoch


async def test_denials_are_announced_for_receipts() -> None:
    world = await world_with_key()
    await world.follower.start()
    await world.log.publish(world.bus, world.log.append(KEY, KeyRevoked()))

    async def announced() -> list[HeadQuestion]:
        bodies = [message.body for message in world.bus.published if message.subject == APPLIED_SUBJECT]
        told = [msgspec.msgpack.decode(body, type=HeadQuestion) for body in bodies]
        return [each for each in told if each.applied == 3]

    told = await until(announced)
    assert told[-1] == HeadQuestion("", "verifier-test", world.log.epoch.line, 3)
    await world.follower.stop()


async def test_running_it_catches_up_and_follows_by_itself() -> None:
    world = World()
    world.add(KEY, key_created(1))
    await world.follower.start()
    assert await world.follower.reached(2, None, within=5)
    world.log.append(KEY, KeyRevoked())
    head = Head("", 1, world.log.epoch.line, 3, world.log.hash, START)
    await world.bus.publish(TICK_SUBJECT, msgspec.msgpack.encode(head))
    assert await world.follower.reached(3, world.log.epoch.text, within=5)
    world.log.append(KEY, KeyChanged())
    world.bus.disturb()
    assert await world.follower.reached(4, None, within=5)
    await world.follower.stop()


async def test_a_feed_that_comes_back_is_read_on() -> None:
    world = World()
    world.log.away = True
    await world.follower.start()
    with pytest.raises(FeedUnavailable):
        await world.follower.repair()
    world.log.away = False
    assert await world.follower.reached(1, None, within=5)
    await world.follower.stop()


async def test_waiting_for_a_position_ends() -> None:
    world = await world_with_key()
    assert await world.follower.reached(2, "1-0101010101010101")
    assert not await world.follower.reached(3, None, within=0.01)
    assert not await world.follower.reached(2, "2-0101010101010101", within=0.01)


async def test_a_broken_live_message_asks_for_repair_and_no_more() -> None:
    world = await listening(await world_with_key())
    await world.bus.publish(f"kl.live.{world.log.epoch.line.hex()}.a.b", b"\xc1")
    await world.bus.publish(TICK_SUBJECT, b"\xc1")
    await world.follower.repair()
    assert world.store.position == 2


actions = st.lists(st.sampled_from(["key", "change", "rotate", "revoke", "unknown"]), max_size=30)


@settings(max_examples=60, deadline=None)
@given(actions, st.randoms(use_true_random=False))
def test_under_loss_duplicates_and_disorder_the_store_is_a_fresh_fold(
    what: list[str], chance: random.Random
) -> None:
    asyncio.run(_follow(what, chance))


async def _follow(what: list[str], chance: random.Random) -> None:
    world = await world_with_key()
    await listening(world)
    world.bus.drop = lambda _: chance.random() < 0.3
    world.bus.duplicate = lambda _: chance.random() < 0.3
    world.bus.hold = lambda _: chance.random() < 0.4
    for at, action in enumerate(what):
        await world.log.publish(world.bus, _append(world.log, action, at, chance))
        if chance.random() < 0.2:
            await world.bus.release(chance)
        if chance.random() < 0.2:
            await world.follower.repair()
        assert records(world.store, world.log)[0] is not None
    await world.bus.release(chance)
    await world.caught_up()
    assert world.follower.rebuilds == 0
    assert world.store.position == world.log.position
    assert records(world.store, world.log) == fold(world.log)


def _append(log: FollowedLog, action: str, at: int, chance: random.Random) -> Followed:
    number = chance.randrange(1, 4)
    if action == "key":
        return log.append(key_id(100 + at), key_created(100 + at))
    if action == "change":
        return log.append(key_id(number), KeyChanged(enabled=chance.random() < 0.5))
    if action == "rotate":
        return log.append(key_id(number), key_rotated(number, at + 2, START + at))
    if action == "revoke":
        return log.append(key_id(number), KeyRevoked())
    return log.append_raw(key_id(number), "key_of_the_future", 1, b"{}")


def test_the_follower_needs_no_bus() -> None:
    async def follow() -> int:
        world = World()
        follower = Follower(world.store, world.log, None, world.clock, name="v")
        await follower.start()
        await follower.reached(1, None, within=5)
        await follower.stop()
        return world.store.position

    assert asyncio.run(follow()) == 1
