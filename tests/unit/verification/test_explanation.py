"""What is explained is what is decided: the same code, the checks in their order, and nothing is spent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from keyledger.errors import Refusal
from keyledger.events import RateLimit
from keyledger.verification.explanation import CHECKS, Case, Explanation, chosen, explain
from keyledger.verification.limits import FixedWindow, Limits
from keyledger.verification.projection import KeyRecord, SecretRecord, WorkspaceRecord
from keyledger.verification.verdict import CODES, Needs, judge, parse_address
from tests.support.followed_log import PEPPERS, START, WORKSPACE, key_id, token

MOMENTS = st.none() | st.integers(START - 2, START + 2)
SCOPES = st.lists(st.sampled_from(["read", "write", "*", "keyledger:admin"]), max_size=3, unique=True).map(
    tuple
)
LIMITS = st.builds(RateLimit, st.integers(1, 5), st.sampled_from([1, 60, 3600]))
ADDRESSES = st.none() | st.sampled_from(["10.1.2.3", "2001:db8::1"]).map(parse_address)
KEYS = st.builds(
    KeyRecord,
    st.just(key_id(1)),
    st.just(WORKSPACE),
    st.sampled_from(["live", "test"]),
    st.just("web"),
    SCOPES,
    st.tuples(
        st.builds(SecretRecord, st.just({"p1": PEPPERS.digest(token(1, 2))}), MOMENTS, st.just(2)),
        st.builds(SecretRecord, st.just({"p1": PEPPERS.digest(token(1))}), MOMENTS, st.just(1)),
    ),
    expires_at=MOMENTS,
    allowed_ips=st.none() | st.sampled_from([(), ("10.0.0.0/8",), ("nonsense", "2001:db8::/32")]),
    rate_limit=st.none() | LIMITS,
    enabled=st.booleans(),
    revoked=st.sampled_from([False, False, True]),
    unreadable=st.sampled_from([False, False, False, True]),
)
WORKSPACES = st.builds(
    WorkspaceRecord,
    st.just(WORKSPACE),
    st.just("Acme"),
    LIMITS,
    suspended=st.sampled_from([False, False, True]),
    unreadable=st.sampled_from([False, False, False, True]),
)
NEEDS = st.builds(
    Needs,
    SCOPES,
    st.lists(st.sampled_from(["live", "test"]), max_size=2, unique=True).map(tuple),
    ADDRESSES,
    st.integers(0, 6),
)

GOOD = KeyRecord(
    key_id(1), WORKSPACE, "live", "web", ("read",), (SecretRecord({"p1": PEPPERS.digest(token(1))}),)
)
OPEN = WorkspaceRecord(WORKSPACE, "Acme", RateLimit(10, 60))
ASKED = Needs(("read",), ("live",), parse_address("10.1.2.3"))


def explained(
    key: KeyRecord = GOOD,
    workspace: WorkspaceRecord = OPEN,
    needs: Needs = ASKED,
    limits: Limits | None = None,
) -> Explanation:
    return explain(Case(key, key.secrets[0], workspace, needs, START), limits or FixedWindow())


@given(KEYS, WORKSPACES, NEEDS, st.integers(1, 2), st.integers(0, 6))
def test_the_explanation_s_code_is_the_judge_s(
    key: KeyRecord, workspace: WorkspaceRecord, needs: Needs, secret: int, spent: int
) -> None:
    limits, text = FixedWindow(), token(1, secret)

    def judged(asked: Needs) -> str:
        try:
            verdict = judge(text, key, workspace, asked, PEPPERS, limits, START)
        except Refusal as refusal:
            return refusal.code
        return verdict.code

    def told() -> str:
        try:
            return explain(Case(key, chosen(key.secrets, secret), workspace, needs, START), limits).code
        except Refusal as refusal:
            return refusal.code

    for _ in range(spent):
        judged(Needs())
    first, again = told(), told()
    # asked twice, so that what it spent would show
    assert first == again == judged(needs)


@given(KEYS, WORKSPACES, NEEDS)
def test_what_comes_before_the_refusal_has_passed_and_what_follows_is_not_reached(
    key: KeyRecord, workspace: WorkspaceRecord, needs: Needs
) -> None:
    found = explained(key, workspace, replace(needs, cost=1))
    assert [step.check for step in found.steps] == list(CHECKS)
    assert sorted((step.code for step in found.steps), key=CODES.index) == [s.code for s in found.steps]
    outcomes = [step.outcome for step in found.steps if step.check not in ("token", "quota")]
    if found.code == "VALID":
        assert set(outcomes) == {"passed"}
        assert found.refused_by is None
        return
    at = outcomes.index("refused")
    assert set(outcomes[:at]) <= {"passed"}
    assert set(outcomes[at + 1 :]) <= {"skipped"}
    refused = next(step for step in found.steps if step.outcome == "refused")
    assert (refused.code, refused.check) == (found.code, found.refused_by)
    assert all(step.detail for step in found.steps)


@pytest.mark.parametrize(
    ("changes", "check", "words"),
    [
        ({"revoked": True}, "revoked", "The key is revoked."),
        ({"secrets": (SecretRecord({}, START, 4),)}, "secret", "The secret of version 4 ended 2026-"),
        ({"enabled": False}, "enabled", "The key is disabled."),
        ({"expires_at": START}, "expiry", "The key expired 2026-"),
        ({"environment": "test"}, "environment", "The key is for test; live is asked for."),
        ({"allowed_ips": ("10.9.0.0/16",)}, "ip", "Allowed are 10.9.0.0/16; the address is 10.1.2.3."),
        ({"scopes": ("write",)}, "scopes", "The key has write; asked for are read; missing: read."),
        ({"unreadable": True}, "key", "Something of the key's history cannot be read here."),
        ({"rate_limit": RateLimit(1, 60)}, "rate_limit", "0 of 1 are left to the key until 2026-"),
    ],
)
def test_each_refusal_says_what_it_looked_at(changes: dict[str, Any], check: str, words: str) -> None:
    key, limits = replace(GOOD, **changes), FixedWindow()
    judge(token(1), key, OPEN, ASKED, PEPPERS, limits, START)
    found = explained(key, limits=limits)
    assert found.refused_by == check
    refused = next(step for step in found.steps if step.outcome == "refused")
    assert refused.detail.startswith(words)


def test_a_suspended_workspace_refuses() -> None:
    assert explained(workspace=replace(OPEN, suspended=True)).refused_by == "workspace"


def test_of_what_is_past_the_limits_are_left_out() -> None:
    found = explain(Case(GOOD, GOOD.secrets[0], OPEN, ASKED, START), None)
    step = next(step for step in found.steps if step.check == "rate_limit")
    assert (found.code, step.outcome, step.detail) == ("VALID", "skipped", "What was spent then is not kept.")


def test_the_newest_secret_is_looked_at_unless_another_is_named() -> None:
    secrets = (SecretRecord({}, version=5), SecretRecord({}, version=2))
    assert chosen(secrets, None).version == 5
    assert chosen(secrets, 2).version == 2
    with pytest.raises(Refusal) as refusal:
        chosen(secrets, 3)
    assert (refusal.value.code, refusal.value.field) == ("invalid_request", "secret")
