"""Starting from a snapshot: the store ends as a fresh fold, or the whole log is read after all."""

from __future__ import annotations

import random

import msgspec
import pytest

from keyledger.events import (
    Event,
    KeyChanged,
    KeyImported,
    KeyRevoked,
    KeyText,
    NewSecret,
    Quota,
    RateLimit,
    SecretDigested,
    SecretRetired,
    WorkspaceChanged,
    WorkspaceDeleted,
    WorkspaceText,
)
from keyledger.verification.follower import Follower
from keyledger.verification.ports import FeedUnavailable, NotServed
from keyledger.verification.projection import SecretRecord
from keyledger.verification.snapshot import key_record, load, workspace_record
from keyledger.verification.state_digest import digest_of
from keyledger.verification.store import MemoryStore
from keyledger.verification.telling import read_telling
from keyledger.wire import (
    SNAPSHOT_MEANING,
    KeyBody,
    KeyState,
    LimitState,
    QuotaState,
    SecretState,
    SnapshotPage,
    WorkspaceBody,
    WorkspaceState,
)
from tests.support.followed_log import (
    START,
    WORKSPACE,
    FollowedLog,
    HandClock,
    key_created,
    key_id,
    key_rotated,
    workspace_created,
)
from tests.support.memory_snapshots import MemorySnapshots

OTHER = "ws_0000000000000000000002"
LATE = key_id(99)


def log_of(keys: int) -> FollowedLog:
    log = FollowedLog()
    log.append(WORKSPACE, workspace_created())
    for number in range(1, keys + 1):
        log.append(key_id(number), key_created(number))
    return log


async def finished(store: MemoryStore, log: FollowedLog) -> MemoryStore:
    await read_telling(store, log, HandClock())
    return store


async def whole(store: MemoryStore) -> object:
    with store.freeze() as frozen:
        return await digest_of(frozen)


def folded(log: FollowedLog) -> MemoryStore:
    store = MemoryStore()
    store.begin(log.epoch)
    for event in log.events:
        store.apply(event)
    return store


def anything(dice: random.Random, log: FollowedLog, keys: int) -> tuple[str, Event, str]:
    """Something that may happen next, and to which stream of which workspace."""
    number = dice.randrange(1, keys + 1)
    stream = key_id(number)
    known = {event.stream_id: event.workspace_id for event in log.events}
    if stream not in known:
        workspace = dice.choice([WORKSPACE, OTHER])
        secret = NewSecret("imported", {"p1": dice.randbytes(32)})
        if dice.random() < 0.3:
            return stream, KeyImported("live", ("*",), secret, private=KeyText("k")), workspace
        return stream, key_created(number, metadata={"n": str(number)}), workspace
    version = sum(event.stream_id == stream for event in log.events)
    choices: list[Event] = [
        KeyChanged(enabled=dice.random() < 0.5, rate_limit=RateLimit(number, 60)),
        KeyChanged(expires_at=START + dice.randrange(9)),
        KeyRevoked(),
        key_rotated(number, version + 1, START + dice.randrange(-9, 9)),
        SecretDigested(dice.randrange(1, version + 1), {f"p{log.position}": dice.randbytes(32)}),
        SecretRetired(dice.randrange(1, version + 1)),
    ]
    if dice.random() < 0.2:
        change = WorkspaceChanged(RateLimit(number, 60), private=WorkspaceText("new"))
        return WORKSPACE, dice.choice([change, WorkspaceChanged(suspended=dice.random() < 0.5)]), WORKSPACE
    return stream, dice.choice(choices), known[stream]


@pytest.mark.parametrize("seed", range(40))
async def test_a_snapshot_read_while_the_log_grows_and_the_feed_after_it_are_a_fresh_fold(seed: int) -> None:
    dice = random.Random(seed)
    log = log_of(6)
    log.append(OTHER, workspace_created(), workspace=OTHER)
    gone = dice.randrange(12)

    def grow(page: int) -> None:
        for _ in range(dice.randrange(8)):
            stream, event, workspace = anything(dice, log, 14)
            deleted = any(each.type == "workspace_deleted" for each in log.events)
            if workspace != OTHER or not deleted:
                log.append(stream, event, at=START + log.position, workspace=workspace)
        if page == gone:
            log.append(OTHER, WorkspaceDeleted(), workspace=OTHER)

    grow(-1)
    snapshots = MemorySnapshots(log, size=3)
    snapshots.before_page = grow
    store = MemoryStore()
    assert await load(store, snapshots, HandClock())
    assert len(snapshots.asked) > 2
    grow(-1)
    await finished(store, log)
    fresh = folded(log)
    assert await whole(store) == await whole(fresh)
    assert store.last_hash == log.hash
    for event in log.events:
        data = msgspec.json.decode(event.data)
        told = data if "digests" in data else data.get("secret", {})
        for digest in told.get("digests", {}).values() if isinstance(told, dict) else ():
            raw = msgspec.convert(digest, bytes)
            assert store.find(raw) == fresh.find(raw)


async def test_an_event_that_a_later_page_knew_is_passed_over_and_the_chain_goes_on() -> None:
    log = log_of(2)
    snapshots = MemorySnapshots(log, size=1)

    def rotate(page: int) -> None:
        if page == 1:
            log.append(key_id(2), key_rotated(2, 2, START))

    snapshots.before_page = rotate
    store = MemoryStore()
    assert await load(store, snapshots, HandClock())
    assert store.position == 3
    record = store.get(key_id(2))
    assert record is not None
    assert (record.version, len(record.secrets)) == (2, 2)
    assert (await finished(store, log)).get(key_id(2)) == record
    assert (store.position, store.last_hash) == (4, log.hash)


