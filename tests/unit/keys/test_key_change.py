"""Changing a key: only what differs is recorded; null clears; a revoked key no longer changes."""

from typing import Any

import pytest
from msgspec import UNSET

from keyledger.events import KeyText, KeyTextChange, Quota, RateLimit
from services.keys.domain.principal import KEYS_READ, KEYS_WRITE, WORKSPACE_WRITE, Principal
from tests.support.spec import NOW
from tests.unit.keys.examples import (
    CALLER,
    DAY,
    LIMIT,
    MANAGER,
    OPERATOR,
    WS,
    change,
    changed,
    created,
    key_spec,
    revoked,
    rotated,
)

FULL = created(
    scopes=("a", "b"),
    expires_at=NOW + DAY,
    rate_limit=LIMIT,
    private=KeyText(
        name="CI", allowed_ips=("10.0.0.0/8",), external_id="u1", metadata={"k": "v"}, proof="$proof1"
    ),
)


def text(**fields: Any) -> KeyTextChange:
    return KeyTextChange(**fields)


def test_only_the_fields_that_differ_are_recorded() -> None:
    command = change(name="CI", scopes=("a", "b"), expires_at=NOW + 2 * DAY, metadata={"k": "v"})
    key = key_spec.given(FULL).when(command).then(changed(expires_at=NOW + 2 * DAY))
    assert (key.version, key.expires_at, key.name) == (2, NOW + 2 * DAY, "CI")


@pytest.mark.parametrize(
    ("wanted", "event"),
    [
        ({"name": "New"}, changed(private=text(name="New"))),
        ({"scopes": ("c",)}, changed(scopes=("c",))),
        ({"scopes": ()}, changed(scopes=())),
        ({"scopes": ("b", "a")}, changed(scopes=("b", "a"))),
        ({"enabled": False}, changed(enabled=False)),
        ({"allowed_ips": ("::1",)}, changed(private=text(allowed_ips=("::1",)))),
        ({"rate_limit": RateLimit(1, 60)}, changed(rate_limit=RateLimit(1, 60))),
        ({"external_id": "u2"}, changed(private=text(external_id="u2"))),
        ({"metadata": {}}, changed(private=text(metadata={}))),
        ({"metadata": {"other": "1"}}, changed(private=text(metadata={"other": "1"}))),
    ],
)
def test_each_field_can_be_changed_by_itself(wanted: dict[str, Any], event: Any) -> None:
    before = key_spec.given(FULL)
    key = before.when(change(**wanted)).then(event)
    for field in key.__struct_fields__:
        expected = wanted.get(field, 2 if field == "version" else getattr(before.state, field))
        assert getattr(key, field) == expected


@pytest.mark.parametrize("field", ["expires_at", "rate_limit"])
def test_null_clears_what_followers_may_read(field: str) -> None:
    key = key_spec.given(FULL).when(change(**{field: None})).then(changed(**{field: None}))
    assert getattr(key, field) is None


@pytest.mark.parametrize("field", ["allowed_ips", "external_id"])
def test_null_clears_what_a_person_typed(field: str) -> None:
    event = changed(private=text(**{field: None}))
    key = key_spec.given(FULL).when(change(**{field: None})).then(event)
    assert getattr(key, field) is None


def test_clearing_what_is_clear_is_nothing() -> None:
    command = change(expires_at=None, allowed_ips=None, rate_limit=None, external_id=None)
    key_spec.given(created()).when(command).then_nothing()


def test_asking_for_nothing_is_nothing() -> None:
    key_spec.given(FULL).when(change()).then_nothing()


def test_asking_for_what_already_holds_is_nothing() -> None:
    command = change(
        name="CI",
        scopes=("a", "b"),
        expires_at=NOW + DAY,
        allowed_ips=("10.0.0.0/8",),
        rate_limit=LIMIT,
        external_id="u1",
        metadata={"k": "v"},
        enabled=True,
        if_match=1,
    )
    key_spec.given(FULL).when(command).then_nothing()


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("name", "", "name"),
        ("scopes", ("NO",), "scopes"),
        ("scopes", ("keyledger:admin",), "scopes"),
        ("expires_at", NOW, "expires_at"),
        ("allowed_ips", (), "allowed_ips"),
        ("rate_limit", RateLimit(0, 60), "rate_limit.limit"),
        ("rate_limit", RateLimit(1, 7), "rate_limit.window_seconds"),
        ("external_id", "", "external_id"),
        ("metadata", {"k": "x" * 5000}, "metadata"),
    ],
)
def test_a_bad_value_is_refused_before_the_version_is_looked_at(field: str, value: Any, named: str) -> None:
    command = change(**{field: value}, if_match=99)
    key_spec.given(FULL).when(command).then_raises("invalid_request", field=named)


