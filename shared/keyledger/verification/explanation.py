"""Why a key is let in or refused: each step of the decision in the contract's order, and what it looked at.

The verdict comes from the same functions that `judge` asks, so what is explained is what is decided. The
secret counts as proven, and limits are looked at, never spent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

from msgspec import Struct

from keyledger.errors import invalid_request
from keyledger.verification.limits import QUOTAS, Limits, LimitState, beyond, tightest
from keyledger.verification.projection import KeyRecord, SecretRecord, WorkspaceRecord
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
    Needs,
    code_of,
    covers,
    demands,
    ended,
    known,
    refusal,
)

Outcome: TypeAlias = Literal["passed", "refused", "skipped"]
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = 1_000_000


class Step(Struct, frozen=True):
    """One check, the code that it refuses with, how it went, and what it looked at, for people."""

    check: str
    code: str
    outcome: Outcome
    detail: str


class Explanation(Struct, frozen=True):
    """The verdict's code, and every step that led to it. `limit` is the tightest one, if it was looked at."""

    code: str
    steps: tuple[Step, ...]
    limit: LimitState | None = None

    @property
    def refused_by(self) -> str | None:
        """The check that refused; None for a key that is let in."""
        return next((step.check for step in self.steps if step.outcome == "refused"), None)


class Case(Struct, frozen=True):
    """A key with one of its secrets, what is asked of it, and the moment (µs) at which it is."""

    key: KeyRecord
    secret: SecretRecord
    workspace: WorkspaceRecord
    needs: Needs
    now: int


def chosen(secrets: Sequence[SecretRecord], version: int | None) -> SecretRecord:
    """The secret of this version, or the newest; `invalid_request` when the key has no such one."""
    for secret in secrets:
        if version is None or secret.version == version:
            return secret
    raise invalid_request("The key has no secret of that version.", field="secret")


def explain(case: Case, limits: Limits | None) -> Explanation:
    """Explain a case; without `limits`, as for a moment that is past, they are left out.

    Refuses with `cost_exceeds_limit` as `judge` does.
    """
    code, limit = _decided(case, limits)
    steps: list[Step] = []
    refused = False
    for check, refuses_with, detail in _CHECKS:
        told = detail(case, limit)
        outcome: Outcome = "passed" if told else "skipped"
        if refused:
            outcome, told = "skipped", "Not reached."
        elif refuses_with == code and not (check == "revoked" and not case.key.revoked):
            # two checks refuse with REVOKED: the key's own state is looked at before its secret's
            outcome, refused = "refused", True
        steps.append(Step(check, refuses_with, outcome, told or _LEFT_OUT[check]))
    return Explanation(code, tuple(steps), limit)


def _decided(case: Case, limits: Limits | None) -> tuple[str, LimitState | None]:
    if not known(case.key, case.workspace):
        return NOT_FOUND, None
    code = refusal(case.key, case.secret, case.workspace, case.needs, case.now)
    if code is not None or limits is None:
        return code or VALID, None
    asked, cost = demands(case.key, case.workspace), case.needs.cost
    for demand in asked:
        if cost > demand.limit:
            raise beyond(demand)
    # of rate limits and of quotas the tightest has the least left: what fits there fits in all of them
    rates = limits.spend([demand for demand in asked if demand.policy not in QUOTAS], 0, case.now).tightest
    quotas = [demand for demand in asked if demand.policy in QUOTAS]
    if not quotas or (cost and rates.remaining < cost):
        return code_of(rates) if cost and rates.remaining < cost else VALID, rates
    quota = limits.spend(quotas, 0, case.now).tightest
    if cost and quota.remaining < cost:
        return code_of(quota), quota
    return VALID, tightest([rates, quota])


def _key(case: Case, _: LimitState | None) -> str:
    if case.key.unreadable:
        return "Something of the key's history cannot be read here."
    if case.workspace.unreadable:
        return "Something of the workspace's history cannot be read here."
    return "The key and its workspace are known."


def _nothing(_case: Case, _limit: LimitState | None) -> None:
    """Nothing is looked at here."""


def _revoked(case: Case, _: LimitState | None) -> str:
    return "The key is revoked." if case.key.revoked else "The key is not revoked."


def _secret(case: Case, _: LimitState | None) -> str:
    until, which = case.secret.valid_until, f"The secret of version {case.secret.version}"
    if until is None:
        return f"{which} has no end."
    return f"{which} {'ended' if ended(case.secret, case.now) else 'is good until'} {_time(until)}."


def _expiry(case: Case, _: LimitState | None) -> str:
    until = case.key.expires_at
    if until is None:
        return "The key does not expire."
    return f"The key {'expired' if until <= case.now else 'expires'} {_time(until)}."


def _environment(case: Case, _: LimitState | None) -> str:
    asked = " and ".join(case.needs.environments)
    return f"The key is for {case.key.environment}; {f'{asked} is asked for' if asked else 'any will do'}."


def _ip(case: Case, _: LimitState | None) -> str:
    allowed = case.key.allowed_ips
    if allowed is None:
        return "The key may be used from anywhere."
    return f"Allowed are {_listed(allowed)}; the address is {case.needs.ip or 'not told'}."


def _scopes(case: Case, _: LimitState | None) -> str:
    missing = [scope for scope in case.needs.scopes if not covers(case.key.scopes, scope)]
    told = f"The key has {_listed(case.key.scopes)}; asked for are {_listed(case.needs.scopes)}"
    return f"{told}; missing: {_listed(missing)}." if missing else f"{told}."


def _rate_limit(case: Case, limit: LimitState | None) -> str | None:
    if limit is None:
        return None
    if limit.policy in QUOTAS:
        return "The rate limits have more left than the quota."
    return _left(case, limit)


def _quota(case: Case, limit: LimitState | None) -> str | None:
    return _left(case, limit) if limit is not None and limit.policy in QUOTAS else None


def _left(case: Case, limit: LimitState) -> str:
    return (
        f"{limit.remaining} of {limit.limit} are left to the {limit.policy} until "
        f"{_time(limit.reset * SECOND)}; the cost is {case.needs.cost}."
    )


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words) or "none"


def _time(micros: int) -> str:
    try:
        return (_UNIX_EPOCH + timedelta(microseconds=micros)).isoformat().replace("+00:00", "Z")
    except OverflowError:
        return "beyond the year 9999"


_CHECKS: tuple[tuple[str, str, Callable[[Case, LimitState | None], str | None]], ...] = (
    ("token", MALFORMED, _nothing),
    ("key", NOT_FOUND, _key),
    ("revoked", REVOKED, _revoked),
    ("secret", REVOKED, _secret),
    ("enabled", DISABLED, lambda case, _: f"The key is {'enabled' if case.key.enabled else 'disabled'}."),
    ("expiry", EXPIRED, _expiry),
    (
        "workspace",
        WORKSPACE_SUSPENDED,
        lambda case, _: f"The workspace is {'suspended' if case.workspace.suspended else 'not suspended'}.",
    ),
    ("environment", WRONG_ENVIRONMENT, _environment),
    ("ip", IP_NOT_ALLOWED, _ip),
    ("scopes", INSUFFICIENT_PERMISSIONS, _scopes),
    ("rate_limit", RATE_LIMITED, _rate_limit),
    ("quota", QUOTA_EXCEEDED, _quota),
)
_LEFT_OUT = {
    "token": "No token is given: the secret counts as proven.",
    "rate_limit": "What was spent then is not kept.",
    "quota": "There is no quota, or the rate limits have less left.",
}
CHECKS = tuple(check for check, _, _ in _CHECKS)
"""The checks in the order in which they are made."""
