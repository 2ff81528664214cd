"""Revoking a key: final, idempotent, and possible for whoever may write keys."""

import pytest

from keyledger.events import KeyRevoked, Reason
from services.keys.domain.principal import KEYS_READ
from tests.support.spec import NOW
from tests.unit.keys.examples import DAY, created, key_spec, revoke, revoked, rotated


def test_a_revoked_key_says_so_for_ever() -> None:
    key = key_spec.given(created(expires_at=NOW + 1)).when(revoke()).then(revoked())
    assert (key.revoked_at, key.version) == (NOW, 2)
    assert key.status(NOW) == key.status(NOW + 1000 * DAY) == "revoked"


def test_the_reason_and_the_note_are_recorded_as_private_text() -> None:
    event = KeyRevoked(private=Reason("leaked", "seen in a log\n\tby Ada"))
    key_spec.given(created()).when(revoke(reason="leaked", note="seen in a log\n\tby Ada")).then(event)
    key_spec.given(created()).when(revoke(note="only this")).then(
        KeyRevoked(private=Reason(note="only this"))
    )


def test_empty_words_are_no_reason() -> None:
    key_spec.given(created()).when(revoke(reason="", note="")).then(revoked())


def test_revoking_twice_records_nothing_new() -> None:
    given = key_spec.given(created(), revoked())
    given.when(revoke(reason="again")).then_nothing()
    given.when(revoke(if_match=2)).then_nothing()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reason", "x" * 201),
        ("reason", "two\nlines"),
        ("note", "x" * 2001),
        ("note", "bell\x07"),
        ("note", "carriage\r\nreturn"),
    ],
)
def test_bad_words_are_refused_even_when_nothing_is_left_to_do(field: str, value: str) -> None:
    command = revoke(**{field: value}, if_match=99)
    key_spec.given(created()).when(command).then_raises("invalid_request", field=field)
    key_spec.given(created(), revoked()).when(command).then_raises("invalid_request", field=field)


def test_the_longest_reason_and_note_are_taken() -> None:
    event = KeyRevoked(private=Reason("x" * 200, "y" * 2000))
    key_spec.given(created()).when(revoke(reason="x" * 200, note="y" * 2000)).then(event)


def test_another_version_than_the_current_one_fails_even_when_it_is_revoked_already() -> None:
    key_spec.given(created(), revoked()).when(revoke(if_match=1)).then_raises(
        "precondition_failed", field="If-Match"
    )


def test_an_unknown_key_is_not_found() -> None:
    key_spec.given().when(revoke()).then_raises("not_found")


def test_a_key_with_more_power_than_the_caller_can_still_be_stopped() -> None:
    """Ending a power takes none; only minting and changing do."""
    key_spec.given(created(scopes=(KEYS_READ,))).when(revoke()).then(revoked())


def test_revoking_leaves_the_record_of_the_secrets_as_it_is() -> None:
    given = key_spec.given(created(), rotated(until=NOW + DAY))
    assert given.state is not None
    assert given.when(revoke()).then(revoked()).secrets == given.state.secrets
