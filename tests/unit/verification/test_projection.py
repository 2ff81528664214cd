"""What the events of the log make of a key and of a workspace."""

from __future__ import annotations

from typing import Any

import pytest

from keyledger.clock import SECOND
from keyledger.digest import Peppers, foreign
from keyledger.events import (
    KeyChanged,
    KeyCreated,
    KeyImported,
    KeyRevoked,
    KeyText,
    KeyTextChange,
    MemberAdded,
    MemberChanged,
    MemberRemoved,
    NewSecret,
    PepperActivated,
    PepperRetired,
    RateLimit,
    SecretDigested,
    SecretRetired,
    WorkspaceChanged,
    WorkspaceDeleted,
    WorkspaceText,
)
from keyledger.verification.projection import KEPT_SECRETS, KeyRecord
from keyledger.verification.store import MemoryStore
from tests.support.followed_log import (
    PEPPERS,
    START,
    WORKSPACE,
    FollowedLog,
    key_created,
    key_id,
    key_rotated,
    token,
    workspace_created,
)
from tests.support.stores import swap

KEY = key_id(1)


def folded(log: FollowedLog) -> MemoryStore:
    store = MemoryStore()
    for event in log.events:
        store.apply(event)
    return store


def log_of(*events: Any) -> FollowedLog:
    log = FollowedLog()
    log.append(WORKSPACE, workspace_created())
    for event in events:
        log.append(KEY, event)
    return log


def record_of(log: FollowedLog) -> KeyRecord:
    record = folded(log).get(KEY)
    assert record is not None
    return record


def test_a_created_key_has_what_its_event_says() -> None:
    created = key_created(1, scopes=("read",), name="web", allowed_ips=("10.0.0.0/8",), metadata={"a": "b"})
    record = record_of(log_of(created))
    assert (record.name, record.scopes, record.allowed_ips) == ("web", ("read",), ("10.0.0.0/8",))
    assert (record.metadata, record.workspace_id, record.version) == ({"a": "b"}, WORKSPACE, 1)
    assert record.enabled
    assert not record.revoked


def test_a_change_leaves_what_it_does_not_name() -> None:
    created = key_created(1, scopes=("read",), expires_at=START + SECOND, name="web")
    record = record_of(log_of(created, KeyChanged(enabled=False, private=KeyTextChange(external_id="u1"))))
    assert (record.enabled, record.external_id) == (False, "u1")
    assert (record.scopes, record.expires_at, record.name) == (("read",), START + SECOND, "web")


def test_a_change_to_null_clears() -> None:
    created = key_created(1, expires_at=START, allowed_ips=("10.0.0.1",), rate_limit=RateLimit(5, 60))
    change = KeyChanged(expires_at=None, rate_limit=None, private=KeyTextChange(allowed_ips=None))
    record = record_of(log_of(created, change))
    assert (record.expires_at, record.rate_limit, record.allowed_ips) == (None, None, None)


def test_rotating_ends_the_newest_secret_at_its_time_and_an_older_one_now() -> None:
    log = log_of(key_created(1), key_rotated(1, 2, START + 100))
    log.append(KEY, key_rotated(1, 3, START + 200), at=START + 50)
    secrets = record_of(log).secrets
    assert [secret.valid_until for secret in secrets] == [None, START + 200, START + 50]
    assert secrets[0].digests["p1"] == PEPPERS.digest(token(1, 3))


def test_rotating_never_prolongs_a_secret_that_ended() -> None:
    log = log_of(key_created(1), key_rotated(1, 2, START))
    log.append(KEY, key_rotated(1, 3, START + 900), at=START + 500)
    assert [secret.valid_until for secret in record_of(log).secrets] == [None, START + 900, START]


def test_retired_secrets_are_kept_up_to_a_bound() -> None:
    rotations = [key_rotated(1, secret, START) for secret in range(2, KEPT_SECRETS + 20)]
    assert len(record_of(log_of(key_created(1), *rotations)).secrets) == KEPT_SECRETS


def test_revoked_is_for_ever() -> None:
    assert record_of(log_of(key_created(1), KeyRevoked(), KeyChanged(enabled=True))).revoked


@pytest.mark.parametrize(
    ("tag", "version", "data"),
    [
        ("key_frozen", 1, b"{}"),
        ("key_changed", 99, b"{}"),
        ("key_changed", 1, b"{"),
        ("key_changed", 1, b'{"enabled":"\xff"}'),
        ("key_changed", 1, b'{"enabled":"maybe"}'),
    ],
)
def test_an_unreadable_event_costs_its_key_and_no_other(tag: str, version: int, data: bytes) -> None:
    log = log_of(key_created(1))
    log.append(key_id(2), key_created(2))
    log.append_raw(KEY, tag, version, data)
    store = folded(log)
    first, second = store.get(KEY), store.get(key_id(2))
    assert first is not None
    assert first.unreadable
    assert second is not None
    assert not second.unreadable
    assert store.position == log.position


def test_an_unreadable_event_of_a_workspace_closes_the_workspace() -> None:
    log = log_of(key_created(1))
    log.append_raw(WORKSPACE, "workspace_frozen", 1, b"{}")
    workspace = folded(log).workspace(WORKSPACE)
    assert workspace is not None
    assert workspace.unreadable


@pytest.mark.parametrize("sealed", [b"ciphertext", None])
def test_a_key_whose_text_is_sealed_or_destroyed_is_unreadable(sealed: bytes | None) -> None:
    open_ = key_created(1)
    assert record_of(
        log_of(KeyCreated(open_.environment, open_.scopes, open_.secret, private=sealed))
    ).unreadable


