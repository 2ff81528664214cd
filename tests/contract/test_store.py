"""One suite for every `Store`: what of the log it keeps, what it finds, and what it becomes."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyledger.digest import Peppers
from keyledger.events import (
    GENESIS,
    Epoch,
    EpochAccepted,
    EpochStarted,
    KeyChanged,
    KeyImported,
    KeyRevoked,
    KeyText,
    LostDenial,
    NewSecret,
    Quota,
    RateLimit,
    SecretDigested,
    WorkspaceChanged,
    WorkspaceDeleted,
)
from keyledger.verification.frozen import bucket_of
from keyledger.verification.projection import KeyRecord, SecretRecord, WorkspaceRecord
from keyledger.verification.store import KEPT_HASHES, Busy, Fit, MemoryStore, Store
from tests.support.followed_log import (
    WORKSPACE,
    FollowedLog,
    key_created,
    key_id,
    key_rotated,
    workspace_created,
)
from tests.support.stores import Kept, digest, folded, swap, tidied

OTHER = "ws_0000000000000000000002"
DIGEST = bytes(range(32))


@pytest.fixture(params=["memory", "lmdb"])
def new(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Makes empty stores."""
    if request.param == "memory":
        yield MemoryStore
        return
    made: list[Kept] = []

    def make() -> Store:
        made.append(Kept(tmp_path / str(len(made))))
        return made[-1].store

    yield make
    for each in made:
        each.place.close()


@pytest.fixture
def log() -> FollowedLog:
    """A workspace with three keys."""
    log = FollowedLog()
    log.append(WORKSPACE, workspace_created())
    for number in (1, 2, 3):
        log.append(key_id(number), key_created(number, metadata={"team": "payments"}))
    return log


def imported(digests: dict[str, bytes]) -> KeyImported:
    """A key of another system."""
    return KeyImported("live", ("*",), NewSecret("…0000", digests), private=KeyText("imported"))


def test_an_empty_store_knows_nothing(new: Callable[[], Store]) -> None:
    store = new()
    assert (store.position, store.epoch, store.last_hash) == (0, None, GENESIS)
    assert store.get(key_id(1)) is store.workspace(WORKSPACE) is store.find(DIGEST) is None
    assert (store.hash_at(0), store.hash_at(1)) == (GENESIS, None)


def test_whatever_a_record_holds_comes_back(new: Callable[[], Store]) -> None:
    record = KeyRecord(
        key_id(7), WORKSPACE, "test", "Ünïcode ✓", ("a:b", "c"),
        (
            SecretRecord({"p1": DIGEST, "p2": bytes(32)}, None, 9, on_first_use=True),
            SecretRecord({"p1": bytes(32)}, 2**52, 3, foreign=True),
            SecretRecord({}, -5),
        ),
        2**60, ("10.0.0.0/8", "::1"), RateLimit(2**40, 86_400, "closed"), "external ✓", {"a": "b", "ü": ""},
        False, True, True, 2**33, Quota(2**40, "month"),
    )  # fmt: skip
    bare = KeyRecord(key_id(8), WORKSPACE, "live", "", (), ())
    plain = [
        KeyRecord(
            key_id(9 + at), WORKSPACE, "live", "x", ("a",), (SecretRecord({"p1": DIGEST}),), quota=quota
        )
        for at, quota in enumerate((Quota(7, "day"), None) * 3)
    ]
    quota = Quota(9, "day")
    limited = WorkspaceRecord(WORKSPACE, "Acme", RateLimit(1, 60, "open"), True, True, quota=quota)
    gone = WorkspaceRecord(OTHER, "", RateLimit(1, 1), deleted=True)
    store = new()
    store.seed(Epoch(1, bytes(8)), 5, DIGEST, None)
    for each in (record, bare, *plain, limited, gone):
        store.put(each, 5)
    assert [store.get(key_id(7)), store.get(key_id(8))] == [record, bare]
    assert [store.get(each.key_id) for each in plain] == plain
    assert [store.workspace(WORKSPACE), store.workspace(OTHER)] == [limited, gone]
    # again, from wherever a second look is answered
    assert store.get(key_id(7)) == record


def test_many_records_that_share_their_words(new: Callable[[], Store]) -> None:
    store = new()
    store.seed(Epoch(1, bytes(8)), 5, DIGEST, None)
    records = [
        KeyRecord(
            key_id(number), WORKSPACE, "live", f"key {number}", ("a:b",) if number % 2 else ("c",),
            (SecretRecord({"p1": number.to_bytes(32)}),), metadata={"team": str(number % 3)},
        )
        for number in range(1000)
    ]  # fmt: skip
    with store.batch():
        for record in records[::-1]:
            store.put(record, 5)
    assert [store.get(record.key_id) for record in records] == records


