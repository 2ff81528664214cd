"""The digest of a projection, and the fold that stands still while the store goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from keyledger.events import KeyChanged, KeyRevoked, WorkspaceDeleted
from keyledger.verification.frozen import BUCKETS, bucket_of
from keyledger.verification.state_digest import (
    BucketDigests,
    StateDigest,
    bucket_digests,
    digest_of,
    first_difference,
)
from keyledger.verification.store import Busy, MemoryStore
from tests.support.followed_log import WORKSPACE, FollowedLog, key_created, key_id, workspace_created
from tests.support.stores import swap

KEYS = 600


def a_log(keys: int = KEYS) -> FollowedLog:
    log = FollowedLog()
    log.append(WORKSPACE, workspace_created())
    for number in range(keys):
        log.append(key_id(number), key_created(number))
    return log


def a_store(log: FollowedLog, *, until: int | None = None) -> MemoryStore:
    store = MemoryStore()
    store.begin(log.epoch)
    for event in log.events[:until]:
        store.apply(event)
    return store


async def whole(store: MemoryStore) -> StateDigest:
    with store.freeze() as frozen:
        return await digest_of(frozen)


async def one(store: MemoryStore, bucket: int) -> BucketDigests:
    with store.freeze() as frozen:
        return await bucket_digests(frozen, bucket)


async def test_two_folds_of_one_log_have_one_digest() -> None:
    log = a_log()
    first, second = await whole(a_store(log)), await whole(a_store(log))
    assert first == second
    assert (first.records, first.position, first.epoch) == (KEYS + 1, KEYS + 1, log.epoch.text)
    assert len(first.buckets) == BUCKETS


async def test_the_order_in_which_keys_came_is_of_no_matter() -> None:
    digests: list[StateDigest] = []
    for order in (range(20), reversed(range(20))):
        log = FollowedLog()
        for number in order:
            log.append(key_id(number), key_created(number))
        digests.append(await whole(a_store(log)))
    assert digests[0].digest == digests[1].digest


async def test_any_field_of_any_record_shows() -> None:
    log = a_log(20)
    seen = {(await whole(a_store(log))).digest}
    for event in (
        KeyChanged(enabled=False),
        KeyChanged(expires_at=5),
        KeyRevoked(),
        key_created(3),
    ):
        log.append(key_id(3), event)
        seen.add((await whole(a_store(log))).digest)
    assert len(seen) == 5


async def test_the_first_record_that_differs_is_found_by_its_bucket() -> None:
    log, wrong = a_log(), key_id(123)
    store, other = a_store(log), a_store(log)
    forged = msgspec.structs.replace(log.events[-1], position=KEYS + 2, previous_hash=log.hash)
    change = FollowedLog()
    change.append(wrong, KeyChanged(enabled=False))
    other.apply(msgspec.structs.replace(change.events[0], position=forged.position, previous_hash=log.hash))
    ours, theirs = await whole(store), await whole(other)
    differing = [at for at in range(BUCKETS) if ours.buckets[at] != theirs.buckets[at]]
    assert differing == [bucket_of(wrong)]
    bucket = differing[0]
    assert first_difference(await one(store, bucket), await one(other, bucket)) == wrong
    assert first_difference(await one(store, bucket), await one(store, bucket)) is None


async def test_what_is_frozen_stands_still_while_everything_changes() -> None:
    log = a_log(50)
    store = a_store(log)
    before = await whole(store)
    with store.freeze() as frozen:
        changes: list[tuple[str, Any]] = [
            (key_id(1), KeyChanged(enabled=False)),
            (key_id(1), KeyRevoked()),
            (key_id(900), key_created(900)),
            (key_id(900), KeyRevoked()),
            (WORKSPACE, WorkspaceDeleted()),
        ]
        for stream, event in changes:
            store.apply(log.append(stream, event))
        assert await digest_of(frozen) == before
    assert (await whole(store)).position == before.position + 5
    assert (await whole(store)).digest != before.digest
    assert await whole(store) == await whole(a_store(log))


async def test_a_swap_to_another_telling_leaves_what_is_frozen_alone() -> None:
    log = a_log(50)
    store = a_store(log)
    before = await whole(store)
    restored = log.restored(30)
    with store.freeze() as frozen:
        swap(store, a_store(restored))
        store.apply(restored.append(key_id(1), KeyRevoked()))
        assert await digest_of(frozen) == before
    assert await whole(store) == await whole(a_store(restored))


async def test_one_reads_at_a_time_and_the_next_one_may() -> None:
    store = a_store(a_log(5))
    with store.freeze(), pytest.raises(Busy), store.freeze():
        pass
    with store.freeze():
        pass


async def test_other_work_gets_its_turn_all_the_while() -> None:
    store = a_store(a_log(2000))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await whole(store)
    counting.cancel()
    assert turns >= BUCKETS
