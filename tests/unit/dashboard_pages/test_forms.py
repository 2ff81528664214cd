"""Forms: what is understood, what is sent back, and what of a key an edit changes."""

from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyledger.client.records import Key
from keyledger.errors import Refusal, invalid_request
from keyledger.events import RateLimit
from services.dashboard.pages import forms
from services.dashboard.pages.actors import Names
from services.dashboard.pages.forms import Form, FormRefused
from services.dashboard.pages.keys import view
from tests.support.dashboard_backend import made_id

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)


def typed(**values: str) -> Form:
    return forms.read(urlencode({"name": "billing", "environment": "live", **values}).encode())


def wrong(form: Form) -> dict[str, str]:
    with pytest.raises(FormRefused) as refused:
        forms.new_key(form, now=NOW)
    return dict(refused.value.errors)


def test_a_plain_form_is_a_key_that_may_do_everything_for_ever() -> None:
    made = forms.new_key(typed(), now=NOW)
    assert (made.name, made.environment, made.scopes) == ("billing", "live", ("*",))
    assert (made.expires_at, made.allowed_ips, made.rate_limit, made.external_id) == (None, None, None, None)
    assert made.metadata == {}


def test_every_field_is_understood() -> None:
    made = forms.new_key(
        forms.read(
            urlencode(
                [
                    ("name", "  billing "), ("environment", "test"), ("access", "some"),
                    ("scopes", "contacts:read,\r\n contacts:write contacts:read"),
                    ("management", "keyledger:keys:read"), ("management", "nonsense"),
                    ("expiry", "30"), ("limit", "1,500"), ("window", "3600"),
                    ("allowed_ips", "192.0.2.1\r\n2001:db8::/32"), ("external_id", " cust_1 "),
                    ("metadata", "plan=pro\r\n\r\nnote = a=b"),
                ]
            ).encode()
        ),
        now=NOW,
    )  # fmt: skip
    assert made.name == "billing"
    assert made.scopes == ("contacts:read", "contacts:write", "keyledger:keys:read")
    assert made.expires_at == NOW + timedelta(days=30)
    assert made.rate_limit == RateLimit(1500, 3600)
    assert made.allowed_ips == ("192.0.2.1", "2001:db8::/32")
    assert made.external_id == "cust_1"
    assert made.metadata == {"plan": "pro", "note": "a=b"}


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": "  "}, "name"),
        ({"environment": "staging"}, "environment"),
        ({"access": "some", "scopes": " , "}, "scopes"),
        ({"expiry": "on", "expires_at": "tomorrow"}, "expires_at"),
        ({"expiry": "on"}, "expires_at"),
        ({"expiry": "99999"}, "expires_at"),
        ({"limit": "many"}, "limit"),
        ({"limit": "-5"}, "limit"),
        ({"limit": "5", "window": "a while"}, "limit"),
        ({"metadata": "plan"}, "metadata"),
        ({"metadata": "=pro"}, "metadata"),
        ({"name": "n" * 201}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"external_id": "e" * 256}, "external_id"),
        ({"access": "some", "scopes": "Contacts:read"}, "scopes"),
        ({"access": "some", "scopes": "s" * 65}, "scopes"),
        ({"access": "some", "scopes": " ".join(f"s{each}" for each in range(101))}, "scopes"),
        ({"allowed_ips": "nonsense"}, "allowed_ips"),
        ({"allowed_ips": "10.0.0.1/24"}, "allowed_ips"),
        ({"allowed_ips": "fe80::1%eth0"}, "allowed_ips"),
        ({"allowed_ips": "10.0.0.0/255.255.255.0"}, "allowed_ips"),
        ({"allowed_ips": "\n".join(f"10.0.0.{each}" for each in range(101))}, "allowed_ips"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1,000,000,001"}, "limit"),
        ({"limit": "5", "window": "7"}, "limit"),
        ({"expiry": "on", "expires_at": "2026-11-02T08:59Z"}, "expires_at"),
        ({"metadata": "\n".join(f"k{each}=v" for each in range(51))}, "metadata"),
        ({"metadata": "k=" + "v" * 4096}, "metadata"),
    ],
)
def test_what_cannot_be_understood_is_said_beside_its_input(values: dict[str, str], field: str) -> None:
    assert list(wrong(typed(**values))) == [field]


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = wrong(
        typed(
            name="", environment="no", access="some", scopes="A", limit="0", allowed_ips="nonsense",
            expiry="on", expires_at="2020-01-01T00:00Z", external_id="e" * 256, metadata="y",
        )
    )  # fmt: skip
    assert set(found) == set(forms.KEY_INPUTS)


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"allowed_ips": "10.0.0.77/24"}, "Did you mean 10.0.0.0/24?"),
        ({"allowed_ips": "2001:db8::1/32"}, "Did you mean 2001:db8::/32?"),
        ({"access": "some", "scopes": "Contacts:Read"}, "Did you mean contacts:read?"),
        ({"allowed_ips": "a b c d"}, "“a”, “b”, “c” and 1 more"),
    ],
)
def test_what_was_meant_is_offered(values: dict[str, str], hint: str) -> None:
    assert hint in next(iter(wrong(typed(**values)).values()))


