"""Lost denials: refused after a restore by who was there and by who comes later, until they are accepted."""

from __future__ import annotations

from typing import Any

import pytest

from keyledger.events import (
    EpochAccepted,
    EpochStarted,
    KeyChanged,
    KeyRevoked,
    LostDenial,
    WorkspaceChanged,
    WorkspaceDeleted,
)
from keyledger.verification.limits import FixedWindow
from keyledger.verification.lost import lost_of_key
from keyledger.verification.projection import KEPT_SECRETS, KeyRecord
from keyledger.verification.store import MemoryStore
from keyledger.verification.verdict import NOT_FOUND, REVOKED, VALID, Needs, judge
from tests.support.followed_log import (
    PEPPERS,
    START,
    WORKSPACE,
    FollowedLog,
    key_created,
    key_id,
    key_rotated,
    token,
)
from tests.support.followed_log import workspace_created as created
from tests.support.stores import swap

KEY = key_id(1)
DENIALS: dict[str, tuple[Any, LostDenial]] = {
    "revoked": (KeyRevoked(), LostDenial(WORKSPACE, "revoked", KEY)),
    "disabled": (KeyChanged(enabled=False), LostDenial(WORKSPACE, "disabled", KEY)),
    "expired": (KeyChanged(expires_at=START), LostDenial(WORKSPACE, "expired", KEY, since=START)),
    "retired": (key_rotated(1, 2, START), LostDenial(WORKSPACE, "retired", KEY, 1, START)),
}
refused = pytest.mark.parametrize("what", DENIALS)


def logged() -> FollowedLog:
    log = FollowedLog()
    log.append(WORKSPACE, created())
    log.append(KEY, key_created(1))
    return log


def folded(log: FollowedLog) -> MemoryStore:
    store = MemoryStore()
    store.begin(log.epoch)
    for event in log.events:
        store.apply(event)
    return store


def record(store: MemoryStore) -> KeyRecord:
    found = store.get(KEY)
    assert found is not None
    return found


def refuses(found: KeyRecord) -> set[str]:
    first = found.secrets[-1]
    words = {
        "revoked": found.revoked,
        "disabled": not found.enabled,
        "expired": found.expires_at == START,
        "retired": first.version == 1 and first.valid_until == START,
        "unreadable": found.unreadable,
    }
    return {word for word, holds in words.items() if holds}


def restored(log: FollowedLog, position: int, *lost: LostDenial) -> FollowedLog:
    """The log gone back to `position`, saying what it lost."""
    again = log.restored(position)
    started = EpochStarted(again.epoch.number, again.epoch.line, position, lost=lost)
    again.append("epochs", started)
    return again


@refused
def test_who_was_there_before_refuses_still(what: str) -> None:
    log = logged()
    again = log.restored(log.position)
    log.append(KEY, DENIALS[what][0])
    store = folded(log)
    swap(store, folded(again))
    assert refuses(record(store)) == {what}


@refused
def test_who_comes_later_is_told_and_refuses(what: str) -> None:
    log = logged()
    assert refuses(record(folded(restored(log, log.position, DENIALS[what][1])))) == {what}


@refused
def test_what_was_accepted_is_as_the_log_tells_it(what: str) -> None:
    log = logged()
    plain = folded(log)
    again = restored(log, log.position, DENIALS[what][1])
    log.append(KEY, DENIALS[what][0])
    store, young = folded(log), folded(again)
    swap(store, folded(again))
    accepted = again.append("epochs", EpochAccepted(again.epoch.number))
    for each in (store, young):
        each.apply(accepted)
        assert record(each) == record(plain)


@refused
def test_a_change_meanwhile_takes_no_lost_denial_away(what: str) -> None:
    log = logged()
    again = restored(log, log.position, DENIALS[what][1])
    again.append(KEY, KeyChanged(scopes=("other",)))
    found = record(folded(again))
    assert found.scopes == ("other",)
    assert refuses(found) == {what}


def test_a_word_from_the_future_refuses_all_the_same() -> None:
    log = logged()
    again = restored(log, log.position, LostDenial(WORKSPACE, "frowned_upon", KEY))
    assert refuses(record(folded(again))) == {"unreadable"}


def test_a_secret_made_after_the_restore_is_not_taken_for_a_retired_one() -> None:
    log = logged()
    again = log.restored(log.position)
    for secret in (2, 3):
        log.append(KEY, key_rotated(1, secret, START))
    again.append(KEY, key_rotated(1, 9, START))
    store = folded(log)
    swap(store, folded(again))
    newest, first = record(store).secrets
    assert (newest.version, newest.valid_until) == (2, None)
    assert first.valid_until == START


