"""F18: each event one to five times, shuffled within a window: the store is as if it had read the log."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from keyledger.events import KeyChanged, KeyRevoked, WorkspaceChanged
from keyledger.verification.store import MemoryStore
from keyledger.wire import Followed
from tests.faults.conftest import Figures
from tests.support.followed_log import START, WORKSPACE, key_created, key_id, key_rotated
from tests.support.verifying import World

MOST = 5
KEYS = 3
ACTIONS = st.sampled_from("create change rotate revoke suspend unknown".split())
WHAT = st.lists(st.tuples(ACTIONS, st.integers(1, KEYS)), max_size=25)


def record(world: World, action: str, number: int) -> None:
    log = world.log
    match action:
        case "create":
            log.append(key_id(100 + log.position), key_created(100 + log.position))
        case "change":
            log.append(key_id(number), KeyChanged(scopes=(f"n:{log.position}",)))
        case "rotate":
            log.append(key_id(number), key_rotated(number, log.position, START + log.position))
        case "revoke":
            log.append(key_id(number), KeyRevoked())
        case "suspend":
            log.append(WORKSPACE, WorkspaceChanged(suspended=log.position % 2 == 0))
        case _:
            log.append_raw(key_id(number), "key_of_tomorrow", 1, b"{}")


def repeated(events: list[Followed], window: int, chance: random.Random) -> list[Followed]:
    """Each one to five times, none further than the window from where it stood."""
    copies = [event for event in events for _ in range(chance.randint(1, MOST))]
    order = sorted(range(len(copies)), key=lambda at: at + chance.uniform(0, window))
    return [copies[at] for at in order]


def records(store: MemoryStore, events: list[Followed]) -> list[object]:
    streams = sorted({event.stream_id for event in events})
    return [store.get(stream) or store.workspace(stream) for stream in streams]


async def deliver(what: list[tuple[str, int]], window: int, chance: random.Random) -> int:
    """Tell a follower all of it in disorder, without the feed to help; how many messages that took."""
    world = World()
    for number in range(1, KEYS + 1):
        world.log.append(key_id(number), key_created(number))
    await world.caught_up()
    await world.follower.start()
    await world.follower.stop()
    world.log.away = True
    begun = world.log.position
    for action, number in what:
        record(world, action, number)
    messages = repeated(world.log.events[begun:], window, chance)
    for event in messages:
        await world.log.publish(world.bus, event)
    once = MemoryStore()
    for event in world.log.events:
        # as the bus carries it, so that nothing is shared
        once.apply(msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=Followed))
    store = world.store
    assert isinstance(store, MemoryStore)
    assert (store.position, store.last_hash) == (world.log.position, world.log.hash)
    assert records(store, world.log.events) == records(once, world.log.events)
    assert world.follower.rebuilds == 0
    return len(messages)


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(200, id="short"),
        pytest.param(10_000, id="long", marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)
def test_each_event_up_to_five_times_in_any_order_is_the_log_once(figures: Figures, cases: int) -> None:
    counted: list[int] = []

    @seed(figures.seed)
    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(WHAT, st.integers(0, 60), st.randoms(use_true_random=False))
    def hold(what: list[tuple[str, int]], window: int, chance: random.Random) -> None:
        counted.append(runner.run(deliver(what, window, chance)))

    with asyncio.Runner() as runner:
        hold()
    figures(cases=len(counted), messages=sum(counted))
    assert sum(counted) > cases
