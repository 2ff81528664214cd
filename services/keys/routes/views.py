"""What callers get: explicit structs, so that nothing is shown because it happened to be there."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from keyledger.clock import rfc3339
from keyledger.event_reader import Unknown
from keyledger.events import (
    Epoch,
    EpochStarted,
    Event,
    KeyCreated,
    KeyImported,
    KeyRotated,
    Recorded,
    SecretDigested,
)
from services.keys.domain.key import Key, Status
from services.keys.domain.roles import Member
from services.keys.domain.workspace import Workspace
from services.keys.handlers.receipts import Receipt
from services.keys.routes.limit_views import LimitView, QuotaView, limit_view, quota_view, shown_limit

_MOMENTS = ("expires_at", "previous_valid_until")


class SecretView(Struct, frozen=True):
    """A secret that may still be presented: never more of it than its hint."""

    hint: str
    created_at: str
    valid_until: str | None


class KeyView(Struct, frozen=True, kw_only=True):
    """A key."""

    id: str
    workspace_id: str
    name: str
    environment: str
    scopes: tuple[str, ...]
    enabled: bool
    status: Status
    created_at: str
    created_by: str
    expires_at: str | None
    allowed_ips: tuple[str, ...] | None
    rate_limit: LimitView | None
    external_id: str | None
    metadata: dict[str, str]
    secrets: tuple[SecretView, ...]
    version: int
    quota: QuotaView | UnsetType = UNSET
    """Only there when the key has one."""


class WrittenKeyView(KeyView, frozen=True, kw_only=True):
    """A key after a write, and where in the log that write stands."""

    position: int
    epoch: str


class CreatedKeyView(WrittenKeyView, frozen=True, kw_only=True):
    """A new key with its token, this once."""

    key: str


class RotatedKeyView(CreatedKeyView, frozen=True, kw_only=True):
    """A key with its new token, this once, and the moment the one before it ends."""

    previous_valid_until: str


class AppliedView(Struct, frozen=True):
    """A verifier, and how many ms after the commit it refused."""

    verifier: str
    ms: int


class ReceiptView(Struct, frozen=True):
    """Who refuses by now, who may not yet, and when nobody can accept any more."""

    applied: tuple[AppliedView, ...]
    pending: tuple[str, ...]
    certain_by: str


class RevokedKeyView(WrittenKeyView, frozen=True, kw_only=True, omit_defaults=True):
    """A revoked key; `receipt` when it was waited for."""

    receipt: ReceiptView | None = None


class ImportResultView(Struct, frozen=True):
    """One imported key, and its place in the request."""

    index: int
    status: Literal["created"]
    key: KeyView


class ImportedView(Struct, frozen=True):
    """The imported keys in the order of the request, and where the last of them stands."""

    results: tuple[ImportResultView, ...]
    position: int
    epoch: str


class ProvenView(Struct, frozen=True, omit_defaults=True):
    """Whose secret it is and where its digest stands in the log; or that it is nobody's."""

    proven: bool
    key_id: str | None = None
    position: int | None = None
    epoch: str | None = None


class HoldingView(Struct, frozen=True):
    """A live verifier, and the peppers it holds."""

    verifier: str
    held: tuple[str, ...]


class PeppersView(Struct, frozen=True):
    """The peppers: which is active, which this service holds, which are done with, and who holds what.

    `left` keys have a good secret without a digest under the active pepper.
    """

    active: str
    held: tuple[str, ...]
    retired: tuple[str, ...]
    verifiers: tuple[HoldingView, ...]
    left: int


class RetiredPepperView(Struct, frozen=True):
    """A pepper that is done with."""

    retired: str
    left: int
    position: int
    epoch: str


class KeyListView(Struct, frozen=True):
    """A page of keys."""

    keys: tuple[KeyView, ...]
    next_cursor: str | None


class WorkspaceView(Struct, frozen=True):
    """A workspace, and where in the log its last change stands."""

    id: str
    name: str
    rate_limit: LimitView
    quota: QuotaView | None
    suspended: bool
    created_at: str
    version: int
    position: int
    epoch: str
    role: str | UnsetType = UNSET
    """Only there when a user lists their own: what they are there."""


class MemberView(Struct, frozen=True):
    """Somebody of a workspace; `added_by` is the actor who let them in."""

    user: str
    role: str
    since: str
    added_by: str


class MemberListView(Struct, frozen=True):
    """A page of members, those added last first."""

    members: tuple[MemberView, ...]
    next_cursor: str | None