def test_what_the_contract_allows_at_most_is_taken() -> None:
    made = forms.new_key(
        typed(
            name="n" * 200, access="some", scopes=" ".join(f"{each:03}" + "s" * 61 for each in range(100)),
            allowed_ips="\n".join(f"2001:db8::{each}/128" for each in range(100)), limit="1000000000",
            window="86400", external_id="e" * 255,
        ),
        now=NOW,
    )  # fmt: skip
    assert (len(made.scopes), len(made.allowed_ips or ())) == (100, 100)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-03-01T10:30", datetime(2027, 3, 1, 10, 30, tzinfo=UTC)),
        ("2027-03-01T10:30:00.000Z", datetime(2027, 3, 1, 10, 30, tzinfo=UTC)),
        ("2027-03-01T10:30:00+02:00", datetime(2027, 3, 1, 8, 30, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", None),
        ("soon", None),
    ],
)
def test_a_date_is_read_in_its_zone(text: str, moment: datetime | None) -> None:
    assert forms.when(text) == moment


@given(st.binary(max_size=400))
def test_any_body_is_a_form_or_a_refusal(body: bytes) -> None:
    try:
        form = forms.read(body)
    except Refusal as refusal:
        assert refusal.code == "invalid_request"
        return
    try:
        forms.new_key(form, now=NOW)
    except FormRefused as refused:
        assert refused.errors


def test_a_body_of_too_many_fields_is_refused() -> None:
    with pytest.raises(Refusal):
        forms.read(b"&".join(b"a=1" for _ in range(forms.MAX_FIELDS + 1)))


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ("name", "name"),
        ("rate_limit.limit", "limit"),
        ("rate_limit.window_seconds", "limit"),
        ("allowed_ips", "allowed_ips"),
        ("Idempotency-Key", ""),
        (None, ""),
    ],
)
def test_a_service_s_word_stands_beside_the_input_it_is_about(field: str | None, place: str) -> None:
    refusal = invalid_request("Not so.", field=field)
    assert forms.errors_of(refusal, forms.KEY_INPUTS) == {place: "Not so."}


KEY = Key(
    id=made_id("key", 1), workspace_id=made_id("ws", 1), name="billing", environment="live",
    scopes=("contacts:read", "keyledger:keys:read"), enabled=True, status="active", created_at=NOW,
    created_by="system", expires_at=NOW + timedelta(days=9), allowed_ips=("192.0.2.1",),
    rate_limit=RateLimit(20, 30), external_id="cust", metadata={"text": "two\nlines", "plan": "pro"},
    secrets=(), version=3,
)  # fmt: skip
BEFORE = forms.filled(view(KEY, Names({}, {})))


def edited(**values: str) -> dict[str, object]:
    many = {**BEFORE.many, "management": BEFORE.all("management")}
    sent = {name: text.replace("\n", "\r\n") for name, text in {**BEFORE.values, **values}.items()}
    return forms.changes(Form(sent, many), BEFORE, now=NOW)


def test_an_edit_that_changes_nothing_sends_nothing() -> None:
    assert edited() == {}


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        ({"name": "invoices"}, {"name": "invoices"}),
        ({"expiry": "never"}, {"expires_at": None}),
        ({"expiry": "7"}, {"expires_at": NOW + timedelta(days=7)}),
        (
            {"expiry": "on", "expires_at": "2027-01-01T00:00Z"},
            {"expires_at": datetime(2027, 1, 1, tzinfo=UTC)},
        ),
        ({"limit": ""}, {"rate_limit": None}),
        ({"window": "60"}, {"rate_limit": RateLimit(20, 60)}),
        ({"allowed_ips": ""}, {"allowed_ips": None}),
        ({"external_id": ""}, {"external_id": None}),
        ({"scopes": "a b"}, {"scopes": ("a", "b", "keyledger:keys:read")}),
        ({"access": "all"}, {"scopes": ("*", "keyledger:keys:read")}),
        ({"metadata": "plan=free"}, {"metadata": {"plan": "free"}}),
    ],
)
def test_an_edit_sends_what_was_touched(values: dict[str, str], changes: dict[str, object]) -> None:
    assert edited(**values) == changes


def test_a_value_of_two_lines_stays_when_it_is_not_touched() -> None:
    """The form cannot hold it; an edit of the name alone must not break it, nor be refused for it."""
    assert edited(name="invoices") == {"name": "invoices"}


def test_an_edit_is_told_all_that_is_wrong_with_what_was_touched() -> None:
    with pytest.raises(FormRefused) as refused:
        edited(allowed_ips="nonsense", limit="0", scopes="A")
    assert set(refused.value.errors) == {"allowed_ips", "limit", "scopes"}


def test_a_management_scope_that_is_unticked_goes() -> None:
    form = Form(BEFORE.values, {})
    assert forms.changes(form, BEFORE, now=NOW) == {"scopes": ("contacts:read",)}
