"""Signing keys: each is published before it signs and after, and a new one is made in time."""

from hypothesis import given
from hypothesis import strategies as st

from services.dashboard.domain.session import JWT_SECONDS, LEEWAY_SECONDS
from services.dashboard.domain.signing import AHEAD, KEPT, PERIOD, KeyTimes, next_start, published, signing
from services.dashboard.domain.units import SECOND

NOW = 1_800_000_000 * SECOND
A, B = KeyTimes("a", NOW), KeyTimes("b", NOW + PERIOD)


def test_the_first_key_signs_at_once() -> None:
    assert next_start([], NOW) == NOW
    assert signing([], NOW) is None
    assert signing([A], NOW) == A
    assert signing([A], NOW - 1) is None


def test_the_next_key_is_due_an_hour_before_it_signs() -> None:
    assert next_start([A], NOW + PERIOD - AHEAD - 1) is None
    assert next_start([A], NOW + PERIOD - AHEAD) == B.starts_at
    assert next_start([A, B], NOW + PERIOD - AHEAD) is None


def test_a_dashboard_that_was_away_goes_on_with_the_old_key_for_an_hour() -> None:
    late = NOW + 5 * PERIOD
    assert next_start([A], late) == late + AHEAD
    assert signing([A, KeyTimes("c", late + AHEAD)], late) == A


def test_both_are_published_around_the_change() -> None:
    assert published([A, B], B.starts_at - AHEAD) == [A, B]
    assert signing([A, B], B.starts_at - 1) == A
    assert signing([A, B], B.starts_at) == B
    assert published([A, B], B.starts_at + KEPT - 1) == [A, B]
    assert published([A, B], B.starts_at + KEPT) == [B]


def test_what_a_key_signed_is_over_before_the_key_is_gone() -> None:
    assert (JWT_SECONDS + LEEWAY_SECONDS) * SECOND < KEPT


@given(st.lists(st.integers(1, 3 * PERIOD), min_size=1, max_size=40))
def test_whenever_it_is_looked_the_signing_key_has_been_published_for_an_hour(waits: list[int]) -> None:
    keys: list[KeyTimes] = []
    first_seen: dict[str, int] = {}
    now = NOW
    for wait in [0, *waits]:
        now += wait
        start = next_start(keys, now)
        if start is not None:
            keys.append(KeyTimes(f"k{len(keys)}", start))
        for key in published(keys, now):
            first_seen.setdefault(key.kid, now)
        signer = signing(keys, now)
        assert signer in published(keys, now)
        assert signer is not None
        assert signer.kid == "k0" or now - first_seen[signer.kid] >= AHEAD
