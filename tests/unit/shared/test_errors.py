"""Refusals: stable codes, silent about secrets, the same words for the same answer."""

import pytest

from keyledger import errors
from keyledger.errors import Refusal


@pytest.mark.parametrize(
    ("refusal", "code", "field"),
    [
        (errors.invalid_request("Wrong.", field="name"), "invalid_request", "name"),
        (errors.missing_api_key(), "missing_api_key", None),
        (errors.invalid_api_key(), "invalid_api_key", None),
        (errors.insufficient_permissions("No.", field="scopes"), "insufficient_permissions", "scopes"),
        (errors.not_found(), "not_found", None),
        (errors.conflict("Later."), "conflict", None),
        (errors.key_revoked(), "key_revoked", None),
        (errors.precondition_failed(7), "precondition_failed", "If-Match"),
    ],
)
def test_each_refusal_has_its_stable_code(refusal: Refusal, code: str, field: str | None) -> None:
    assert (refusal.code, refusal.field, refusal.retry_after) == (code, field, None)
    assert refusal.message.endswith(".")
    assert str(refusal) == code


def test_an_absence_says_when_to_ask_again() -> None:
    refusal = errors.unavailable("busy", "Too many.")
    assert (refusal.code, refusal.retry_after) == ("busy", 1)
    assert errors.unavailable("busy", "Too many.", retry_after=9).retry_after == 9


def test_a_failed_precondition_tells_the_current_version() -> None:
    assert "7" in errors.precondition_failed(7).message


def test_a_traceback_shows_the_code_and_not_what_was_sent() -> None:
    refusal = errors.invalid_request("'cvtk_live_token' is no name.", field="name")
    assert "cvtk" not in repr(refusal)
