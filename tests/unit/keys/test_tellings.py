"""Two tellings of one log: what the older one denied and the newer one does not."""

from __future__ import annotations

import pytest

from keyledger.events import (
    EpochAccepted,
    EpochStarted,
    KeyChanged,
    KeyRevoked,
    LostDenial,
    MemberAdded,
    MemberChanged,
    MemberRemoved,
    WorkspaceDeleted,
)
from services.keys.domain.tellings import MOST_TOLD, Tellings, in_parts, refused
from tests.support.followed_log import START, WORKSPACE, FollowedLog, key_created, key_id, key_rotated
from tests.support.followed_log import workspace_created as created

KEY = key_id(1)
EARLIER = LostDenial(WORKSPACE, "revoked", key_id(9))


class Parted:
    """A log with a workspace and a key, and two ways on from there."""

    def __init__(self) -> None:
        self.shared = FollowedLog()
        self.shared.append(WORKSPACE, created())
        self.shared.append(KEY, key_created(1))
        self.old = self.shared.restored(2)
        self.new = self.shared.restored(2)

    def denials(self) -> list[LostDenial]:
        tellings = Tellings()
        tellings.shared(self.shared.events)
        for event in self.old.events[2:]:
            tellings.lost(event)
        tellings.own(self.new.events[2:])
        return tellings.denials()


@pytest.fixture
def parted() -> Parted:
    return Parted()


def test_each_way_of_denying_is_found(parted: Parted) -> None:
    parted.old.append(KEY, key_rotated(1, 2, START))
    parted.old.append(KEY, KeyChanged(enabled=False, expires_at=START))
    parted.old.append(KEY, KeyRevoked())
    parted.old.append(KEY, KeyRevoked())
    parted.old.append_raw(WORKSPACE, "of_the_future", 1, b"{}")
    assert parted.denials() == [
        LostDenial(WORKSPACE, "revoked", KEY),
        LostDenial(WORKSPACE, "disabled", KEY),
        LostDenial(WORKSPACE, "expired", KEY, since=START),
        LostDenial(WORKSPACE, "retired", KEY, 1, START),
        LostDenial(WORKSPACE, "unreadable"),
    ]


def test_what_was_denied_and_allowed_again_is_not_lost(parted: Parted) -> None:
    parted.old.append(KEY, KeyChanged(enabled=False, expires_at=START))
    parted.old.append(KEY, KeyChanged(enabled=True, expires_at=None))
    assert parted.denials() == []


def test_what_the_newer_one_denies_as_well_is_not_lost(parted: Parted) -> None:
    parted.old.append(KEY, KeyRevoked())
    parted.new.append(KEY, KeyRevoked())
    assert parted.denials() == []


def test_a_key_that_the_newer_one_never_knew_is_nobody_s_loss(parted: Parted) -> None:
    parted.old.append(key_id(2), key_created(2))
    parted.old.append(key_id(2), KeyRevoked())
    assert parted.denials() == []


def test_a_deleted_workspace_is_lost_whole(parted: Parted) -> None:
    parted.old.append(WORKSPACE, WorkspaceDeleted())
    assert parted.denials() == [LostDenial(WORKSPACE, "deleted")]


def test_a_workspace_that_was_deleted_again_is_not_lost(parted: Parted) -> None:
    parted.old.append(WORKSPACE, WorkspaceDeleted())
    parted.new.append(WORKSPACE, WorkspaceDeleted())
    assert parted.denials() == []


def test_what_an_earlier_restore_lost_is_lost_again_unless_it_was_accepted(parted: Parted) -> None:
    parted.old.append("epochs", EpochStarted(2, b"\x02" * 8, 2, lost=(EARLIER,)))
    assert parted.denials() == [EARLIER]
    parted.old.append("epochs", EpochAccepted(2))
    assert parted.denials() == []


def test_a_long_list_is_told_in_parts() -> None:
    many = [LostDenial(WORKSPACE, "revoked", key_id(number)) for number in range(2 * MOST_TOLD + 1)]
    parts = in_parts(many)
    assert [len(part) for part in parts] == [MOST_TOLD, MOST_TOLD, 1]
    assert [each for part in parts for each in part] == many
    assert in_parts([]) == [()]


@pytest.mark.parametrize(
    ("denial", "holds"),
    [
        (LostDenial(WORKSPACE, "revoked", KEY), True),
        (LostDenial(WORKSPACE, "of_the_future", KEY), True),
        (LostDenial(WORKSPACE, "retired", KEY, 3, START), True),
        (LostDenial(WORKSPACE, "retired", KEY, 3, START + 1), False),
        (LostDenial(WORKSPACE, "retired", KEY, 2, START), False),
        (LostDenial(WORKSPACE, "expired", KEY, since=START), True),
        (LostDenial(WORKSPACE, "expired", KEY, since=START + 1), False),
        (LostDenial(WORKSPACE, "deleted"), True),
        (LostDenial(WORKSPACE, "unreadable"), True),
        (LostDenial(WORKSPACE, "suspended"), False),
    ],
)
def test_a_lost_denial_holds_for_its_secret_from_its_moment_on(denial: LostDenial, *, holds: bool) -> None:
    assert refused([denial], 3, START) is holds


ADA, BOB = "user_" + "1" * 22, "user_" + "2" * 22


def with_members(parted: Parted) -> None:
    """Both are members in what the tellings have in common."""
    for log in (parted.shared, parted.old, parted.new):
        log.append(WORKSPACE, MemberAdded(ADA, "owner"))
        log.append(WORKSPACE, MemberAdded(BOB, "member"))


def member_denials(parted: Parted) -> list[LostDenial]:
    tellings = Tellings()
    tellings.shared(parted.shared.events)
    for event in parted.old.events[4:]:
        tellings.lost(event)
    tellings.own(parted.new.events[4:])
    return tellings.denials()


def test_a_member_whose_removal_or_lesser_role_is_lost_is_refused(parted: Parted) -> None:
    with_members(parted)
    parted.old.append(WORKSPACE, MemberRemoved(BOB))
    parted.old.append(WORKSPACE, MemberChanged(ADA, "viewer"))
    assert member_denials(parted) == [
        LostDenial(WORKSPACE, "demoted", ADA),
        LostDenial(WORKSPACE, "removed", BOB),
    ]


def test_a_member_who_lost_nothing_is_not(parted: Parted) -> None:
    with_members(parted)
    parted.old.append(WORKSPACE, MemberChanged(BOB, "admin"))
    parted.old.append(WORKSPACE, MemberRemoved(ADA))
    parted.old.append(WORKSPACE, MemberAdded(ADA, "owner"))
    parted.new.append(WORKSPACE, MemberChanged(BOB, "viewer"))
    assert member_denials(parted) == []


def test_who_was_removed_in_both_tellings_is_not_lost(parted: Parted) -> None:
    with_members(parted)
    parted.old.append(WORKSPACE, MemberRemoved(BOB))
    parted.new.append(WORKSPACE, MemberRemoved(BOB))
    # and a promotion of the restored telling itself is its own word
    parted.new.append(WORKSPACE, MemberAdded("user_" + "3" * 22, "owner"))
    assert member_denials(parted) == []
