"""The public answer to a presented key: the contract's status, headers and body, in one place.

The gateway and `client.asgi` give the same. A 401 says nothing but that the key is not valid; 200, 403 and
429 tell the tightest limit. One function writes header values, and refuses what would end one.
"""

from __future__ import annotations

from urllib.parse import quote

from msgspec import Struct

from keyledger.clock import SECOND
from keyledger.verification.limits import LimitState
from keyledger.verification.projection import KeyRecord
from keyledger.verification.verdict import (
    DISABLED,
    EXPIRED,
    INSUFFICIENT_PERMISSIONS,
    IP_NOT_ALLOWED,
    MALFORMED,
    NOT_FOUND,
    QUOTA_EXCEEDED,
    RATE_LIMITED,
    REVOKED,
    VALID,
    WORKSPACE_SUSPENDED,
    WRONG_ENVIRONMENT,
    Verdict,
)

CHALLENGE = 'ApiKey realm="keyledger", header="X-API-Key"'
UNAUTHORIZED, FORBIDDEN, TOO_MANY = 401, 403, 429
OUTAGE_RETRY = 5
"""Seconds after which it is worth asking again when nobody grants: a month's quota is not over then."""

_REFUSALS = {
    **dict.fromkeys((MALFORMED, NOT_FOUND, REVOKED, DISABLED, EXPIRED), (UNAUTHORIZED, "invalid_api_key")),
    **dict.fromkeys(
        (WORKSPACE_SUSPENDED, WRONG_ENVIRONMENT, IP_NOT_ALLOWED, INSUFFICIENT_PERMISSIONS),
        (FORBIDDEN, "insufficient_permissions"),
    ),
    RATE_LIMITED: (TOO_MANY, "rate_limit_exceeded"),
    QUOTA_EXCEEDED: (TOO_MANY, "quota_exceeded"),
}
_BREAKS = frozenset("\r\n\0")

Header = tuple[bytes, bytes]


class Answer(Struct, frozen=True):
    """One HTTP answer; header names are in lower case."""

    status: int
    headers: list[Header]
    body: bytes = b""


def header(name: str, value: str) -> Header:
    """One header as bytes. `ValueError` for CR, LF or NUL, or what cannot stand in a header at all."""
    if not _BREAKS.isdisjoint(value):
        raise ValueError(f"the value of {name} would break out of its header")
    return name.encode("ascii"), value.encode("latin-1")


def missing() -> Answer:
    """No key was presented."""
    return _unauthorized("missing_api_key")


def answer(verdict: Verdict, *, now: int) -> Answer:
    """What a client is told of this verdict; `now` is wall time in µs."""
    if verdict.code == VALID and verdict.key is not None:
        headers = [*identity(verdict.key), *limit_headers(verdict.limit, now)]
        return Answer(200, [*headers, *_closing(b"")])
    # a code of the future is a refusal whose reason is nobody's business
    status, code = _REFUSALS.get(verdict.code, (FORBIDDEN, "insufficient_permissions"))
    if status == UNAUTHORIZED:
        return _unauthorized(code)
    headers = limit_headers(verdict.limit, now)
    if status == TOO_MANY and verdict.limit is not None:
        wait = max(1, verdict.limit.reset - now // SECOND)
        headers.append(header("retry-after", str(min(wait, OUTAGE_RETRY) if verdict.limit.outage else wait)))
    return _refused(status, code, headers)


def identity(key: KeyRecord) -> list[Header]:
    """Who is calling, for the protected service; always all of them, so that no forged one gets past."""
    return [
        header("x-workspace-id", key.workspace_id),
        header("x-key-id", key.key_id),
        header("x-key-name", quote(key.name, safe="")),
        header("x-key-environment", key.environment),
        header("x-key-scopes", " ".join(key.scopes)),
    ]


def limit_headers(limit: LimitState | None, now: int) -> list[Header]:
    """The tightest limit, as `X-RateLimit-*` (reset in unix seconds) and as the IETF's fields (in delta)."""
    if limit is None:
        return []
    wait = max(0, limit.reset - now // SECOND)
    return [
        header("x-ratelimit-limit", str(limit.limit)),
        header("x-ratelimit-remaining", str(limit.remaining)),
        header("x-ratelimit-reset", str(limit.reset)),
        header("ratelimit-policy", f'"{limit.policy}";q={limit.limit};w={limit.window}'),
        header("ratelimit", f'"{limit.policy}";r={limit.remaining};t={wait}'),
    ]


def denied_as_403(original: Answer) -> Answer:
    """The answer for gateways that pass on nothing but a 403 (nginx): what was meant is in its headers."""
    if original.status < 400:
        return original
    # JSON is told in ASCII here: it stands in a header
    body = original.body.decode("utf-8").encode("ascii", "replace").decode("ascii")
    meant = [header("x-verify-status", str(original.status)), header("x-verify-body", body)]
    return Answer(FORBIDDEN, [*original.headers, *meant], original.body)


def _unauthorized(code: str) -> Answer:
    return _refused(UNAUTHORIZED, code, [header("www-authenticate", CHALLENGE)])


def _refused(status: int, code: str, headers: list[Header]) -> Answer:
    body = b'{"error":"%s"}' % code.encode()
    return Answer(status, [header("content-type", "application/json"), *headers, *_closing(body)], body)


def _closing(body: bytes) -> list[Header]:
    return [header("cache-control", "no-store"), header("content-length", str(len(body)))]