def test_a_change_whose_text_is_sealed_closes_the_key() -> None:
    assert record_of(log_of(key_created(1), KeyChanged(private=b"ciphertext"))).unreadable


def test_an_event_of_a_key_that_was_never_created_changes_nothing() -> None:
    assert folded(log_of(KeyChanged(enabled=True))).get(KEY) is None


def test_a_workspace_changes() -> None:
    log = log_of()
    log.append(WORKSPACE, WorkspaceChanged(RateLimit(7, 60), True, WorkspaceText("New")))
    workspace = folded(log).workspace(WORKSPACE)
    assert workspace is not None
    assert (workspace.rate_limit.limit, workspace.suspended, workspace.name) == (7, True, "New")


def test_a_deleted_workspace_takes_its_keys_with_it_and_stays_deleted() -> None:
    other = "ws_0000000000000000000002"
    log = log_of(key_created(1))
    log.append(other, workspace_created(), workspace=other)
    log.append(key_id(2), key_created(2), workspace=other)
    log.append(WORKSPACE, WorkspaceDeleted())
    log.append(key_id(3), key_created(3))
    log.append(KEY, KeyChanged(enabled=True))
    log.append(WORKSPACE, workspace_created())
    store = folded(log)
    assert [store.get(key_id(number)) is None for number in (1, 2, 3)] == [True, False, True]
    workspace, kept = store.workspace(WORKSPACE), store.workspace(other)
    assert workspace is not None
    assert kept is not None
    assert (workspace.deleted, workspace.name, kept.deleted) == (True, "", False)
    assert store.position == log.position


def test_a_deleted_workspace_stays_refused_when_the_log_is_told_anew() -> None:
    log = log_of(key_created(1))
    told_anew = folded(log.restored(log.position))
    log.append(WORKSPACE, WorkspaceDeleted())
    store = folded(log)
    assert told_anew.get(KEY) is not None
    swap(store, told_anew)
    workspace = store.workspace(WORKSPACE)
    assert workspace is not None
    assert workspace.unreadable


def test_records_show_neither_text_nor_digests() -> None:
    record = record_of(log_of(key_created(1, name="payroll", metadata={"owner": "eve"})))
    shown = repr(record) + repr(record.secrets)
    assert "payroll" not in shown
    assert "eve" not in shown
    assert repr(PEPPERS.digest(token(1))) not in shown


def test_a_position_already_applied_is_ignored() -> None:
    log = log_of(key_created(1))
    store = folded(log)
    for event in log.events:
        store.apply(event)
    assert store.position == 2


def test_a_position_that_does_not_follow_is_refused() -> None:
    log = log_of(key_created(1), KeyRevoked())
    store = MemoryStore()
    store.apply(log.events[0])
    with pytest.raises(ValueError, match="does not follow"):
        store.apply(log.events[2])


def test_a_digest_that_is_added_proves_the_same_secret() -> None:
    added = SecretDigested(1, {"p2": b"2" * 32})
    record = record_of(log_of(key_created(1), key_rotated(1, 2, START), added))
    assert [sorted(secret.digests) for secret in record.secrets] == [["p1"], ["p1", "p2"]]
    assert [secret.version for secret in record.secrets] == [2, 1]
    assert record.version == 3
    unknown = record_of(log_of(key_created(1), SecretDigested(7, {"p2": b"2" * 32})))
    assert [sorted(secret.digests) for secret in unknown.secrets] == [["p1"]]


def test_a_retired_secret_ends_at_that_moment_or_before() -> None:
    log = log_of(key_created(1), key_rotated(1, 2, START + 60 * SECOND))
    log.append(KEY, SecretRetired(1), at=START + SECOND)
    assert [secret.valid_until for secret in record_of(log).secrets] == [None, START + SECOND]
    log.append(KEY, SecretRetired(1), at=START + 2 * SECOND)
    assert [secret.valid_until for secret in record_of(log).secrets] == [None, START + SECOND]


def test_an_imported_token_is_found_under_each_pepper_it_has_a_digest_for() -> None:
    one, two = PEPPERS, Peppers({"p2": b"2" * 32}, "p2")
    h = foreign("sk-foreign")
    secret = NewSecret("imported", {"p1": one.digest(h)})
    log = log_of(KeyImported("live", ("*",), secret, private=KeyText("imported")))
    store = folded(log)
    assert store.find(one.digest(h)) == KEY
    assert store.find(two.digest(h)) is None
    assert not store.unfindable(one)
    assert store.unfindable(two), "somebody who holds p2 only cannot tell who has this token"
    store.apply(log.append(KEY, SecretDigested(1, {"p2": two.digest(h)})))
    assert store.find(two.digest(h)) == KEY
    assert not store.unfindable(two)
    assert not store.unfindable(one)


def test_what_peppers_do_is_of_no_concern_to_any_check() -> None:
    log = log_of(key_created(1))
    before = record_of(log)
    for event in (PepperActivated("p2"), PepperRetired("p1")):
        log.append("peppers", event)
    store = folded(log)
    assert store.get(KEY) == before
    assert store.position == len(log.events)


@pytest.mark.parametrize("role", ["owner", "a role from the future"])
def test_who_is_a_member_is_of_no_concern_to_any_check(role: str) -> None:
    log = log_of(key_created(1))
    before = folded(log)
    user = "user_" + "1" * 22
    for event in (MemberAdded(user, role), MemberChanged(user, role), MemberRemoved(user)):
        log.append(WORKSPACE, event)
    after = folded(log)
    assert (after.get(KEY), after.workspace(WORKSPACE)) == (before.get(KEY), before.workspace(WORKSPACE))
    assert after.position == len(log.events)
