"""Rotating a key: it keeps its identity, the old secret ends after the overlap, at most two are good."""

import pytest

from keyledger.clock import SECOND
from services.keys.domain.principal import KEYS_READ
from services.keys.domain.secrets import KEPT_SECRETS
from tests.support.spec import NOW
from tests.unit.keys.examples import (
    HOUR,
    OPERATOR,
    changed,
    created,
    key_spec,
    revoked,
    rotate,
    rotated,
    secret,
)

MONTH_SECONDS = 30 * 86_400


def test_without_an_overlap_the_old_secret_ends_at_once() -> None:
    key = key_spec.given(created()).when(rotate()).then(rotated(until=NOW))
    assert [one.hint for one in key.secrets if one.valid(NOW)] == [secret(2).hint]
    assert key.secrets[1].proof == "$proof2"
    assert key.secrets[1].created_at == NOW
    assert (key.id, key.version) == (key_spec.context.stream_id, 2)


def test_with_an_overlap_both_secrets_are_good_until_it_ends() -> None:
    key = key_spec.given(created()).when(rotate(overlap_seconds=3600)).then(rotated(until=NOW + HOUR))
    assert [one.valid(NOW + HOUR - 1) for one in key.secrets] == [True, True]
    assert [one.valid(NOW + HOUR) for one in key.secrets] == [False, True]


def test_the_overlap_never_reaches_beyond_the_end_of_the_key() -> None:
    given = key_spec.given(created(expires_at=NOW + 90 * SECOND))
    given.when(rotate(overlap_seconds=3600)).then(rotated(until=NOW + 90 * SECOND))
    given.when(rotate(overlap_seconds=89)).then(rotated(until=NOW + 89 * SECOND))


def test_rotating_again_ends_the_oldest_now_and_gives_the_newer_its_own_overlap() -> None:
    given = key_spec.given(created(), rotated(2, until=NOW + HOUR))
    key = given.when(rotate(3, overlap_seconds=60)).then(rotated(3, until=NOW + 60 * SECOND))
    assert [one.valid(NOW) for one in key.secrets] == [False, True, True]
    assert [one.valid(NOW - 1) for one in key.secrets] == [True, True, True]
    assert [one.valid(NOW + 60 * SECOND) for one in key.secrets] == [False, False, True]


def test_a_secret_that_was_dropped_stays_dropped_at_its_own_moment() -> None:
    given = key_spec.given(created(), rotated(2, until=NOW + HOUR), rotated(3, until=NOW + HOUR))
    assert given.state is not None
    dropped = given.state.secrets[0]
    key = given.when(rotate(4)).then(rotated(4, until=NOW))
    assert key.secrets[0] == dropped
    assert [one.valid(NOW) for one in key.secrets] == [False, False, False, True]


def test_retiring_on_first_use_is_recorded_for_the_verifiers() -> None:
    command = rotate(overlap_seconds=3600, retire="on_first_use")
    key_spec.given(created()).when(command).then(rotated(until=NOW + HOUR, retire="on_first_use"))


def test_retiring_on_first_use_needs_an_overlap_in_which_it_can_happen() -> None:
    command = rotate(retire="on_first_use", if_match=99)
    key_spec.given(created()).when(command).then_raises("invalid_request", field="overlap_seconds")


@pytest.mark.parametrize("seconds", [-1, MONTH_SECONDS + 1])
def test_an_overlap_is_at_most_thirty_days(seconds: int) -> None:
    command = rotate(overlap_seconds=seconds, if_match=99)
    key_spec.given(created()).when(command).then_raises("invalid_request", field="overlap_seconds")


def test_an_overlap_of_exactly_thirty_days_will_do() -> None:
    command = rotate(overlap_seconds=MONTH_SECONDS)
    key_spec.given(created()).when(command).then(rotated(until=NOW + MONTH_SECONDS * SECOND))


def test_another_version_than_the_current_one_fails() -> None:
    given = key_spec.given(created())
    given.when(rotate(if_match=2)).then_raises("precondition_failed", field="If-Match")
    given.when(rotate(if_match=1)).then(rotated(until=NOW))


def test_a_revoked_key_gets_no_new_secret() -> None:
    key_spec.given(created(), revoked()).when(rotate()).then_raises("key_revoked")


def test_a_disabled_key_may_be_rotated_and_stays_disabled() -> None:
    key = key_spec.given(created(), changed(enabled=False)).when(rotate()).then(rotated(until=NOW))
    assert key.status(NOW) == "disabled"


def test_an_unknown_key_is_not_found() -> None:
    key_spec.given().when(rotate()).then_raises("not_found")


def test_nobody_rotates_a_key_that_can_do_what_they_cannot() -> None:
    """The new token would be theirs, and with it the power."""
    given = key_spec.given(created(scopes=(KEYS_READ,)))
    given.when(rotate(overlap_seconds=-1)).then_raises("insufficient_permissions", field="scopes")
    given.when(rotate(by=OPERATOR)).then(rotated(until=NOW))


def test_retired_secrets_are_remembered_up_to_a_bound_and_the_newest_always() -> None:
    past = [rotated(number, until=NOW - HOUR) for number in range(2, KEPT_SECRETS + 10)]
    key = key_spec.given(created(), *past).state
    assert key is not None
    assert len(key.secrets) == KEPT_SECRETS
    assert key.secrets[-1].hint == past[-1].secret.hint
    assert key.version == len(past) + 1
