"""More keys than are kept in memory: whatever was kept, and wherever, is dropped when it changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from keyledger.events import Epoch, Event, KeyRevoked, RateLimit, WorkspaceDeleted
from keyledger.verification.lmdb_records import KEPT_RECORDS
from keyledger.verification.projection import KeyRecord, SecretRecord, WorkspaceRecord
from keyledger.verification.store import Store
from keyledger.wire import Followed
from tests.support.followed_log import WORKSPACE, FollowedLog, key_id
from tests.support.stores import Kept, tidied

LINE = bytes(8)
COUNT = KEPT_RECORDS + 1000
ALL = range(COUNT)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path / "store")
    store = made.store
    store.seed(Epoch(1, LINE), 1, bytes(32), None)
    with store.batch():
        store.put(WorkspaceRecord(WORKSPACE, "Acme", RateLimit(9, 60)), 1)
        for number in ALL:
            secret = SecretRecord({"p1": number.to_bytes(32)})
            store.put(KeyRecord(key_id(number), WORKSPACE, "live", "", ("*",), (secret,)), 1)
    yield made
    made.place.close()


def happens(store: Store, stream: str, event: Event) -> None:
    log = FollowedLog(1, LINE)
    log.append(stream, event)
    at = store.position + 1
    followed: Followed = msgspec.structs.replace(
        log.events[0], position=at, previous_hash=store.last_hash, hash=at.to_bytes(32)
    )
    store.apply(followed)


def revoked(store: Store, number: int) -> bool | None:
    record = store.get(key_id(number))
    return None if record is None else record.revoked


def test_what_changes_is_dropped_from_memory_however_long_ago_it_was_read(kept: Kept) -> None:
    store = kept.store
    for number in ALL:
        # the second time it is kept
        assert revoked(store, number) is revoked(store, number) is False
    long_ago, lately, now = 0, COUNT // 2, COUNT - 1
    for number in (long_ago, lately, now):
        happens(store, key_id(number), KeyRevoked())
        assert revoked(store, number) is revoked(store, number) is True
    assert [number for number in ALL if revoked(store, number)] == [long_ago, lately, now]
    happens(store, WORKSPACE, WorkspaceDeleted())
    assert {revoked(store, number) for number in ALL} == {None}
    assert tidied(store, 10_000) >= COUNT // 10_000
    assert {revoked(store, number) for number in ALL} == {None}


def test_what_is_asked_for_again_and_again_is_kept_and_most_of_the_rest_is_not(kept: Kept) -> None:
    store = kept.store
    once = [store.get(key_id(number)) for number in range(4000)]
    twice = [store.get(key_id(number)) for number in range(4000)]
    assert sum(first is second for first, second in zip(once, twice, strict=True)) < 500
    # some of them share a mark, and take turns
    for _ in range(100):
        for number in range(4000):
            store.get(key_id(number))
    before = [store.get(key_id(number)) for number in range(4000)]
    after = [store.get(key_id(number)) for number in range(4000)]
    assert all(first is second for first, second in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "asked", ["", "key_", "ws_1", "key_" + "ü" * 22, "key_" + "0" * 23, "x" * 600, "\x01state"]
)
def test_what_is_no_id_is_nobodys(kept: Kept, asked: str) -> None:
    assert kept.store.get(asked) is None
