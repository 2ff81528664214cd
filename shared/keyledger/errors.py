"""Refusals: every expected failure, with the stable code a caller may rely on.

A refusal knows no HTTP; `keyledger.server.problems` holds the one table from code to status. Anything
that is not a `Refusal` is a defect: it becomes `internal_error` and a log line.
"""

from __future__ import annotations


class Refusal(Exception):
    """A request that cannot be granted, for a reason its caller may be told.

    `code` is stable, `message` is for people, `field` names the offending input where there is one,
    `retry_after` is in whole seconds.
    """

    def __init__(
        self, code: str, message: str, *, field: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.field = field
        self.retry_after = retry_after


def invalid_request(message: str, *, field: str | None = None) -> Refusal:
    """The request's own content is wrong; sending it again will not help."""
    return Refusal("invalid_request", message, field=field)


def missing_api_key() -> Refusal:
    """No credential was presented."""
    return Refusal("missing_api_key", "No API key was presented in the X-API-Key header.")


def invalid_api_key() -> Refusal:
    """A credential was presented and is not good; deliberately silent about why."""
    return Refusal("invalid_api_key", "The API key is not valid.")


def invalid_session() -> Refusal:
    """A session token was presented and is not good, or its session is over; silent about why."""
    return Refusal("invalid_api_key", "The session token is not valid.")


def insufficient_permissions(message: str, *, field: str | None = None) -> Refusal:
    """The credential is good, and does not cover what was asked."""
    return Refusal("insufficient_permissions", message, field=field)


def not_found() -> Refusal:
    """Nothing the caller may see is at this address; the same words whatever the reason."""
    return Refusal("not_found", "There is nothing here.")


def conflict(message: str) -> Refusal:
    """The state moved while the command was decided, or forbids it."""
    return Refusal("conflict", message)


def key_revoked() -> Refusal:
    """A revoked key stays revoked and can no longer be changed."""
    return Refusal("key_revoked", "The key is revoked, which is final.")


def precondition_failed(version: int) -> Refusal:
    """`If-Match` names another version than the current one."""
    return Refusal("precondition_failed", f"The current version is {version}.", field="If-Match")


def unavailable(code: str, message: str, *, retry_after: int = 1) -> Refusal:
    """The service cannot answer now, through no fault of the caller."""
    return Refusal(code, message, retry_after=retry_after)