def test_events_fit_or_do_not(new: Callable[[], Store], log: FollowedLog) -> None:
    store = folded(log, new())
    next_one = log.append(key_id(1), KeyRevoked())
    after = log.append(key_id(2), KeyRevoked())
    other = FollowedLog(1, bytes(8))
    for event in log.events[:5]:
        other.append_raw(event.stream_id, event.type, event.schema_version, event.data, at=event.at)
    assert store.fit(next_one) is Fit.NEXT
    assert store.fit(after) is Fit.GAP
    assert store.fit(log.events[2]) is Fit.KNOWN
    assert store.fit(other.events[2]) is store.fit(other.events[4]) is Fit.FORK
    with pytest.raises(ValueError, match="does not follow"):
        store.apply(after)
    store.apply(next_one)
    assert (store.position, store.last_hash) == (5, next_one.hash)
    store.apply(log.events[2])
    assert store.position == 5


def test_the_last_hashes_are_kept(new: Callable[[], Store]) -> None:
    log = FollowedLog()
    log.append(WORKSPACE, workspace_created())
    store = folded(log, new())
    before = log.events[-1]
    with store.batch():
        for number in range(KEPT_HASHES + 10):
            before = before.__class__(
                before.position + 1,
                before.hash,
                number.to_bytes(32),
                WORKSPACE,
                2,
                "none",
                1,
                WORKSPACE,
                0,
                b"",
            )
            store.apply(before)
    oldest = store.position - KEPT_HASHES
    assert store.hash_at(store.position) == before.hash
    assert store.hash_at(oldest) == (oldest - 2).to_bytes(32)
    assert store.hash_at(oldest - 1) is None


def test_a_batch_is_seen_when_it_ends(new: Callable[[], Store], log: FollowedLog) -> None:
    store = new()
    with store.batch():
        store.begin(log.epoch)
        for event in log.events:
            store.apply(event)
        store.apply(log.append(key_id(2), KeyChanged(scopes=("a:b",))))
    record = store.get(key_id(2))
    assert record is not None
    assert (record.scopes, store.position, store.epoch) == (("a:b",), 5, log.epoch)


def test_a_store_with_events_has_its_epoch(new: Callable[[], Store], log: FollowedLog) -> None:
    store = folded(log, new())
    with pytest.raises(ValueError, match="not empty"):
        store.begin(log.epoch)
    store.renumber(Epoch(9, log.epoch.line))
    assert store.epoch == Epoch(9, log.epoch.line)


def test_imported_tokens_are_found_and_lost_with_their_workspace(new: Callable[[], Store]) -> None:
    log = FollowedLog()
    log.append(WORKSPACE, workspace_created())
    log.append(key_id(1), imported({"p1": DIGEST}))
    store = folded(log, new())
    held, lost = Peppers({"p1": bytes(32)}, active="p1"), Peppers({"p9": bytes(32)}, active="p9")
    assert store.find(DIGEST) == key_id(1)
    assert not store.unfindable(held)
    assert store.unfindable(lost)
    store.apply(log.append(key_id(1), SecretDigested(1, {"p9": bytes(32)})))
    assert store.find(bytes(32)) == store.find(DIGEST) == key_id(1)
    assert not store.unfindable(lost)
    store.apply(log.append(key_id(2), imported({"p3": bytes(31) + b"\1"})))
    assert store.unfindable(held)
    store.apply(log.append(WORKSPACE, WorkspaceDeleted()))
    assert store.find(DIGEST) is store.find(bytes(32)) is store.get(key_id(1)) is None
    tidied(store)
    assert not store.unfindable(lost)
    workspace = store.workspace(WORKSPACE)
    assert workspace is not None
    assert workspace.deleted


def test_a_deleted_workspace_takes_only_its_own_keys(new: Callable[[], Store], log: FollowedLog) -> None:
    log.append(OTHER, workspace_created(), workspace=OTHER)
    log.append(key_id(9), key_created(9), workspace=OTHER)
    store = folded(log, new())
    with store.batch():
        # one that is in no file yet
        store.apply(log.append(key_id(4), key_created(4)))
        store.apply(log.append(WORKSPACE, WorkspaceDeleted()))
    assert [store.get(key_id(number)) for number in (1, 2, 3, 4)] == [None] * 4
    assert store.get(key_id(9)) is not None


