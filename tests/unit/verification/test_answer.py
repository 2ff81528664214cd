"""The public answers: statuses, bodies to the byte, headers that are always or never there."""

from __future__ import annotations

import pytest

from keyledger.clock import SECOND
from keyledger.verification.answer import answer, denied_as_403, header, missing
from keyledger.verification.limits import LimitState
from keyledger.verification.projection import KeyRecord
from keyledger.verification.verdict import CODES, Verdict
from tests.support.followed_log import WORKSPACE, key_id

NOW = 1_000 * SECOND
KEY = KeyRecord(key_id(1), WORKSPACE, "live", "Ünïcode & co/1", ("read", "write"), ())
LIMIT = LimitState("workspace", 10, 0, 1_030, 60)
STATUS = {
    "VALID": (200, b""),
    **dict.fromkeys(CODES[:5], (401, b'{"error":"invalid_api_key"}')),
    **dict.fromkeys(CODES[5:9], (403, b'{"error":"insufficient_permissions"}')),
    "RATE_LIMITED": (429, b'{"error":"rate_limit_exceeded"}'),
    "QUOTA_EXCEEDED": (429, b'{"error":"quota_exceeded"}'),
}
LIMITED = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "ratelimit", "ratelimit-policy")


def headers_of(code: str) -> dict[str, str]:
    told = answer(Verdict(code, KEY, LIMIT), now=NOW)
    return {name.decode(): value.decode() for name, value in told.headers}


@pytest.mark.parametrize("code", CODES)
def test_status_and_body_of_each_code(code: str) -> None:
    told = answer(Verdict(code, KEY, LIMIT), now=NOW)
    assert (told.status, told.body) == STATUS[code]
    assert headers_of(code)["content-length"] == str(len(told.body))
    assert headers_of(code)["cache-control"] == "no-store"


@pytest.mark.parametrize("code", CODES)
def test_limits_are_told_except_to_the_unauthenticated(code: str) -> None:
    told = headers_of(code)
    unauthorized = STATUS[code][0] == 401
    assert all((name in told) is not unauthorized for name in LIMITED)
    assert ("www-authenticate" in told) is unauthorized
    assert ("retry-after" in told) is (STATUS[code][0] == 429)
    assert ("x-key-id" in told) is (code == "VALID")


def test_the_limit_in_every_form() -> None:
    told = headers_of("RATE_LIMITED")
    assert [told[name] for name in LIMITED] == [
        "10",
        "0",
        "1030",
        '"workspace";r=0;t=30',
        '"workspace";q=10;w=60',
    ]
    assert told["retry-after"] == "30"


def test_an_outage_is_over_before_a_months_quota_is() -> None:
    month = LimitState("workspace-quota", 10, 0, 900_000, 2_592_000, outage=True)
    told = answer(Verdict("QUOTA_EXCEEDED", KEY, month), now=NOW)
    assert (b"retry-after", b"5") in told.headers
    assert (b"x-ratelimit-reset", b"900000") in told.headers


def test_retry_after_is_at_least_a_second() -> None:
    told = answer(Verdict("RATE_LIMITED", KEY, LIMIT), now=1_030 * SECOND)
    assert (b"retry-after", b"1") in told.headers


def test_identity_is_always_whole() -> None:
    told = headers_of("VALID")
    assert told["x-key-name"] == "%C3%9Cn%C3%AFcode%20%26%20co%2F1"
    assert told["x-key-scopes"] == "read write"
    bare = answer(Verdict("VALID", KeyRecord(key_id(1), WORKSPACE, "test", "", (), ()), LIMIT), now=NOW)
    assert (b"x-key-scopes", b"") in bare.headers
    assert (b"x-key-name", b"") in bare.headers


def test_no_key_is_told_apart_from_a_bad_one() -> None:
    assert missing().body == b'{"error":"missing_api_key"}'
    assert missing().status == 401


def test_a_code_of_the_future_is_a_refusal() -> None:
    assert answer(Verdict("NEW_CODE", KEY, LIMIT), now=NOW).status == 403


@pytest.mark.parametrize("value", ["a\rb", "a\nb", "a\0b"])
def test_a_value_cannot_end_its_header(value: str) -> None:
    with pytest.raises(ValueError, match="break out"):
        header("x-key-scopes", value)


def test_denied_as_403_says_what_was_meant() -> None:
    told = denied_as_403(answer(Verdict("RATE_LIMITED", KEY, LIMIT), now=NOW))
    assert told.status == 403
    assert (b"x-verify-status", b"429") in told.headers
    assert (b"x-verify-body", b'{"error":"rate_limit_exceeded"}') in told.headers
    assert (b"retry-after", b"30") in told.headers


def test_an_allowed_answer_is_left_alone() -> None:
    told = answer(Verdict("VALID", KEY, LIMIT), now=NOW)
    assert denied_as_403(told) is told