def test_nor_is_one_that_the_older_telling_never_had_so_many_of() -> None:
    log = logged()
    again = log.restored(log.position)
    log.append(KEY, key_rotated(1, 2, START))
    for secret in (8, 9):
        again.append(KEY, key_rotated(1, secret, START))
    store = folded(log)
    swap(store, folded(again))
    newest = record(store).secrets[0]
    assert (newest.version, newest.valid_until) == (3, None)


def test_a_suspended_workspace_is_suspended_still() -> None:
    log = logged()
    again = restored(log, log.position, LostDenial(WORKSPACE, "suspended"))
    log.append(WORKSPACE, WorkspaceChanged(suspended=True))
    store = folded(log)
    swap(store, folded(log.restored(2)))
    for each in (store, folded(again)):
        workspace = each.workspace(WORKSPACE)
        assert workspace is not None
        assert workspace.suspended
        assert not workspace.unreadable


def code(store: MemoryStore) -> str:
    """What a holder of the key's first secret is told."""
    text, found, workspace = token(1), store.get(KEY), store.workspace(WORKSPACE)
    how: Any = {"peppers": PEPPERS, "limits": FixedWindow(), "now": START}
    return judge(text, found, workspace, Needs(), **how).code


def test_the_keys_of_a_deleted_workspace_are_unknown_still_until_that_is_accepted() -> None:
    log = logged()
    again = restored(log, log.position, LostDenial(WORKSPACE, "deleted"))
    assert code(folded(log)) == VALID
    log.append(WORKSPACE, WorkspaceDeleted())
    assert code(folded(log)) == NOT_FOUND
    was_there, young = folded(log), folded(again)
    swap(was_there, folded(log.restored(2)))
    both = folded(log)
    swap(both, folded(again))
    for store in (was_there, young, both):
        assert code(store) == NOT_FOUND
    # nor does a change of it meanwhile make it known
    again.append(KEY, KeyChanged(scopes=("other",)))
    again.append(WORKSPACE, WorkspaceChanged(suspended=False))
    accepted = [*again.events[-2:], again.append("epochs", EpochAccepted(again.epoch.number))]
    for event in accepted:
        assert code(young) == code(both) == NOT_FOUND
        for store in (young, both):
            store.apply(event)
    assert code(young) == code(both) == VALID


def test_a_workspace_deleted_again_before_the_acceptance_stays_deleted_after_it() -> None:
    log = logged()
    again = restored(log, log.position, LostDenial(WORKSPACE, "deleted"))
    again.append(WORKSPACE, WorkspaceDeleted())
    store = folded(again)
    assert code(store) == NOT_FOUND
    store.apply(again.append("epochs", EpochAccepted(again.epoch.number)))
    assert code(store) == NOT_FOUND
    assert store.get(KEY) is None


def test_a_secret_retired_so_long_ago_that_its_record_is_gone_is_refused_still() -> None:
    log = logged()
    again = log.restored(log.position)
    for secret in range(2, KEPT_SECRETS + 3):
        log.append(KEY, key_rotated(1, secret, START))
    store = folded(log)
    assert code(store) == NOT_FOUND
    swap(store, folded(again))
    assert code(store) == REVOKED


def test_a_secret_that_both_tellings_retired_is_nothing_lost() -> None:
    log = logged()
    for secret in range(2, KEPT_SECRETS + 3):
        log.append(KEY, key_rotated(1, secret, START))
    again = log.restored(log.position)
    plain = record(folded(again))
    log.append(KEY, key_rotated(1, KEPT_SECRETS + 3, START))
    assert lost_of_key(record(folded(log)), plain) == (
        LostDenial(WORKSPACE, "retired", KEY, plain.secrets[0].version, START),
    )


def test_denials_are_carried_over_any_number_of_restores() -> None:
    log = logged()
    first, second = log.restored(2), log.restored(2)
    log.append(KEY, KeyRevoked())
    first.append(key_id(2), key_created(2))
    store = folded(log)
    swap(store, folded(first))
    swap(store, folded(second))
    assert record(store).revoked


def test_who_was_away_at_the_acceptance_takes_the_log_s_word() -> None:
    log = logged()
    again = restored(log, log.position, DENIALS["revoked"][1])
    again.append("epochs", EpochAccepted(again.epoch.number))
    log.append(KEY, KeyRevoked())
    store = folded(log)
    swap(store, folded(again))
    assert not record(store).revoked


def test_an_acceptance_that_was_known_before_says_nothing_of_what_is_lost_now() -> None:
    log = logged()
    log.append("epochs", EpochAccepted(log.epoch.number))
    store = folded(log)
    same_line = folded(log)
    revoked = log.append(KEY, KeyRevoked())
    store.apply(revoked)
    swap(store, same_line)
    assert record(store).revoked
