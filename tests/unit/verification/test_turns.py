"""Whatever there is to do is done a little at a time, counted in events and rows: time is the machine's."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from keyledger.digest import Peppers
from keyledger.events import (
    Epoch,
    EpochAccepted,
    Event,
    KeyImported,
    KeyText,
    NewSecret,
    RateLimit,
    WorkspaceDeleted,
)
from keyledger.verification.board import GENERATION
from keyledger.verification.follower import Follower
from keyledger.verification.lmdb_walk import LOOKED_AT
from keyledger.verification.projection import Change, KeyRecord, SecretRecord, WorkspaceRecord
from keyledger.verification.snapshot import load
from keyledger.verification.store import MemoryStore, Store
from keyledger.verification.telling import read_telling
from keyledger.verification.turns import MOST, TURN, Turn
from keyledger.wire import Followed, Page
from tests.support.followed_log import (
    WORKSPACE,
    FollowedLog,
    HandClock,
    key_created,
    key_id,
    workspace_created,
)
from tests.support.memory_bus import MemoryBus
from tests.support.memory_snapshots import MemorySnapshots, state_of
from tests.support.stores import Kept, digest, folded, swap, tidied

OTHER = "ws_0000000000000000000002"
LINE = bytes(8)
KEYS = 300
HELD = Peppers({"p9": bytes(32)}, active="p9")


class Counted(MemoryStore):
    """Notes how many events or records each batch has."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    @contextmanager
    def batch(self) -> Generator[None]:
        self.batches.append(0)
        yield

    def apply(self, event: Followed) -> Change:
        self.batches[-1] += 1
        return super().apply(event)

    def put(self, record: KeyRecord | WorkspaceRecord, position: int) -> None:
        self.batches[-1] += 1
        super().put(record, position)

    def beside(self) -> Counted:
        return Counted()


class WholePages(FollowedLog):
    """Pages as long as they were asked for."""

    async def page(self, after: int, limit: int) -> tuple[Page, list[memoryview]]:
        chosen = self.events[after : after + limit]
        last = chosen[-1].position if chosen else after
        page = Page(self.epoch.number, self.epoch.line, self.position, self.hash, last)
        return page, [memoryview(msgspec.msgpack.encode(event)) for event in chosen]


@pytest.fixture
def log() -> WholePages:
    log = WholePages(1, LINE)
    log.append(WORKSPACE, workspace_created())
    for number in range(KEYS):
        log.append(key_id(number), key_created(number))
    return log


def test_a_turn_is_over_by_number_or_by_time() -> None:
    clock = HandClock()
    turn = Turn(clock.steady, most=3)
    assert [turn.over() for _ in range(3)] == [False, False, True]
    turn = Turn(clock.steady, most=3)
    assert not turn.over()
    clock.advance(TURN)
    assert turn.over()


async def turns_of_others(until: asyncio.Task[object]) -> int:
    """How often something else had its turn until the task was done."""
    turns = 0
    while not until.done():
        await asyncio.sleep(0)
        turns += 1
    until.result()
    return turns


async def test_events_from_the_feed_are_applied_a_few_together(log: WholePages) -> None:
    store = Counted()
    follower = Follower(store, log, None, HandClock(), name="verifier-test")
    turns = await turns_of_others(asyncio.create_task(follower.repair()))
    assert store.position == log.position
    assert max(store.batches) <= MOST
    assert turns >= len(store.batches) >= KEYS // MOST


async def test_a_telling_is_read_a_few_events_together(log: WholePages) -> None:
    store = Counted()
    reading = asyncio.create_task(read_telling(store, log, HandClock()))
    assert await turns_of_others(reading) >= len(store.batches) >= KEYS // MOST
    assert max(store.batches) <= MOST


async def test_a_snapshot_is_taken_in_a_few_records_together(log: WholePages) -> None:
    store, snapshots, told = Counted(), MemorySnapshots(log, size=10_000), MemoryStore()
    folded(log, told)
    states = [state_of(told, event.stream_id, event.position) for event in log.events]
    snapshots.frames = [msgspec.msgpack.encode(states)]
    loading = asyncio.create_task(load(store, snapshots, HandClock()))
    assert await turns_of_others(loading) >= len(store.batches) >= KEYS // MOST
    assert sum(store.batches) == KEYS + 1
    assert max(store.batches) <= MOST


async def test_what_came_before_its_turn_is_applied_a_few_together(log: WholePages) -> None:
    store, bus = Counted(), MemoryBus()
    follower = Follower(store, log, bus, HandClock(), name="verifier-test")
    everything, log.events = log.events, log.events[:1]
    await follower.start()
    while store.position < 1:
        await asyncio.sleep(0)
    log.events, store.batches = everything, []
    try:
        for event in everything[2:]:
            await log.publish(bus, event)
        await log.publish(bus, everything[1])
        for _ in range(100):
            await asyncio.sleep(0)
        assert store.position == log.position
    finally:
        await follower.stop()
    assert max(store.batches) <= MOST


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    """Keys of two workspaces, by turns, every tenth of them imported."""
    made = Kept(tmp_path / "store")
    store = made.store
    store.seed(Epoch(1, LINE), 1, bytes(32), None)
    with store.batch():
        for workspace in (WORKSPACE, OTHER):
            store.put(WorkspaceRecord(workspace, "Acme", RateLimit(9, 60)), 1)
        for number in range(2 * KEYS):
            secret = SecretRecord({"p1": token_digest(number)}, foreign=number % 10 < 2)
            home = OTHER if number % 2 else WORKSPACE
            store.put(KeyRecord(key_id(number), home, "live", "", ("*",), (secret,)), 1)
    yield made
    made.place.close()


