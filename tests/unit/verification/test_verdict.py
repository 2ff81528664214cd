"""Each code, and that of two reasons the earlier one in the contract's order is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from keyledger.events import RateLimit
from keyledger.verification.limits import FixedWindow
from keyledger.verification.projection import KeyRecord, SecretRecord, WorkspaceRecord
from keyledger.verification.verdict import (
    CODES,
    NOT_FOUND,
    Needs,
    Verdict,
    address_allowed,
    covers,
    judge,
    parse_address,
)
from tests.support.followed_log import PEPPERS, START, WORKSPACE, key_id, token

TEXT = token(1)
IP = parse_address("10.1.2.3")
GOOD = KeyRecord(
    key_id(1), WORKSPACE, "live", "web", ("read",), (SecretRecord({"p1": PEPPERS.digest(TEXT)}),)
)
OPEN = WorkspaceRecord(WORKSPACE, "Acme", RateLimit(10, 60))
NEEDS = Needs(("read",), ("live",), IP)


def judged(
    record: KeyRecord | None = GOOD,
    workspace: WorkspaceRecord | None = OPEN,
    needs: Needs = NEEDS,
    text: str = TEXT,
    limits: FixedWindow | None = None,
) -> Verdict:
    return judge(
        text,
        record,
        workspace,
        needs,
        peppers=PEPPERS,
        limits=limits or FixedWindow(),
        now=START,
    )


def test_a_good_key_is_valid() -> None:
    verdict = judged()
    assert verdict.code == "VALID"
    assert verdict.valid
    assert verdict.key is GOOD
    assert verdict.limit is not None
    assert verdict.limit.remaining == 9


@pytest.mark.parametrize("text", [token(1, 2), "foreign", "", "not_ours_at_all", "🔑" * 20])
def test_a_wrong_secret_is_not_found_and_nothing_is_told(text: str) -> None:
    verdict = judged(text=text)
    assert (verdict.code, verdict.key, verdict.limit) == ("NOT_FOUND", None, None)


@pytest.mark.parametrize(
    ("record", "workspace"),
    [
        (None, OPEN),
        (GOOD, None),
        (replace(GOOD, unreadable=True), OPEN),
        (GOOD, replace(OPEN, unreadable=True)),
    ],
)
def test_what_is_not_known_for_certain_is_not_found(record: KeyRecord | None, workspace: Any) -> None:
    assert judged(record, workspace) == Verdict(NOT_FOUND)


def test_a_retired_secret_is_revoked_and_the_new_one_valid() -> None:
    new = SecretRecord({"p1": PEPPERS.digest(token(1, 2))})
    old = replace(GOOD.secrets[0], valid_until=START)
    rotated = replace(GOOD, secrets=(new, old))
    assert judged(rotated).code == "REVOKED"
    assert judged(rotated, text=token(1, 2)).code == "VALID"


def test_in_the_overlap_both_secrets_are_valid() -> None:
    new = SecretRecord({"p1": PEPPERS.digest(token(1, 2))})
    rotated = replace(GOOD, secrets=(new, replace(GOOD.secrets[0], valid_until=START + 1)))
    assert judged(rotated).code == "VALID"


def test_a_digest_under_a_pepper_that_is_not_held_proves_nothing() -> None:
    lost = replace(GOOD, secrets=(SecretRecord({"p9": PEPPERS.digest(TEXT)}),))
    assert judged(lost).code == "NOT_FOUND"


FAULTS: dict[str, Any] = {
    "REVOKED": ("record", {"revoked": True}),
    "DISABLED": ("record", {"enabled": False}),
    "EXPIRED": ("record", {"expires_at": START}),
    "WORKSPACE_SUSPENDED": ("workspace", {"suspended": True}),
    "WRONG_ENVIRONMENT": ("needs", {"environments": ("test",)}),
    "IP_NOT_ALLOWED": ("record", {"allowed_ips": ("10.9.0.0/16",)}),
    "INSUFFICIENT_PERMISSIONS": ("needs", {"scopes": ("write",)}),
    "RATE_LIMITED": ("limits", {}),
}


@given(st.sets(st.sampled_from(sorted(FAULTS)), min_size=1))
def test_of_several_faults_the_first_in_order_is_told(faults: set[str]) -> None:
    parts: dict[str, Any] = {"record": GOOD, "workspace": OPEN, "needs": NEEDS}
    limits = FixedWindow()
    for fault in faults:
        part, changes = FAULTS[fault]
        if part == "limits":
            for _ in range(10):
                judged(limits=limits)
        else:
            parts[part] = replace(parts[part], **changes)
    verdict = judged(**parts, limits=limits)
    assert verdict.code == min(faults, key=CODES.index)
    # the secret is proven, so whoever holds it is told
    assert verdict.key is not None
    assert verdict.limit is not None


@given(st.sampled_from(sorted(set(FAULTS) - {"RATE_LIMITED"})))
def test_a_refusal_spends_nothing(fault: str) -> None:
    part, changes = FAULTS[fault]
    parts: dict[str, Any] = {"record": GOOD, "workspace": OPEN, "needs": NEEDS}
    parts[part] = replace(parts[part], **changes)
    limits = FixedWindow()
    verdict = judged(**parts, limits=limits)
    assert verdict.limit is not None
    assert verdict.limit.remaining == 10


def test_a_key_expires_at_its_very_microsecond() -> None:
    assert judged(replace(GOOD, expires_at=START + 1)).code == "VALID"
    assert judged(replace(GOOD, expires_at=START)).code == "EXPIRED"


def test_the_tighter_of_two_limits_is_told() -> None:
    verdict = judged(replace(GOOD, rate_limit=RateLimit(3, 3600)))
    assert verdict.limit is not None
    assert (verdict.limit.policy, verdict.limit.limit, verdict.limit.remaining) == ("key", 3, 2)


def test_cost_nothing_is_never_rate_limited() -> None:
    limits = FixedWindow()
    for _ in range(11):
        judged(limits=limits)
    verdict = judged(needs=replace(NEEDS, cost=0), limits=limits)
    assert verdict.code == "VALID"
    assert verdict.limit is not None
    assert verdict.limit.remaining == 0


def test_two_different_environments_can_never_be_met() -> None:
    assert judged(needs=Needs(environments=("live", "test"))).code == "WRONG_ENVIRONMENT"


@pytest.mark.parametrize(
    ("scopes", "need", "covered"),
    [
        (("*",), "contacts.read", True),
        (("*",), "keyledger:admin", False),
        (("*", "keyledger:admin"), "keyledger:admin", True),
        (("contacts.*",), "contacts.read", False),
        (("read",), "*", False),
        (("*",), "*", True),
        ((), "read", False),
    ],
)
def test_only_the_star_is_a_wildcard_and_never_for_our_own(
    scopes: tuple[str, ...], need: str, covered: bool
) -> None:
    assert covers(scopes, need) is covered


@pytest.mark.parametrize(
    ("allowed", "ip", "let_in"),
    [
        (("10.0.0.0/8",), "10.1.2.3", True),
        (("10.0.0.0/8",), "11.1.2.3", False),
        (("10.1.2.3",), "::ffff:10.1.2.3", True),
        (("::ffff:10.0.0.0/104",), "10.1.2.3", True),
        (("2001:db8::/32",), "2001:db8::1", True),
        (("2001:db8::/32",), "10.1.2.3", False),
        (("nonsense", "10.1.2.3"), "10.1.2.3", True),
        (("nonsense",), "10.1.2.3", False),
        ((), "10.1.2.3", False),
    ],
)
def test_allowed_addresses(allowed: tuple[str, ...], ip: str, let_in: bool) -> None:
    assert address_allowed(allowed, parse_address(ip)) is let_in


def test_a_list_lets_no_unknown_address_in() -> None:
    assert not address_allowed(("0.0.0.0/0",), None)
    assert address_allowed(None, None)


def test_a_verdict_shows_no_secret() -> None:
    assert TEXT not in repr(judged())
