"""Fold the key log into what a check needs: one record per key, one per workspace.

The past happened, so nothing here refuses or raises. An event that cannot be read costs the one key (or
workspace) it is about: the record becomes unreadable, and an unreadable record proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, assert_never

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from keyledger.event_reader import Unknown
from keyledger.events import (
    EpochAccepted,
    EpochEvent,
    EpochStarted,
    KeyChanged,
    KeyCreated,
    KeyEvent,
    KeyImported,
    KeyRevoked,
    KeyRotated,
    KeyText,
    KeyTextChange,
    LostDenial,
    MemberEvent,
    PepperEvent,
    Quota,
    RateLimit,
    SecretDigested,
    SecretRetired,
    WorkspaceCreated,
    WorkspaceDeleted,
    WorkspaceEvent,
    WorkspaceText,
    decode,
)
from keyledger.wire import Followed

KEPT_SECRETS = 64
"""Retired secrets keep their digests, so that whoever holds one is told REVOKED; the newest so many."""


class SecretRecord(Struct, frozen=True, gc=False):
    """One secret: its digests by pepper id; `valid_until` in µs, None while nothing has ended it.

    `version` is that of the event which recorded it, and names it. `foreign`: another system's token, known
    by its SHA-256. `on_first_use`: its first use ends the one before it.
    """

    digests: Mapping[str, bytes]
    valid_until: int | None = None
    version: int = 1
    foreign: bool = False
    on_first_use: bool = False

    def __repr__(self) -> str:
        return f"SecretRecord(valid_until={self.valid_until})"


class KeyRecord(Struct, frozen=True, gc=False):
    """What a check knows about one key. `secrets` are newest first; times are µs."""

    key_id: str
    workspace_id: str
    environment: str
    name: str
    scopes: tuple[str, ...]
    secrets: tuple[SecretRecord, ...]
    expires_at: int | None = None
    allowed_ips: tuple[str, ...] | None = None
    rate_limit: RateLimit | None = None
    external_id: str | None = None
    metadata: Mapping[str, str] = {}
    enabled: bool = True
    revoked: bool = False
    unreadable: bool = False
    version: int = 1
    quota: Quota | None = None

    def __repr__(self) -> str:
        # names, metadata and digests are nobody's business in a log
        return f"KeyRecord({self.key_id}, version {self.version})"


class WorkspaceRecord(Struct, frozen=True, gc=False):
    """What a check knows about one workspace; of a deleted one only that, so that it stays deleted."""

    workspace_id: str
    name: str
    rate_limit: RateLimit
    suspended: bool = False
    unreadable: bool = False
    deleted: bool = False
    quota: Quota | None = None

    def __repr__(self) -> str:
        return f"WorkspaceRecord({self.workspace_id})"


class View(Protocol):
    """The records so far."""

    def get(self, key_id: str) -> KeyRecord | None:
        """The key's record, or None when no such key was ever created."""
        ...

    def workspace(self, workspace_id: str) -> WorkspaceRecord | None:
        """The workspace's record, or None."""
        ...


class Change(Struct, frozen=True):
    """What one event does to the view: the record to put in its place, if any.

    `denies`: it may take away what was allowed, so the key service is told when it is applied.
    `unreadable`: why the event could not be read. `found_by`: digests by which the key is found from now on.
    `gone`: the workspace all of whose keys' records are to be dropped. `lost` lies over the records from now
    on, until `accepted` takes all of it away up to that epoch.
    """

    key: KeyRecord | None = None
    workspace: WorkspaceRecord | None = None
    denies: bool = False
    unreadable: str | None = None
    found_by: tuple[bytes, ...] = ()
    gone: str | None = None
    lost: tuple[LostDenial, ...] = ()
    accepted: int | None = None


NOTHING = Change()


def change(view: View, followed: Followed) -> Change:
    """What this event does to the view. Never raises for content; the caller applies positions in order."""
    workspace = view.workspace(followed.workspace_id)
    if workspace is not None and workspace.deleted:
        return Change(unreadable="its workspace is deleted")
    event = decode(followed.type, followed.schema_version, followed.data)
    if isinstance(event, Unknown):
        return _closed(view, followed, event.why)
    if isinstance(event, KeyEvent):
        return _key_change(view.get(followed.stream_id), event, followed)
    if isinstance(event, WorkspaceEvent):
        return _workspace_change(view.workspace(followed.stream_id), event, followed)
    return _log_change(event)


def _log_change(event: MemberEvent | PepperEvent | EpochEvent) -> Change:
    """What an event does that is not about what a key may do."""
    match event:
        case EpochStarted():
            return Change(denies=True, lost=event.lost)
        case EpochAccepted():
            return Change(accepted=event.number)
        case _:
            # members and peppers, which no check depends on
            return NOTHING


def deleted(workspace_id: str) -> WorkspaceRecord:
    """What stays of a deleted workspace."""
    return WorkspaceRecord(workspace_id, "", RateLimit(1, 1), deleted=True)


def _closed(view: View, followed: Followed, why: str) -> Change:
    if (record := view.get(followed.stream_id)) is not None:
        closed = replace(record, unreadable=True, version=followed.version)
        return Change(key=closed, denies=True, unreadable=why)
    if (workspace := view.workspace(followed.stream_id)) is not None:
        return Change(workspace=replace(workspace, unreadable=True), denies=True, unreadable=why)
    return Change(unreadable=why)


