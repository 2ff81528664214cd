"""Fold the key log into what a check needs: one record per key, one per workspace.

The past happened, so nothing here refuses or raises. An event that cannot be read costs the one key (or
workspace) it is about: the record becomes unreadable, and an unreadable record proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from keyledger.events import (
    KeyChanged,
    KeyCreated,
    KeyEvent,
    KeyRevoked,
    KeyRotated,
    KeyText,
    KeyTextChange,
    RateLimit,
    Unknown,
    WorkspaceChanged,
    WorkspaceCreated,
    WorkspaceEvent,
    WorkspaceText,
    decode,
)
from keyledger.wire import Followed

KEPT_SECRETS = 64
"""Retired secrets keep their digests, so that whoever holds one is told REVOKED; the newest so many."""


class SecretRecord(Struct, frozen=True, gc=False):
    """One secret: its digests by pepper id; `valid_until` in µs, None while nothing has ended it."""

    digests: Mapping[str, bytes]
    valid_until: int | None = None

    def __repr__(self) -> str:
        return f"SecretRecord(valid_until={self.valid_until})"


class KeyRecord(Struct, frozen=True):
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

    def __repr__(self) -> str:
        # names, metadata and digests are nobody's business in a log
        return f"KeyRecord({self.key_id}, version {self.version})"


class WorkspaceRecord(Struct, frozen=True):
    """What a check knows about one workspace."""

    workspace_id: str
    name: str
    rate_limit: RateLimit
    suspended: bool = False
    unreadable: bool = False

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
    `unreadable`: why the event could not be read.
    """

    key: KeyRecord | None = None
    workspace: WorkspaceRecord | None = None
    denies: bool = False
    unreadable: str | None = None


NOTHING = Change()


def change(view: View, followed: Followed) -> Change:
    """What this event does to the view. Never raises for content; the caller applies positions in order."""
    event = decode(followed.type, followed.schema_version, followed.data)
    if isinstance(event, Unknown):
        return _closed(view, followed, event.why)
    if isinstance(event, KeyCreated | KeyChanged | KeyRotated | KeyRevoked):
        return _key_change(view.get(followed.stream_id), event, followed)
    if isinstance(event, WorkspaceCreated | WorkspaceChanged):
        return _workspace_change(view.workspace(followed.stream_id), event, followed)
    # an event of another kind of stream, which no check depends on
    return NOTHING


def carry_over(old: KeyRecord, new: KeyRecord) -> KeyRecord:
    """`new`, refusing whatever `old` refused: denials survive when the log is told anew.

    Revoked stays revoked; disabled and the end of a secret hold until the new telling says otherwise.
    """
    ended = {
        digest: secret.valid_until
        for secret in old.secrets
        if secret.valid_until is not None
        for digest in secret.digests.values()
    }
    return replace(
        new,
        revoked=old.revoked or new.revoked,
        enabled=old.enabled and new.enabled,
        unreadable=old.unreadable or new.unreadable,
        secrets=tuple(_ended_as_before(secret, ended) for secret in new.secrets),
    )


def denies_something(record: KeyRecord) -> bool:
    """Whether `carry_over` of this record could change anything."""
    return record.revoked or record.unreadable or not record.enabled or len(record.secrets) > 1


def _closed(view: View, followed: Followed, why: str) -> Change:
    if (record := view.get(followed.stream_id)) is not None:
        closed = replace(record, unreadable=True, version=followed.version)
        return Change(key=closed, denies=True, unreadable=why)
    if (workspace := view.workspace(followed.stream_id)) is not None:
        return Change(workspace=replace(workspace, unreadable=True), denies=True, unreadable=why)
    return Change(unreadable=why)