def test_another_version_than_the_current_one_fails_even_when_nothing_would_change() -> None:
    key_spec.given(FULL).when(change(if_match=2)).then_raises("precondition_failed", field="If-Match")
    given = key_spec.given(FULL, changed(enabled=False))
    given.when(change(enabled=True, if_match=1)).then_raises("precondition_failed", field="If-Match")
    given.when(change(enabled=True, if_match=2)).then(changed(enabled=True))


def test_a_revoked_key_no_longer_changes_not_even_into_itself() -> None:
    given = key_spec.given(FULL, revoked())
    given.when(change(name="New")).then_raises("key_revoked")
    given.when(change()).then_raises("key_revoked")


def test_a_wrong_version_of_a_revoked_key_is_told_first() -> None:
    given = key_spec.given(FULL, revoked())
    given.when(change(if_match=1)).then_raises("precondition_failed", field="If-Match")


def test_an_unknown_key_is_not_found() -> None:
    key_spec.given().when(change(name="New")).then_raises("not_found")


def test_nobody_changes_a_key_that_can_do_what_they_cannot() -> None:
    strong = created(scopes=(WORKSPACE_WRITE, KEYS_READ))
    command = change(name="New", scopes=("*",))
    key_spec.given(strong).when(command).then_raises("insufficient_permissions", field="scopes")


def test_nobody_gives_a_key_a_power_that_they_lack() -> None:
    command = change(scopes=("*", KEYS_READ))
    key_spec.given(created()).when(command).then_raises("insufficient_permissions", field="scopes")
    both = Principal(CALLER, WS, MANAGER.scopes | {KEYS_READ})
    key_spec.given(created()).when(change(by=both, scopes=("*", KEYS_READ))).then(
        changed(scopes=("*", KEYS_READ))
    )


def test_missing_scopes_are_told_before_what_is_wrong_with_the_body() -> None:
    strong = created(scopes=(KEYS_READ,))
    command = change(name="")
    key_spec.given(strong).when(command).then_raises("insufficient_permissions", field="scopes")


def test_an_operator_may_change_any_key() -> None:
    strong = created(scopes=(KEYS_WRITE, KEYS_READ))
    command = change(by=OPERATOR, scopes=("*",))
    key_spec.given(strong).when(command).then(changed(scopes=("*",)))


def test_a_key_of_the_system_workspace_may_take_a_system_scope() -> None:
    command = change(by=OPERATOR, system=True, scopes=("keyledger:prove",))
    key_spec.given(created()).when(command).then(changed(scopes=("keyledger:prove",)))


def test_a_disabled_key_says_so_until_it_is_revoked() -> None:
    key = key_spec.given(FULL).when(change(enabled=False)).then(changed(enabled=False))
    assert key.status(NOW) == key.status(NOW + DAY) == "disabled"
    key = key_spec.given(FULL, changed(enabled=False), revoked()).state
    assert key is not None
    assert key.status(NOW) == "revoked"


def test_a_change_leaves_the_secrets_alone() -> None:
    given = key_spec.given(FULL, rotated(until=NOW + 5))
    assert given.state is not None
    key = given.when(change(expires_at=NOW + 1)).then(changed(expires_at=NOW + 1))
    assert key.secrets == given.state.secrets


def test_a_change_whose_text_is_shredded_still_folds() -> None:
    """After the workspace's data key is destroyed the private part is None; before it is opened, bytes."""
    for private in (None, b"ciphertext"):
        event = changed(enabled=False)
        key = key_spec.given(FULL, type(event)(enabled=False, private=private)).state
        assert key is not None
        assert (key.version, key.enabled, key.name) == (2, False, "CI")


def test_what_is_unset_is_not_null() -> None:
    assert change().expires_at is UNSET
    key_spec.given(FULL).when(change(expires_at=UNSET)).then_nothing()


def test_only_operators_set_and_clear_a_quota() -> None:
    quota = Quota(9, "day")
    for value in (quota, None):
        key_spec.given(FULL).when(change(quota=value)).then_raises("insufficient_permissions", field="quota")
    key = key_spec.given(FULL).when(change(by=OPERATOR, quota=quota)).then(changed(quota=quota))
    assert key.quota == quota
    given = key_spec.given(FULL, changed(quota=quota))
    assert given.when(change(by=OPERATOR, quota=None)).then(changed(quota=None)).quota is None
    wrong = change(by=OPERATOR, quota=Quota(0, "day"))
    key_spec.given(FULL).when(wrong).then_raises("invalid_request", field="quota.limit")
