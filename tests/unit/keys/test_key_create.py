"""Creating a key: what is recorded, and every value that is refused with its field."""

from typing import Any

import pytest

from keyledger.events import KeyText, RateLimit
from services.keys.domain.key import Key, Secret
from services.keys.domain.principal import KEYS_READ, KEYS_WRITE, Principal
from tests.support.spec import NOW
from tests.unit.keys.examples import (
    CALLER,
    DAY,
    KEY,
    MANAGER,
    OPERATOR,
    READER,
    WS,
    create,
    created,
    key_spec,
    secret,
)


def test_a_key_has_every_scope_of_the_product_and_no_end_unless_said_otherwise() -> None:
    key = key_spec.given().when(create()).then(created())
    assert key == Key(
        id=KEY,
        workspace_id=WS,
        environment="live",
        name="CI",
        scopes=("*",),
        secrets=(Secret("cvtk_live_…0001", secret().digests, NOW, proof="$proof1"),),
        created_at=NOW,
        created_by=CALLER,
        version=1,
    )
    assert key.status(NOW + 100 * 365 * DAY) == "active"


def test_every_field_is_recorded_as_it_was_given() -> None:
    text = KeyText(
        name="Billing",
        allowed_ips=("10.0.0.0/8", "2001:db8::/32", "192.0.2.7"),
        external_id="user-17",
        metadata={"team": "billing"},
        proof="$proof1",
    )
    command = create(
        name="Billing",
        environment="test",
        scopes=("contacts:read", "*"),
        expires_at=NOW + DAY,
        allowed_ips=text.allowed_ips,
        rate_limit=RateLimit(5, 3600, "closed"),
        external_id="user-17",
        metadata={"team": "billing"},
    )
    event = created(
        environment="test",
        scopes=("contacts:read", "*"),
        expires_at=NOW + DAY,
        rate_limit=RateLimit(5, 3600, "closed"),
        private=text,
    )
    key = key_spec.given().when(command).then(event)
    assert (key.name, key.allowed_ips, key.external_id) == ("Billing", text.allowed_ips, "user-17")
    assert (key.environment, key.scopes, key.expires_at) == ("test", ("contacts:read", "*"), NOW + DAY)
    assert (key.rate_limit, key.metadata) == (RateLimit(5, 3600, "closed"), {"team": "billing"})


def test_a_repeated_scope_or_address_is_recorded_once_in_the_order_given() -> None:
    command = create(scopes=("b", "a", "b"), allowed_ips=("::1", "10.0.0.1", "::1"))
    text = KeyText(name="CI", allowed_ips=("::1", "10.0.0.1"), proof="$proof1")
    key_spec.given().when(command).then(created(scopes=("b", "a"), private=text))


@pytest.mark.parametrize(
    "value",
    ["x", "x" * 200, "Ключ № 1", "🔑", " padded "],
)
def test_a_name_may_be_anything_that_can_be_read(value: str) -> None:
    key_spec.given().when(create(name=value)).then(created(private=KeyText(name=value, proof="$proof1")))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "   "),
        ("name", "x" * 201),
        ("name", "line\nbreak"),
        ("name", "tab\there"),
        ("name", "nul\x00"),
        ("name", "c1\x85"),
        ("name", "lone \ud800"),
        ("scopes", ("",)),
        ("scopes", ("Contacts",)),
        ("scopes", (":read",)),
        ("scopes", ("**",)),
        ("scopes", ("contacts:*",)),
        ("scopes", ("a b",)),
        ("scopes", ("a\n",)),
        ("scopes", ("x" * 65,)),
        ("scopes", ("good", "Bad")),
        ("scopes", ("keyledger:whatever",)),
        ("scopes", ("keyledger:",)),
        ("scopes", tuple(f"s{number}" for number in range(101))),
        ("expires_at", NOW - 1),
        ("expires_at", NOW),
        ("allowed_ips", ()),
        ("allowed_ips", ("10.0.0.0/33",)),
        ("allowed_ips", ("10.0.0.1/8",)),
        ("allowed_ips", ("2001:db8::1/32",)),
        ("allowed_ips", ("example.org",)),
        ("allowed_ips", ("10.0.0.0/255.0.0.0",)),
        ("allowed_ips", ("10.0.0.1", "")),
        ("allowed_ips", tuple(f"10.0.0.{number}" for number in range(101))),
        ("external_id", ""),
        ("external_id", "x" * 256),
        ("external_id", "a\tb"),
        ("metadata", {str(number): "" for number in range(51)}),
        ("metadata", {"k": "x" * 4096}),
        ("metadata", {"k\n": "v"}),
        ("metadata", {"k": "v\x07"}),
    ],
    ids=repr,
)
def test_a_bad_value_is_refused_naming_its_field(field: str, value: Any) -> None:
    key_spec.given().when(create(**{field: value})).then_raises("invalid_request", field=field)


@pytest.mark.parametrize(
    ("limit", "field"),
    [
        (RateLimit(0, 60), "rate_limit.limit"),
        (RateLimit(-1, 60), "rate_limit.limit"),
        (RateLimit(1_000_000_001, 60), "rate_limit.limit"),
        (RateLimit(1, 0), "rate_limit.window_seconds"),
        (RateLimit(1, -60), "rate_limit.window_seconds"),
        (RateLimit(1, 7), "rate_limit.window_seconds"),
        (RateLimit(1, 172_800), "rate_limit.window_seconds"),
    ],
)
def test_a_bad_rate_limit_is_refused_naming_which_number(limit: RateLimit, field: str) -> None:
    key_spec.given().when(create(rate_limit=limit)).then_raises("invalid_request", field=field)


@pytest.mark.parametrize("limit", [RateLimit(1, 1), RateLimit(1_000_000_000, 86_400), RateLimit(7, 450)])
def test_any_window_that_divides_the_day_will_do(limit: RateLimit) -> None:
    key_spec.given().when(create(rate_limit=limit)).then(created(rate_limit=limit))


def test_a_key_may_expire_in_the_very_next_microsecond() -> None:
    key = key_spec.given().when(create(expires_at=NOW + 1)).then(created(expires_at=NOW + 1))
    assert key.status(NOW) == "active"
    assert key.status(NOW + 1) == "expired"


@pytest.mark.parametrize("scope", ["keyledger:admin", "keyledger:feed:read", "keyledger:prove"])
def test_only_the_system_workspace_has_keys_with_system_scopes(scope: str) -> None:
    command = create(by=OPERATOR, scopes=(scope,))
    key_spec.given().when(command).then_raises("invalid_request", field="scopes")
    key_spec.given().when(create(by=OPERATOR, scopes=(scope,), system=True)).then(created(scopes=(scope,)))


def test_nobody_creates_a_key_that_can_do_what_they_cannot() -> None:
    command = create(by=MANAGER, scopes=(KEYS_WRITE, KEYS_READ))
    key_spec.given().when(command).then_raises("insufficient_permissions", field="scopes")
    reader = Principal(CALLER, WS, frozenset({KEYS_READ, KEYS_WRITE}))
    key_spec.given().when(create(by=reader, scopes=(KEYS_WRITE, KEYS_READ))).then(
        created(scopes=(KEYS_WRITE, KEYS_READ))
    )


def test_the_wildcard_covers_no_management_scope() -> None:
    command = create(by=READER, scopes=(KEYS_WRITE,))
    key_spec.given().when(command).then_raises("insufficient_permissions", field="scopes")


def test_an_operator_may_grant_what_it_does_not_hold() -> None:
    key_spec.given().when(create(by=OPERATOR, scopes=(KEYS_WRITE,))).then(created(scopes=(KEYS_WRITE,)))
