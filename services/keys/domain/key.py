"""One API key: what may happen to it, and what it becomes.

A key is a lineage: it keeps its id while its secrets come and go. `decide` answers the events a command
causes (none when there is nothing to do); `evolve` folds one recorded event and never refuses.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, TypeVar, assert_never

import msgspec
from msgspec import UNSET, Struct, UnsetType

from keyledger.errors import (
    invalid_request,
    key_revoked,
    not_found,
    precondition_failed,
)
from keyledger.events import (
    Environment,
    KeyChanged,
    KeyCreated,
    KeyEvent,
    KeyImported,
    KeyRevoked,
    KeyRotated,
    KeyText,
    KeyTextChange,
    NewSecret,
    Proof,
    Quota,
    RateLimit,
    Reason,
    Retire,
    SecretDigested,
    SecretRetired,
)
from services.keys.domain import limits, secrets, values
from services.keys.domain.principal import Principal
from services.keys.domain.secrets import Secret

#: Stands for the moment of an event that is not committed yet; the append puts the real one in.
PENDING = -1
_Part = TypeVar("_Part", KeyChanged, KeyTextChange)
Status: TypeAlias = Literal["active", "disabled", "revoked", "expired"]


class Key(Struct, frozen=True, omit_defaults=True):
    """The state of one key. `secrets` are oldest first; the last is the current one."""

    id: str
    workspace_id: str
    environment: Environment
    name: str
    scopes: tuple[str, ...]
    secrets: tuple[Secret, ...]
    created_at: int
    created_by: str
    version: int
    enabled: bool = True
    revoked_at: int | None = None
    expires_at: int | None = None
    allowed_ips: tuple[str, ...] | None = None
    rate_limit: RateLimit | None = None
    external_id: str | None = None
    metadata: dict[str, str] = {}
    quota: Quota | None = None

    def status(self, now: int) -> Status:
        """What the key is at `now`, in the order a verifier looks at it."""
        if self.revoked_at is not None:
            return "revoked"
        if not self.enabled:
            return "disabled"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "active"


class CreateKey(Struct, frozen=True):
    """Make a key. The caller of `decide` mints the id, and the secret unless it is `foreign`."""

    by: Principal
    system: bool
    name: str
    environment: Environment
    secret: NewSecret
    proof: str
    scopes: tuple[str, ...] = ("*",)
    expires_at: int | None = None
    allowed_ips: tuple[str, ...] | None = None
    rate_limit: RateLimit | None = None
    external_id: str | None = None
    metadata: dict[str, str] = {}
    foreign: bool = False
    quota: Quota | None = None


class ChangeKey(Struct, frozen=True):
    """Change some fields; what is UNSET stays."""

    by: Principal
    system: bool
    if_match: int | None = None
    name: str | UnsetType = UNSET
    scopes: tuple[str, ...] | UnsetType = UNSET
    expires_at: int | None | UnsetType = UNSET
    allowed_ips: tuple[str, ...] | None | UnsetType = UNSET
    rate_limit: RateLimit | None | UnsetType = UNSET
    external_id: str | None | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    quota: Quota | None | UnsetType = UNSET


class RotateKey(Struct, frozen=True):
    """Give the key a new secret; the current one ends after the overlap, an older one now."""

    by: Principal
    secret: NewSecret
    proof: str
    overlap_seconds: int = 0
    retire: Retire = "at_overlap"
    if_match: int | None = None


class RevokeKey(Struct, frozen=True):
    """End the key for ever."""

    by: Principal
    reason: str | None = None
    note: str | None = None
    if_match: int | None = None


class RecordDigests(Struct, frozen=True):
    """A secret was proven: record its digests under peppers it had none for."""

    secret: int
    digests: dict[str, bytes]


class RetirePrevious(Struct, frozen=True):
    """The secret of this version was used: end the one before it, if the key was rotated so."""

    used: int


KeyCommand: TypeAlias = CreateKey | ChangeKey | RotateKey | RevokeKey | RecordDigests | RetirePrevious


class Context(Struct, frozen=True):
    """What the envelope says of an event: its stream, tenant, actor and moment (µs, or PENDING)."""

    stream_id: str
    workspace_id: str
    actor: str
    at: int


def decide(command: KeyCommand, key: Key | None, *, now: int) -> list[KeyEvent]:
    """The events this command causes, at most one; an empty list means nothing to do. Raises `Refusal`."""
    match command:
        case CreateKey():
            return [_create(command, now)]
        case ChangeKey():
            return _change(command, _existing(key), now)
        case RotateKey():
            return [_rotate(command, _existing(key), now)]
        case RevokeKey():
            return _revoke(command, _existing(key))
        case RecordDigests():
            return _record_digests(command, _existing(key))
        case RetirePrevious():
            ended = secrets.to_retire(_existing(key).secrets, command.used, now)
            return [] if ended is None else [SecretRetired(ended.version)]
        case _:
            assert_never(command)


def _existing(key: Key | None) -> Key:
    if key is None:
        raise not_found()
    return key


def _changeable(key: Key, if_match: int | None) -> None:
    if if_match is not None and if_match != key.version:
        raise precondition_failed(key.version)
    if key.revoked_at is not None:
        raise key_revoked()


def _create(command: CreateKey, now: int) -> KeyCreated | KeyImported:
    scopes = values.scopes(command.scopes, system=command.system)
    command.by.covers(scopes)
    if command.quota is not None:
        command.by.need_admin("quota")
    kind = KeyImported if command.foreign else KeyCreated
    return kind(
        environment=command.environment,
        scopes=scopes,
        secret=command.secret,
        expires_at=None if command.expires_at is None else values.expiry(command.expires_at, now=now),
        rate_limit=None if command.rate_limit is None else values.rate_limit(command.rate_limit),
        quota=None if command.quota is None else values.quota(command.quota),
        private=KeyText(
            name=values.name(command.name),
            allowed_ips=None if command.allowed_ips is None else values.networks(command.allowed_ips),
            external_id=None if command.external_id is None else values.external_id(command.external_id),
            metadata=values.metadata(command.metadata),
            proof=command.proof,
        ),
    )


def _change(command: ChangeKey, key: Key, now: int) -> list[KeyEvent]:
    command.by.covers(key.scopes)
    scopes = command.scopes
    if scopes is not UNSET:
        scopes = values.scopes(scopes, system=command.system)
        command.by.covers(scopes)
    expires_at = command.expires_at
    if isinstance(expires_at, int):
        values.expiry(expires_at, now=now)
    if command.quota is not UNSET:
        command.by.need_admin("quota")
    if isinstance(command.quota, Quota):
        values.quota(command.quota)
    if isinstance(command.rate_limit, RateLimit):
        values.rate_limit(command.rate_limit)
    wanted = KeyTextChange(
        name=command.name if command.name is UNSET else values.name(command.name),
        allowed_ips=values.networks(command.allowed_ips)
        if isinstance(command.allowed_ips, tuple)
        else command.allowed_ips,
        external_id=values.external_id(command.external_id)
        if isinstance(command.external_id, str)
        else command.external_id,
        metadata=command.metadata if command.metadata is UNSET else values.metadata(command.metadata),
    )
    _changeable(key, command.if_match)
    public = KeyChanged(
        scopes=scopes,
        expires_at=expires_at,
        rate_limit=limits.changed(command.rate_limit, key.rate_limit, now),
        enabled=command.enabled,
        quota=limits.changed_quota(command.quota, key.quota, now),
    )
    public, text = _only_new(public, key), _only_new(wanted, key)
    if text != KeyTextChange():
        return [msgspec.structs.replace(public, private=text)]
    return [public] if public != KeyChanged() else []


def _only_new(change: _Part, key: Key) -> _Part:
    """`change` without what already holds."""
    same = {
        field: UNSET
        for field in change.__struct_fields__
        if field != "private" and getattr(change, field) == getattr(key, field)
    }
    return msgspec.structs.replace(change, **same)


def _rotate(command: RotateKey, key: Key, now: int) -> KeyRotated:
    command.by.covers(key.scopes)
    if not 0 <= command.overlap_seconds <= values.MAX_OVERLAP_SECONDS:
        raise invalid_request(
            f"An overlap is 0 to {values.MAX_OVERLAP_SECONDS} seconds.", field="overlap_seconds"
        )
    if command.retire == "on_first_use" and command.overlap_seconds == 0:
        raise invalid_request(
            "To retire on first use there must be an overlap in which that can happen.",
            field="overlap_seconds",
        )
    _changeable(key, command.if_match)
    until = now + command.overlap_seconds * 1_000_000
    return KeyRotated(
        secret=command.secret,
        previous_valid_until=until if key.expires_at is None else min(until, key.expires_at),
        retire=command.retire,
        private=Proof(command.proof),
    )


def _revoke(command: RevokeKey, key: Key) -> list[KeyEvent]:
    reason = None if command.reason is None else values.text(command.reason, "reason")
    note = None if command.note is None else values.text(command.note, "note", longest=2000, lines=True)
    if command.if_match is not None and command.if_match != key.version:
        raise precondition_failed(key.version)
    if key.revoked_at is not None:
        return []
    return [KeyRevoked(private=Reason(reason, note) if reason or note else None)]


def _record_digests(command: RecordDigests, key: Key) -> list[KeyEvent]:
    for secret in key.secrets:
        new = {name: digest for name, digest in command.digests.items() if name not in secret.digests}
        if secret.version == command.secret and new:
            return [SecretDigested(secret.version, new)]
    return []


def evolve(key: Key | None, event: KeyEvent, context: Context) -> Key:
    """Fold one recorded event into the state. Never refuses: the past happened."""
    if isinstance(event, KeyCreated | KeyImported):
        return _created(event, context)
    assert key is not None, "a key's first event is key_created"  # noqa: S101 — the log's own invariant
    version = key.version + 1
    match event:
        case KeyChanged():
            return _changed(msgspec.structs.replace(key, version=version), event)
        case KeyRotated():
            held = secrets.rotated(key.secrets, event, context.at, version)
            return msgspec.structs.replace(key, version=version, secrets=held)
        case KeyRevoked():
            return msgspec.structs.replace(key, version=version, revoked_at=context.at)
        case SecretDigested():
            held = secrets.digested(key.secrets, event.secret, event.digests)
            return msgspec.structs.replace(key, version=version, secrets=held)
        case SecretRetired():
            held = secrets.retired(key.secrets, event.secret, context.at)
            return msgspec.structs.replace(key, version=version, secrets=held)
        case _:
            assert_never(event)


def _created(event: KeyCreated | KeyImported, context: Context) -> Key:
    text = event.private if isinstance(event.private, KeyText) else KeyText(name="")
    return Key(
        id=context.stream_id,
        workspace_id=context.workspace_id,
        environment=event.environment,
        name=text.name,
        scopes=event.scopes,
        secrets=secrets.first(event.secret, context.at, text.proof, foreign=isinstance(event, KeyImported)),
        created_at=context.at,
        created_by=context.actor,
        version=1,
        expires_at=event.expires_at,
        allowed_ips=text.allowed_ips,
        rate_limit=event.rate_limit,
        external_id=text.external_id,
        metadata=text.metadata,
        quota=event.quota,
    )


def _changed(key: Key, event: KeyChanged) -> Key:
    parts: list[KeyChanged | KeyTextChange] = [event]
    if isinstance(event.private, KeyTextChange):
        parts.append(event.private)
    new = {
        field: getattr(part, field)
        for part in parts
        for field in part.__struct_fields__
        if field != "private" and getattr(part, field) is not UNSET
    }
    return msgspec.structs.replace(key, **new)
