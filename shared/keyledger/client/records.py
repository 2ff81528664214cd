"""What the services answer, as typed structs. Fields that a later service adds are ignored.

Times are aware datetimes. A token comes wrapped in `Secret`, so that no repr shows it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from keyledger.events import Environment, Quota, RateLimit
from keyledger.token import Secret


class Workspace(Struct, frozen=True, kw_only=True):
    """A tenant; every one of its keys shares its rate limit."""

    id: str
    name: str
    rate_limit: RateLimit
    suspended: bool
    created_at: datetime
    version: int
    quota: Quota | None = None
    position: int | None = None
    epoch: str | None = None
    role: str | None = None
    """What the user is there, in the list of their own workspaces."""


class WorkspacePage(Struct, frozen=True):
    """Some workspaces, and the cursor of those after them."""

    workspaces: tuple[Workspace, ...]
    next_cursor: str | None = None


class Member(Struct, frozen=True, kw_only=True):
    """Somebody of a workspace. `added_by` is the key (`key_…`) or user who let them in.

    `version` (the workspace's), `position` and `epoch` are there in the answer of a write.
    """

    user: str
    role: str
    since: datetime
    added_by: str
    version: int | None = None
    position: int | None = None
    epoch: str | None = None


class MemberPage(Struct, frozen=True):
    """Some members, those added last first, and the cursor of those after them."""

    members: tuple[Member, ...]
    next_cursor: str | None = None


class RemovedMember(Struct, frozen=True, kw_only=True):
    """A user who is no member any more."""

    user: str
    version: int
    position: int
    epoch: str


class DeletedWorkspace(Struct, frozen=True, kw_only=True):
    """A workspace that was deleted at this position; what was kept of it is being erased."""

    id: str
    position: int
    epoch: str


class SecretHint(Struct, frozen=True, kw_only=True):
    """What may be shown of a secret, and until when it is accepted; None is for as long as the key."""

    hint: str
    created_at: datetime
    valid_until: datetime | None = None


class Key(Struct, frozen=True, kw_only=True):
    """A key, without any secret. `position` and `epoch` are there in the answer of a write."""

    id: str
    workspace_id: str
    name: str
    environment: str
    scopes: tuple[str, ...]
    enabled: bool
    status: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    allowed_ips: tuple[str, ...] | None
    rate_limit: RateLimit | None
    external_id: str | None
    metadata: dict[str, str]
    secrets: tuple[SecretHint, ...]
    version: int
    quota: Quota | None = None
    position: int | None = None
    epoch: str | None = None


class KeyPage(Struct, frozen=True):
    """Some keys, newest first, and the cursor of those after them."""

    keys: tuple[Key, ...]
    next_cursor: str | None = None


class CreatedKey(Key, frozen=True, kw_only=True):
    """A new key with its token, which is told this once."""

    key: Secret


class RotatedKey(CreatedKey, frozen=True, kw_only=True):
    """The same key with a new token; the one before is accepted until `previous_valid_until`."""

    previous_valid_until: datetime | None = None


class ForeignKey(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key that another system made, to be taken over: give exactly one of `sha256` and `plaintext`.

    `sha256` is of the token, in hex or base64; `plaintext` the token itself (at most 100 a call). Both are
    kept as `Secret`.
    """

    name: str
    environment: Environment
    sha256: str | Secret | None = None
    plaintext: str | Secret | None = None
    scopes: tuple[str, ...] = ("*",)
    expires_at: datetime | None = None
    allowed_ips: tuple[str, ...] | None = None
    rate_limit: RateLimit | None = None
    external_id: str | None = None
    metadata: dict[str, str] = {}

    def __post_init__(self) -> None:
        _keep_secret(self, "sha256", "plaintext")


class ImportedKey(Struct, frozen=True, kw_only=True):
    """A key that was taken over, and its place in the request, from 0."""

    index: int
    status: str
    key: Key


class ImportedKeys(Struct, frozen=True, kw_only=True):
    """The keys that were taken over, in the order of the request; where the last of them stands."""

    results: tuple[ImportedKey, ...]
    position: int
    epoch: str


class Applied(Struct, frozen=True):
    """A verifier that refuses the key by now, and how many milliseconds that took."""

    verifier: str
    ms: float


class Receipt(Struct, frozen=True):
    """Who refuses a revoked key already, who does not yet, and when everybody surely does."""

    applied: tuple[Applied, ...] = ()
    pending: tuple[str, ...] = ()
    certain_by: datetime | None = None


class RevokedKey(Key, frozen=True, kw_only=True):
    """The key that is refused from now on; the receipt is there when it was waited for."""

    receipt: Receipt | None = None


class KeyEvent(Struct, frozen=True, kw_only=True):
    """One event of the log, as the history shows it; `stream` is the key or the workspace it is about."""

    position: int
    version: int
    type: str
    at: datetime
    actor: str
    request_id: str
    data: dict[str, Any]
    stream: str | None = None


class EventPage(Struct, frozen=True):
    """Some events in the order that was asked for, and the cursor of those after them."""

    events: tuple[KeyEvent, ...]
    next_cursor: str | None = None


class LogEpoch(Struct, frozen=True):
    """Which telling of the log this is; `line` is in hex."""

    number: int
    line: str


class LogHead(Struct, frozen=True, kw_only=True):
    """The end of the log: everything committed is at this position or before it; `hash` is in hex."""

    epoch: LogEpoch
    position: int
    hash: str
    writable: bool
    nonce: str = ""


class Authorized(Struct, frozen=True, kw_only=True):
    """Who the credential is, and what it may do in this workspace."""

    principal: str
    workspace_id: str
    scopes: tuple[str, ...]


class UsageCount(Struct, frozen=True):
    """How many uses, and how many limit units they cost."""

    count: int
    cost: int


class UsagePoint(UsageCount, frozen=True, kw_only=True):
    """The uses of one bucket; what the series is not grouped by is None.

    `external_id` is the key's at the time of use, None for a key without one, too.
    """

    start: datetime
    key: str | None = None
    outcome: str | None = None
    environment: str | None = None
    external_id: str | None = None


class UsageSeries(Struct, frozen=True, kw_only=True):
    """A whole series, its pages put together. Buckets without uses are left out."""

    series: list[UsagePoint]
    totals: UsageCount
    last_used_at: datetime | None = None


class GrantedPart(Struct, frozen=True):
    """One verifier's part of a cell: what it was given, and what it has told that it let in."""

    verifier: str
    granted: int
    spent: int


class QuotaCell(Struct, frozen=True, kw_only=True):
    """The period of a quota that runs now; `reset` is in unix seconds."""

    period: str
    limit: int
    admitted: int
    granted: int
    remaining: int
    reset: int
    verifiers: tuple[GrantedPart, ...] = ()


class RateLimitCell(Struct, frozen=True, kw_only=True):
    """The cell of a rate limit that runs now; None while nothing was asked of it. `reset` is in unix s."""

    limit: int | None
    window_seconds: int | None
    admitted: int
    granted: int
    remaining: int | None
    reset: int | None
    verifiers: tuple[GrantedPart, ...] = ()
    quota: QuotaCell | None = None


class Check(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a verifier is asked of one presented token, which is kept as `Secret`.

    `min_position` of `epoch` is waited for; `max_staleness` is in seconds. A `cost` of 0 spends nothing.
    """

    key: str | Secret
    scopes: tuple[str, ...] = ()
    environment: str | None = None
    ip: str | None = None
    cost: int = 1
    min_position: int | None = None
    epoch: str | None = None
    max_staleness: float | None = None

    def __post_init__(self) -> None:
        _keep_secret(self, "key")


class LimitState(Struct, frozen=True):
    """The tightest limit of a check; `reset` is in unix seconds."""

    limit: int
    remaining: int
    reset: int


class Verdict(Struct, frozen=True, kw_only=True):
    """A verifier's word on a token; new codes may come. The key's fields are there once it is proven."""

    valid: bool
    code: str
    key_id: str | None = None
    workspace_id: str | None = None
    name: str | None = None
    environment: str | None = None
    scopes: tuple[str, ...] | None = None
    expires_at: datetime | None = None
    metadata: dict[str, str] | None = None
    rate_limit: LimitState | None = None
    position: int | None = None
    age_ms: int | None = None


def _keep_secret(record: Struct, *fields: str) -> None:
    for field in fields:
        if isinstance(text := getattr(record, field), str):
            msgspec.structs.force_setattr(record, field, Secret(text))