def test_a_record_of_a_snapshot_passes_over_what_it_knows(new: Callable[[], Store], log: FollowedLog) -> None:
    known = log.append(key_id(1), KeyChanged(scopes=("known",)))
    later = log.append(key_id(1), KeyChanged(scopes=("later",)))
    new_to_it = log.append(key_id(2), KeyChanged(scopes=("new",)))
    store, told = new(), folded(log)
    store.seed(log.epoch, 4, log.events[3].hash, None)
    record = told.get(key_id(1))
    assert record is not None
    before = folded(_until(log, 4)).get(key_id(2))
    assert before is not None
    store.put(record, 6)
    store.put(before, 4)
    store.put(WorkspaceRecord(WORKSPACE, "Acme", RateLimit(1000, 60)), 4)
    for event in (known, later, new_to_it):
        store.apply(event)
        assert store.get(key_id(1)) == record
    after = store.get(key_id(2))
    assert after is not None
    assert after.scopes == ("new",)
    store.apply(log.append(key_id(1), KeyRevoked()))
    revoked = store.get(key_id(1))
    assert revoked is not None
    assert revoked.revoked


def _until(log: FollowedLog, position: int) -> FollowedLog:
    short = FollowedLog(log.epoch.number, log.epoch.line)
    short.events = log.events[:position]
    return short


def test_what_was_lost_lies_over_the_records_until_it_is_accepted(
    new: Callable[[], Store], log: FollowedLog
) -> None:
    store = folded(log, new())
    store.apply(
        log.append("epoch", EpochStarted(2, bytes(8), 4, lost=(LostDenial(WORKSPACE, "revoked", key_id(1)),)))
    )
    store.apply(log.append(key_id(1), KeyChanged(scopes=("a:b",))))
    record = store.get(key_id(1))
    assert record is not None
    assert (record.revoked, record.scopes) == (True, ("a:b",))
    assert digest(store) == digest(folded(log))
    store.apply(log.append("epoch", EpochAccepted(2)))
    record = store.get(key_id(1))
    assert record is not None
    assert not record.revoked


def test_another_telling_goes_on_refusing_what_was_refused(
    new: Callable[[], Store], log: FollowedLog
) -> None:
    restored = log.restored(4)
    log.append(key_id(1), KeyRevoked())
    log.append(key_id(2), key_rotated(2, 2, until=5))
    log.append(WORKSPACE, WorkspaceChanged(suspended=True))
    store = folded(log, new())
    assert store.get(key_id(1)) is not None
    beside = folded(restored, store.beside())
    swap(store, beside)
    record, workspace = store.get(key_id(1)), store.workspace(WORKSPACE)
    assert record is not None
    assert workspace is not None
    assert (store.epoch, store.position, record.revoked, workspace.suspended) == (
        restored.epoch,
        4,
        True,
        True,
    )
    assert store.hash_at(3) == restored.events[2].hash
    # and on, over the same log told once more
    rotated = store.get(key_id(2))
    assert rotated is not None
    assert [secret.valid_until for secret in rotated.secrets] == [5]
    again = folded(restored, store.beside())
    swap(store, again)
    assert (store.get(key_id(1)), store.get(key_id(2))) == (record, rotated)
    store.apply(restored.append("epoch", EpochAccepted(2)))
    record = store.get(key_id(1))
    assert record is not None
    assert not record.revoked
    with pytest.raises(TypeError):
        swap(store, _Another())  # type: ignore[arg-type]


def test_a_log_that_is_empty_now_takes_everything_away(new: Callable[[], Store], log: FollowedLog) -> None:
    store = folded(log, new())
    beside = store.beside()
    assert beside.get(key_id(1)) is beside.workspace(WORKSPACE) is None
    swap(store, beside)
    assert (store.position, store.epoch, store.get(key_id(1))) == (0, None, None)


class _Another:
    """No store of any kind."""


def test_what_is_frozen_stands_still(new: Callable[[], Store], log: FollowedLog) -> None:
    store = folded(log, new())
    then = digest(store)
    assert then == digest(folded(log))
    with store.freeze() as frozen:
        with pytest.raises(Busy), store.freeze():
            pass
        store.apply(log.append(key_id(1), KeyRevoked()))
        store.apply(log.append(key_id(8), key_created(8)))
        bucket = frozen.bucket(bucket_of(key_id(1)))
        kept = dict(bucket)[key_id(1)]
        assert isinstance(kept, KeyRecord)
        assert (frozen.position, frozen.epoch, kept.revoked) == (4, log.epoch, False)
        assert [each for found in frozen.slices() for _, each, _ in found if each == key_id(8)] == []
    assert digest(store) == digest(folded(log)) != then


async def test_what_is_frozen_outlives_a_swap(new: Callable[[], Store], log: FollowedLog) -> None:
    store = folded(log, new())
    then = await asyncio.to_thread(digest, folded(log))
    with store.freeze() as frozen:
        swap(store, folded(log.restored(2), store.beside()))
        assert sum(len(found) for found in frozen.slices()) == then.records
    assert store.position == 2