def _key_change(record: KeyRecord | None, event: KeyEvent, followed: Followed) -> Change:
    if isinstance(event, KeyCreated | KeyImported):
        return _created(record, event, followed)
    if record is None:
        # its creation could not be read: without a record it stays refused
        return Change(unreadable="the key is not known")
    match event:
        case KeyChanged():
            changed = _changed(record, event)
        case KeyRotated():
            changed = _rotated(record, event, followed)
        case KeyRevoked():
            changed = replace(record, revoked=True)
        case SecretDigested():
            return _digested(record, event, followed.version)
        case SecretRetired():
            changed = _retired(record, event, followed.at)
        case _:
            assert_never(event)
    why = "its text is sealed" if changed.unreadable and not record.unreadable else None
    return Change(key=replace(changed, version=followed.version), denies=True, unreadable=why)


def _created(record: KeyRecord | None, event: KeyCreated | KeyImported, followed: Followed) -> Change:
    if record is not None:
        # a key is created once; a second time means the log is not what it was
        closed = replace(record, unreadable=True, version=followed.version)
        return Change(key=closed, denies=True, unreadable="created twice")
    # sealed or destroyed text may have held allowed_ips: the key is refused rather than widened
    text = event.private if isinstance(event.private, KeyText) else None
    foreign = isinstance(event, KeyImported)
    created = KeyRecord(
        key_id=followed.stream_id,
        workspace_id=followed.workspace_id,
        environment=event.environment,
        name=text.name if text else "",
        scopes=event.scopes,
        secrets=(SecretRecord(event.secret.digests, foreign=foreign),),
        expires_at=event.expires_at,
        allowed_ips=text.allowed_ips if text else None,
        rate_limit=event.rate_limit,
        external_id=text.external_id if text else None,
        metadata=text.metadata if text else {},
        unreadable=text is None,
        version=followed.version,
        quota=event.quota,
    )
    found_by = tuple(event.secret.digests.values()) if foreign else ()
    return Change(key=created, unreadable=None if text else "its text is sealed", found_by=found_by)


def _changed(record: KeyRecord, event: KeyChanged) -> KeyRecord:
    text = event.private if isinstance(event.private, KeyTextChange) else KeyTextChange()
    return replace(
        record,
        scopes=record.scopes if event.scopes is UNSET else event.scopes,
        expires_at=record.expires_at if event.expires_at is UNSET else event.expires_at,
        rate_limit=record.rate_limit if event.rate_limit is UNSET else event.rate_limit,
        enabled=record.enabled if event.enabled is UNSET else event.enabled,
        quota=record.quota if event.quota is UNSET else event.quota,
        **_text_changes(text),
        unreadable=record.unreadable or isinstance(event.private, bytes),
    )


def _text_changes(text: KeyTextChange) -> dict[str, object]:
    return {name: value for name, value in msgspec.structs.asdict(text).items() if value is not UNSET}


def _rotated(record: KeyRecord, event: KeyRotated, followed: Followed) -> KeyRecord:
    newest, older = record.secrets[:1], record.secrets[1:]
    on_first_use = event.retire == "on_first_use"
    secrets = (
        SecretRecord(event.secret.digests, version=followed.version, on_first_use=on_first_use),
        *(_ended(secret, event.previous_valid_until) for secret in newest),
        *(_ended(secret, followed.at) for secret in older),
    )
    return replace(record, secrets=secrets[:KEPT_SECRETS])


def _digested(record: KeyRecord, event: SecretDigested, version: int) -> Change:
    known = {secret.version: secret for secret in record.secrets}
    secret = known.get(event.secret)
    if secret is None:
        return Change(key=replace(record, version=version))
    known[event.secret] = replace(secret, digests={**secret.digests, **event.digests})
    found_by = tuple(event.digests.values()) if secret.foreign else ()
    digested = replace(record, secrets=tuple(known.values()), version=version)
    return Change(key=digested, found_by=found_by)


def _retired(record: KeyRecord, event: SecretRetired, at: int) -> KeyRecord:
    secrets = tuple(
        _ended(secret, at) if secret.version == event.secret else secret for secret in record.secrets
    )
    return replace(record, secrets=secrets)


def _ended(secret: SecretRecord, at: int) -> SecretRecord:
    if secret.valid_until is not None and secret.valid_until <= at:
        return secret
    return replace(secret, valid_until=at)


def _workspace_change(record: WorkspaceRecord | None, event: WorkspaceEvent, followed: Followed) -> Change:
    if isinstance(event, WorkspaceDeleted):
        return Change(workspace=deleted(followed.stream_id), gone=followed.stream_id, denies=True)
    text = event.private if isinstance(event.private, WorkspaceText) else WorkspaceText()
    if isinstance(event, WorkspaceCreated):
        name = "" if text.name is UNSET else text.name
        return Change(
            workspace=WorkspaceRecord(followed.stream_id, name, event.rate_limit, quota=event.quota)
        )
    if record is None:
        return Change(unreadable="the workspace is not known")
    changed = replace(
        record,
        name=record.name if text.name is UNSET else text.name,
        rate_limit=record.rate_limit if event.rate_limit is UNSET else event.rate_limit,
        suspended=record.suspended if event.suspended is UNSET else event.suspended,
        quota=record.quota if event.quota is UNSET else event.quota,
    )
    return Change(workspace=changed, denies=True)