class WrittenMemberView(Struct, frozen=True):
    """A member after a write; `version` is the workspace's, and so is what `If-Match` names."""

    user: str
    role: str
    since: str
    added_by: str
    version: int
    position: int
    epoch: str


class RemovedMemberView(Struct, frozen=True):
    """A user who is no member any more, and where in the log that stands."""

    user: str
    version: int
    position: int
    epoch: str


class EndedSessionView(Struct, frozen=True):
    """A session whose tokens are refused from now on."""

    session: str


class DeletedWorkspaceView(Struct, frozen=True):
    """A workspace that was deleted at this position; what was kept of it is being erased."""

    id: str
    position: int
    epoch: str


class WorkspaceListView(Struct, frozen=True):
    """A page of workspaces."""

    workspaces: tuple[WorkspaceView, ...]
    next_cursor: str | None


class EventView(Struct, frozen=True):
    """An event as people may read it: no digest, no proof.

    `stream` is the key or workspace that it is about, where the address does not say that.
    """

    position: int
    version: int
    type: str
    at: str
    actor: str
    request_id: str
    data: dict[str, Any]
    stream: str | UnsetType = UNSET


class EventListView(Struct, frozen=True):
    """A page of events."""

    events: tuple[EventView, ...]
    next_cursor: str | None


class AuthorizedView(Struct, frozen=True):
    """The credential may do what was asked; with the limits of the named key, or workspace, if asked for."""

    principal: str
    workspace_id: str
    scopes: tuple[str, ...]
    rate_limit: LimitView | None | UnsetType = UNSET
    quota: QuotaView | None | UnsetType = UNSET


def key_fields(key: Key, now: int) -> dict[str, Any]:
    """The fields of a `KeyView`."""
    return {
        "id": key.id,
        "workspace_id": key.workspace_id,
        "name": key.name,
        "environment": key.environment,
        "scopes": key.scopes,
        "enabled": key.enabled,
        "status": key.status(now),
        "created_at": rfc3339(key.created_at),
        "created_by": key.created_by,
        "expires_at": _moment(key.expires_at),
        "allowed_ips": key.allowed_ips,
        "rate_limit": limit_view(key.rate_limit),
        "external_id": key.external_id,
        "metadata": key.metadata,
        "secrets": tuple(
            SecretView(secret.hint, rfc3339(secret.created_at), _moment(secret.valid_until))
            for secret in key.secrets
            if secret.valid(now)
        ),
        "version": key.version,
        "quota": quota_view(key.quota) or UNSET,
    }


def workspace_view(
    workspace: Workspace, position: int, epoch: Epoch, role: str | UnsetType = UNSET
) -> WorkspaceView:
    """A workspace as callers get it."""
    return WorkspaceView(
        workspace.id,
        workspace.name,
        shown_limit(workspace.rate_limit),
        quota_view(workspace.quota),
        workspace.suspended,
        rfc3339(workspace.created_at),
        workspace.version,
        position,
        epoch.text,
        role,
    )


def member_fields(user: str, member: Member) -> dict[str, Any]:
    """The fields of a `MemberView`."""
    return {
        "user": user,
        "role": member.role,
        "since": rfc3339(member.since),
        "added_by": member.added_by,
    }


def receipt_view(receipt: Receipt) -> ReceiptView:
    """A receipt as callers get it."""
    return ReceiptView(
        tuple(AppliedView(applied.verifier, applied.ms) for applied in receipt.applied),
        receipt.pending,
        rfc3339(receipt.certain_by),
    )


def event_view(recorded: Recorded, event: Event | Unknown, *, told: bool = False) -> EventView:
    """An event as callers get it, with its stream if that is `told`.

    Of one that this code does not know there is only the envelope.
    """
    return EventView(
        recorded.position,
        recorded.version,
        recorded.type,
        rfc3339(recorded.at),
        recorded.actor,
        recorded.request_id,
        {} if isinstance(event, Unknown) else _event_data(event),
        recorded.stream_id if told else UNSET,
    )


def _event_data(event: Event) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(event)
    private = data.pop("private", None)
    if isinstance(private, dict):
        data |= private
    data.pop("proof", None)
    if isinstance(event, KeyCreated | KeyImported | KeyRotated):
        data["secret"] = {"hint": event.secret.hint}
    if isinstance(event, SecretDigested):
        data = {"secret": event.secret, "peppers": sorted(event.digests)}
    if isinstance(event, EpochStarted):
        data["line"] = event.line.hex()
    for field in _MOMENTS:
        if isinstance(data.get(field), int):
            data[field] = rfc3339(data[field])
    return data


def _moment(micros: int | None) -> str | None:
    return None if micros is None else rfc3339(micros)
