"""Moments, spans, counts, roles and actors in words."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dashboard.pages import moments, words
from services.dashboard.pages.actors import Names, initials, short, users_in
from services.dashboard.ports import Person
from tests.support.dashboard_backend import made_id

ADA = made_id("user", 1)
KEY = made_id("key", 7)


def test_a_moment_is_utc_in_the_markup_whatever_zone_it_came_in() -> None:
    told = moments.moment(datetime(2026, 3, 1, 1, 5, tzinfo=timezone(timedelta(hours=2))))
    assert told.iso == "2026-02-28T23:05:00Z"
    assert told.text == "28 Feb 2026, 23:05 UTC"


FIRST, LAST = datetime(1990, 1, 1), datetime(2200, 1, 1)  # noqa: DTZ001 (bounds come without a zone)


@given(st.datetimes(timezones=st.just(UTC), min_value=FIRST, max_value=LAST))
def test_a_moment_can_be_read_back(at: datetime) -> None:
    assert datetime.fromisoformat(moments.moment(at).iso) == at
    micros = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert moments.at_micros(micros) == at


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "no time"),
        (1, "1 second"),
        (61, "1 minute 1 second"),
        (3_600, "1 hour"),
        (93_784, "1 day 2 hours"),
        (2_592_000, "30 days"),
    ],
)
def test_a_span_has_its_two_largest_units(seconds: int, told: str) -> None:
    assert moments.span(seconds) == told


@pytest.mark.parametrize(
    ("limit", "window", "told"),
    [(1000, 60, "1,000 per minute"), (5, 86_400, "5 per day"), (20, 30, "20 per 30 seconds")],
)
def test_a_limit_is_told_by_its_window(limit: int, window: int, told: str) -> None:
    assert moments.per_window(limit, window) == told


@pytest.mark.parametrize(
    ("role", "grants", "writes", "manages"),
    [
        ("owner", ["owner", "admin", "member", "viewer"], True, True),
        ("admin", ["admin", "member", "viewer"], True, True),
        ("member", [], True, False),
        ("viewer", [], False, False),
        (None, [], False, False),
        ("of a later version", [], False, False),
    ],
)
def test_a_role_is_offered_what_it_may_do(
    role: str | None, grants: list[str], writes: bool, manages: bool
) -> None:
    assert [each.name for each in words.grantable(role)] == grants
    assert words.may_write_keys(role) is writes
    assert words.may_manage(role) is manages


def test_a_key_is_offered_no_scope_that_its_maker_lacks() -> None:
    assert "keyledger:workspace:write" in words.grantable_scopes("owner")
    assert set(words.grantable_scopes("member")) == {
        "keyledger:keys:read", "keyledger:keys:write", "keyledger:usage:read",
    }  # fmt: skip
    assert words.grantable_scopes(None) == {}


def test_an_outcome_or_role_that_is_not_known_speaks_for_itself() -> None:
    assert words.outcome("VALID") == "Allowed"
    assert words.outcome("BRAND_NEW") == "Brand new"
    assert words.role_title("auditor") == "auditor"
    assert words.role_title(None) == "No role"


def test_people_are_called_by_name_and_the_erased_are_former_users() -> None:
    erased = made_id("user", 2)
    names = Names({ADA: Person(ADA, "Ada Lovelace", "a@x"), erased: Person(erased, None, None)}, {})
    assert names.actor(ADA).label == "Ada Lovelace"
    assert names.actor(ADA).initials == "AL"
    assert names.actor(erased).label == "A former user"
    assert names.actor(made_id("user", 3)).label == "A former user"


def test_a_key_that_acts_is_told_by_name_and_led_to_only_when_it_is_known() -> None:
    known = Names({}, {KEY: "deploy"}).actor(KEY)
    assert (known.label, known.href) == ("Key “deploy”", f"/settings/api-keys/{KEY}")
    unknown = Names({}, {}).actor(KEY)
    assert unknown.href is None
    assert short(KEY) in unknown.label
    assert Names({}, {}).actor("system").label == "Keyledger"


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("Ada Lovelace", "AL"),
        ("ada@example.com", "A"),
        ("Plato", "P"),
        ("", "?"),
        ("—", "?"),
        ("ida b. wells", "IW"),
    ],
)
def test_a_person_has_a_mark(name: str, mark: str) -> None:
    assert initials(name) == mark


def test_only_users_are_asked_about_and_each_once() -> None:
    assert users_in([ADA, KEY, "system", ADA, "user_short"]) == [ADA]
