"""What a form says of a field at once is never stricter than the key service, which judges it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyledger.errors import Refusal
from keyledger.events import RateLimit
from services.dashboard.pages import fields
from services.keys.domain import values

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
SCOPES = st.lists(st.text("ab*:.-_A0 é", max_size=70), max_size=4)
ADDRESSES = st.lists(
    st.one_of(
        st.ip_addresses().map(str),
        st.tuples(st.ip_addresses(), st.integers(0, 130)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
        st.text("0123.:/%ab", max_size=12),
    ),
    min_size=1,
    max_size=4,
)


def test_the_bounds_are_the_contract_s() -> None:
    assert fields.MAX_NAME == values.MAX_NAME
    assert fields.MAX_SCOPES == values.MAX_SCOPES
    assert fields.MAX_ADDRESSES == values.MAX_NETWORKS
    assert fields.MAX_LIMIT == values.MAX_LIMIT
    assert fields.MAX_OVERLAP_SECONDS == values.MAX_OVERLAP_SECONDS
    assert (fields.MAX_PAIRS, fields.MAX_METADATA_BYTES) == (values.MAX_PAIRS, values.MAX_METADATA_BYTES)


@given(SCOPES)
def test_scopes(given_: list[str]) -> None:
    """Which of those that begin with keyledger: somebody may give is the service's word alone."""
    try:
        values.scopes(given_, system=False)
    except Refusal:
        assert fields.scopes(given_) is not None
    else:
        assert fields.scopes(given_) is None


@given(ADDRESSES)
def test_addresses(given_: list[str]) -> None:
    try:
        values.networks(given_)
    except Refusal:
        assert fields.addresses(given_) is not None
    else:
        assert fields.addresses(given_) is None


@given(st.integers(-1, 10**10), st.integers(-1, 90_000))
def test_limits(limit: int, window: int) -> None:
    try:
        values.rate_limit(RateLimit(limit, window))
    except Refusal:
        assert fields.limit(RateLimit(limit, window)) is not None
    else:
        assert fields.limit(RateLimit(limit, window)) is None


@given(st.text(max_size=210))
def test_names(name: str) -> None:
    """Tab and line feed inside a name are the service's to refuse: a form's line holds neither."""
    plain = name.replace("\t", " ").replace("\n", " ").strip()
    try:
        values.name(plain)
    except Refusal:
        assert fields.name(plain) is not None
    else:
        assert fields.name(plain) is None


@pytest.mark.parametrize(("away", "wrong"), [(-1, True), (0, True), (1, False)])
def test_an_expiry_is_still_to_come(away: int, wrong: bool) -> None:
    assert (fields.expiry(NOW + timedelta(seconds=away), NOW) is not None) is wrong


@pytest.mark.parametrize(
    ("seconds", "wrong"), [(None, True), (0, False), (2_592_000, False), (2_592_001, True)]
)
def test_an_overlap_is_within_thirty_days(seconds: int | None, wrong: bool) -> None:
    assert (fields.overlap(seconds) is not None) is wrong