@pytest.mark.parametrize("changed", [{"meaning": SNAPSHOT_MEANING + 1}, {"whole": False}])
async def test_what_a_snapshot_cannot_tell_is_read_from_the_feed(changed: dict[str, object]) -> None:
    snapshots = MemorySnapshots(log_of(5))
    snapshots.changed = changed
    assert not await load(MemoryStore(), snapshots, HandClock())
    assert len(snapshots.asked) == 1


@pytest.mark.parametrize(
    "frame", [b"\xc1", b"\x91\x93\xa3key\x01\x02", msgspec.msgpack.encode([["zone", 1]])]
)
async def test_a_snapshot_that_cannot_be_read_is_not_believed(frame: bytes) -> None:
    snapshots = MemorySnapshots(log_of(5))
    snapshots.frames = [frame]
    assert not await load(MemoryStore(), snapshots, HandClock())


async def test_a_key_service_without_snapshots_is_read_from_the_feed() -> None:
    class Older(MemorySnapshots):
        async def snapshot(self, after: str, limit: int, since: int) -> tuple[SnapshotPage, list[memoryview]]:
            raise NotServed("no such address")

    assert not await load(MemoryStore(), Older(log_of(5)), HandClock())


async def test_another_line_or_a_page_that_does_not_come_ends_the_load() -> None:
    snapshots = MemorySnapshots(log_of(9))

    def other_line(page: int) -> None:
        if page == 2:
            snapshots.changed = {"epoch_line": bytes(8)}

    snapshots.before_page = other_line
    with pytest.raises(FeedUnavailable):
        await load(MemoryStore(), snapshots, HandClock())

    def away(page: int) -> None:
        snapshots.away = page > 10

    snapshots.changed, snapshots.before_page = {}, away
    with pytest.raises(FeedUnavailable):
        for _ in range(9):
            await load(MemoryStore(), snapshots, HandClock())


def follower(log: FollowedLog, snapshots: MemorySnapshots) -> tuple[Follower, MemoryStore]:
    store = MemoryStore()
    return Follower(store, log, None, HandClock(), name="v", snapshots=snapshots), store


async def test_an_empty_store_starts_a_long_log_from_the_snapshot_and_answers_only_when_it_has_it_all() -> (
    None
):
    log = log_of(40)
    snapshots = MemorySnapshots(log, size=10)
    following, store = follower(log, snapshots)

    def grow(page: int) -> None:
        assert store.get(key_id(1)) is None
        log.append(key_id(1), KeyChanged(scopes=(f"s{page}",)))

    snapshots.before_page = grow
    await following.repair()
    assert len(snapshots.asked) == 5
    # not the events that the snapshot stands for
    assert log.pages < 5
    assert await whole(store) == await whole(folded(log))
    assert (following.rebuilds, following.forks) == (0, 0)
    assert following.age() == 0
    log.append(LATE, key_created(99))
    await following.ask()
    await following.repair()
    assert store.get(LATE) is not None
    assert len(snapshots.asked) == 5


async def test_a_log_that_fits_a_page_needs_no_snapshot() -> None:
    log = log_of(3)
    snapshots = MemorySnapshots(log)
    following, store = follower(log, snapshots)
    await following.repair()
    assert snapshots.asked == []
    assert store.position == log.position


async def test_where_the_snapshot_does_not_tell_all_the_follower_reads_on_in_the_feed() -> None:
    log = log_of(40)
    snapshots = MemorySnapshots(log)
    snapshots.changed = {"whole": False}
    following, store = follower(log, snapshots)
    await following.repair()
    assert await whole(store) == await whole(folded(log))
    assert len(snapshots.asked) == 1


def test_a_state_becomes_the_record_of_its_events() -> None:
    body = KeyBody(
        "test",
        "name",
        ("a",),
        (
            SecretState({"p1": b"1"}, 50, 40, 1, True),
            SecretState({"p1": b"2"}, 30, 60, 2),
            SecretState({"p2": b"3"}, None, 70, 3),
            SecretState({"p2": b"4"}, version=5, on_first_use=True),
        ),
        enabled=False,
        revoked_at=9,
        expires_at=8,
        allowed_ips=("::1",),
        rate_limit=LimitState(3, 60, "open"),
        external_id="o",
        metadata={"a": "b"},
        quota=QuotaState(9, "month"),
    )
    record = key_record(KeyState("key_1", "ws_1", 7, 100, body))
    assert msgspec.structs.asdict(record) == {
        "key_id": "key_1",
        "workspace_id": "ws_1",
        "environment": "test",
        "name": "name",
        "scopes": ("a",),
        "secrets": (
            SecretRecord({"p2": b"4"}, None, 5, on_first_use=True),
            SecretRecord({"p2": b"3"}, 70, 3),
            SecretRecord({"p1": b"2"}, 30, 2),
            SecretRecord({"p1": b"1"}, 40, 1, foreign=True),
        ),
        "expires_at": 8,
        "allowed_ips": ("::1",),
        "rate_limit": RateLimit(3, 60, "open"),
        "external_id": "o",
        "metadata": {"a": "b"},
        "enabled": False,
        "revoked": True,
        "unreadable": False,
        "version": 7,
        "quota": Quota(9, "month"),
    }
    body = WorkspaceBody("n", LimitState(1, 2), suspended=True, quota=QuotaState(8, "day"))
    workspace = workspace_record(WorkspaceState("ws_1", "ws_1", 2, 9, body))
    assert (workspace.name, workspace.rate_limit, workspace.suspended, workspace.deleted) == (
        "n",
        RateLimit(1, 2),
        True,
        False,
    )
    assert workspace.quota == Quota(8, "day")
    assert workspace_record(WorkspaceState("ws_1", "ws_1", 0, 9, WorkspaceBody(deleted=True))).deleted