def token_digest(number: int) -> bytes:
    return number.to_bytes(32)


def followed(kept: Kept, stream: str, event: Event, workspace: str = WORKSPACE) -> Followed:
    """The next event of the store's log."""
    log = FollowedLog(1, LINE)
    log.append(stream, event, workspace=workspace)
    store = kept.store
    return msgspec.structs.replace(
        log.events[0], position=store.position + 1, previous_hash=store.last_hash, hash=bytes(31) + b"\1"
    )


def known(store: Store) -> tuple[list[int], list[int]]:
    """Which keys are found by their ids, and which by their imported tokens."""
    by_id = [number for number in range(2 * KEYS) if store.get(key_id(number)) is not None]
    by_token = [number for number in range(2 * KEYS) if store.find(token_digest(number)) is not None]
    return by_id, by_token


OF_OTHER = ([n for n in range(2 * KEYS) if n % 2], [n for n in range(2 * KEYS) if n % 10 == 1])


def test_a_deleted_workspace_is_refused_at_once_and_its_rows_go_bit_by_bit(kept: Kept) -> None:
    store, board = kept.store, kept.place.board
    before = board.counters[GENERATION]
    store.apply(followed(kept, WORKSPACE, WorkspaceDeleted()))
    # the workspace's own record, and nothing of its keys
    assert board.counters[GENERATION] - before == 1
    assert store.untidy
    position, then = store.position, digest(store)
    assert then.records == KEYS + 2
    removed: list[int] = []
    while store.untidy:
        assert known(store) == OF_OTHER
        assert (store.position, digest(store)) == (position, then)
        before = board.counters[GENERATION]
        store.tidy(40)
        removed.append(board.counters[GENERATION] - before)
    assert max(removed) == 40
    assert sum(removed[:-1]) <= KEYS <= sum(removed)
    assert known(store) == OF_OTHER
    assert (store.position, digest(store)) == (position, then)
    assert not store.unfindable(Peppers({"p1": bytes(32)}, active="p1"))
    assert store.unfindable(HELD)


def test_what_was_begun_is_ended_after_a_restart(kept: Kept) -> None:
    kept.store.apply(followed(kept, WORKSPACE, WorkspaceDeleted()))
    kept.store.tidy(40)
    store = kept.again()
    assert store.untidy
    assert known(store) == OF_OTHER
    # another one meanwhile: its keys are looked for once more from the beginning
    store.tidy(40)
    store.apply(followed(kept, OTHER, WorkspaceDeleted(), OTHER))
    assert known(store) == ([], [])
    assert tidied(store, 40) >= 2 * KEYS // 40 - 2
    assert known(store) == ([], [])
    assert not store.unfindable(HELD)
    assert not kept.again().untidy


def test_what_could_not_be_kept_is_removed_again(kept: Kept) -> None:
    store = kept.store
    store.apply(followed(kept, WORKSPACE, WorkspaceDeleted()))
    with pytest.raises(ZeroDivisionError), store.batch():
        store.tidy(40)
        _ = 1 // 0
    before = kept.place.board.counters[GENERATION]
    tidied(store, 40)
    # every one of its keys, and once for the end
    assert kept.place.board.counters[GENERATION] - before in (KEYS, KEYS + 1)
    assert not store.unfindable(Peppers({"p1": bytes(32)}, active="p1"))
    assert known(store) == OF_OTHER


def test_a_token_that_was_imported_again_elsewhere_stays(kept: Kept) -> None:
    store = kept.store
    store.apply(followed(kept, WORKSPACE, WorkspaceDeleted()))
    again = KeyImported("live", ("*",), NewSecret("…", {"p1": token_digest(0)}), private=KeyText("again"))
    store.apply(followed(kept, key_id(9999), again, OTHER))
    assert store.find(token_digest(0)) == key_id(9999)
    tidied(store, 7)
    assert store.find(token_digest(0)) == key_id(9999)
    assert store.find(token_digest(10)) is None


def test_what_a_snapshot_told_is_forgotten_bit_by_bit(kept: Kept) -> None:
    beside = kept.store.beside()
    beside.seed(Epoch(1, LINE), 1, bytes(32), None)
    with beside.batch():
        for number in range(50):
            beside.put(KeyRecord(key_id(number), WORKSPACE, "live", "", ("*",), ()), 2)
    swap(kept.store, beside)
    store = kept.store
    store.apply(followed(kept, "epochs", EpochAccepted(1)))
    assert store.untidy
    assert tidied(store, 20) == 3
    assert not kept.again().untidy


def test_another_telling_is_compared_bit_by_bit_and_taken_at_once(kept: Kept, log: WholePages) -> None:
    store = kept.store
    with store.batch():
        for number in range(2 * KEYS, 2 * LOOKED_AT):
            store.put(KeyRecord(key_id(number), OTHER, "live", "", ("*",), (), revoked=True), 1)
    told = folded(log.restored(log.position), store.beside())
    steps = 0
    for _ in store.become(told):
        steps += 1
        assert (store.position, store.epoch) == (1, Epoch(1, LINE))
    assert steps >= 3
    assert store.position == log.position