def _key_change(record: KeyRecord | None, event: KeyEvent, followed: Followed) -> Change:
    if isinstance(event, KeyCreated):
        return _created(record, event, followed)
    if record is None:
        # its creation could not be read: without a record it stays refused
        return Change(unreadable="the key is not known")
    if isinstance(event, KeyChanged):
        changed = _changed(record, event)
    elif isinstance(event, KeyRotated):
        changed = _rotated(record, event, followed.at)
    else:
        changed = replace(record, revoked=True)
    why = "its text is sealed" if changed.unreadable and not record.unreadable else None
    return Change(key=replace(changed, version=followed.version), denies=True, unreadable=why)


def _created(record: KeyRecord | None, event: KeyCreated, followed: Followed) -> Change:
    if record is not None:
        # a key is created once; a second time means the log is not what it was
        closed = replace(record, unreadable=True, version=followed.version)
        return Change(key=closed, denies=True, unreadable="created twice")
    # sealed or destroyed text may have held allowed_ips: the key is refused rather than widened
    text = event.private if isinstance(event.private, KeyText) else None
    created = KeyRecord(
        key_id=followed.stream_id,
        workspace_id=followed.workspace_id,
        environment=event.environment,
        name=text.name if text else "",
        scopes=event.scopes,
        secrets=(SecretRecord(event.secret.digests),),
        expires_at=event.expires_at,
        allowed_ips=text.allowed_ips if text else None,
        rate_limit=event.rate_limit,
        external_id=text.external_id if text else None,
        metadata=text.metadata if text else {},
        unreadable=text is None,
        version=followed.version,
    )
    return Change(key=created, unreadable=None if text else "its text is sealed")


def _changed(record: KeyRecord, event: KeyChanged) -> KeyRecord:
    text = event.private if isinstance(event.private, KeyTextChange) else KeyTextChange()
    return replace(
        record,
        scopes=record.scopes if event.scopes is UNSET else event.scopes,
        expires_at=record.expires_at if event.expires_at is UNSET else event.expires_at,
        rate_limit=record.rate_limit if event.rate_limit is UNSET else event.rate_limit,
        enabled=record.enabled if event.enabled is UNSET else event.enabled,
        **_text_changes(text),
        unreadable=record.unreadable or isinstance(event.private, bytes),
    )


def _text_changes(text: KeyTextChange) -> dict[str, object]:
    return {name: value for name, value in msgspec.structs.asdict(text).items() if value is not UNSET}


def _rotated(record: KeyRecord, event: KeyRotated, at: int) -> KeyRecord:
    newest, older = record.secrets[:1], record.secrets[1:]
    secrets = (
        SecretRecord(event.secret.digests),
        *(_ended(secret, event.previous_valid_until) for secret in newest),
        *(_ended(secret, at) for secret in older),
    )
    return replace(record, secrets=secrets[:KEPT_SECRETS])


def _ended(secret: SecretRecord, at: int) -> SecretRecord:
    if secret.valid_until is not None and secret.valid_until <= at:
        return secret
    return replace(secret, valid_until=at)


def _ended_as_before(secret: SecretRecord, ended: Mapping[bytes, int]) -> SecretRecord:
    ends = [ended[digest] for digest in secret.digests.values() if digest in ended]
    return _ended(secret, min(ends)) if ends else secret


def _workspace_change(record: WorkspaceRecord | None, event: WorkspaceEvent, followed: Followed) -> Change:
    text = event.private if isinstance(event.private, WorkspaceText) else WorkspaceText()
    if isinstance(event, WorkspaceCreated):
        name = "" if text.name is UNSET else text.name
        return Change(workspace=WorkspaceRecord(followed.stream_id, name, event.rate_limit))
    if record is None:
        return Change(unreadable="the workspace is not known")
    changed = replace(
        record,
        name=record.name if text.name is UNSET else text.name,
        rate_limit=record.rate_limit if event.rate_limit is UNSET else event.rate_limit,
        suspended=record.suspended if event.suspended is UNSET else event.suspended,
    )
    return Change(workspace=changed, denies=True)
