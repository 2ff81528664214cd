"""What events say of a key: which of them lies behind a refusal, and what it and its workspace once were.

The events are those that the key service tells people: without digests, with times as RFC 3339.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from keyledger.events import TAGS, RateLimit
from keyledger.verification.projection import KeyRecord, SecretRecord, WorkspaceRecord


class Happened(Struct, frozen=True):
    """One event of a key or its workspace; `at` and the times in `data` are µs."""

    position: int
    version: int
    type: str
    at: int
    actor: str
    request_id: str
    data: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Happened({self.type} at {self.position})"


class End(Struct, frozen=True):
    """When (µs) a secret ends, and the event that says so."""

    at: int
    event: Happened


History: TypeAlias = Sequence[Happened]
_CREATED = ("key_created", "key_imported")


def cause(check: str, policy: str | None, secret: int, key: History, workspace: History) -> Happened | None:
    """The event that made this check refuse; None when none of these did.

    `policy` is whose limit was the tightest, `secret` the version of the secret that was looked at.
    """
    if check == "secret":
        end = ends(key).get(secret)
        return None if end is None else end.event
    if check == "key":
        return _last(key, lambda event: event.type not in TAGS) or _last(
            workspace, lambda event: event.type not in TAGS
        )
    if check == "rate_limit" and policy == "workspace":
        return _last(workspace, lambda event: "rate_limit" in event.data)
    if check == "workspace":
        return _last(workspace, lambda event: event.data.get("suspended") is True)
    made = _MADE.get(check)
    return None if made is None else _last(key, made)


_MADE: dict[str, Callable[[Happened], bool]] = {
    "revoked": lambda event: event.type == "key_revoked",
    "enabled": lambda event: event.data.get("enabled") is False,
    "expiry": lambda event: "expires_at" in event.data,
    "environment": lambda event: event.type in _CREATED,
    "ip": lambda event: "allowed_ips" in event.data,
    "scopes": lambda event: "scopes" in event.data,
    "rate_limit": lambda event: "rate_limit" in event.data,
}


def ends(key: History) -> dict[int, End]:
    """When each secret that has an end ends, by its version."""
    found: dict[int, End] = {}
    newest: int | None = None

    def end(version: int, at: int, event: Happened) -> None:
        if version not in found or at < found[version].at:
            found[version] = End(at, event)

    for event in key:
        if event.type in _CREATED:
            newest = event.version
        elif event.type == "key_rotated":
            for version in [version for version in _secrets(key) if version < event.version]:
                end(version, event.data["previous_valid_until"] if version == newest else event.at, event)
            newest = event.version
        elif event.type == "secret_retired":
            end(event.data["secret"], event.at, event)
    return found


def secrets_of(key: History) -> tuple[SecretRecord, ...]:
    """The key's secrets without their digests, newest first."""
    ended = ends(key)
    return tuple(
        SecretRecord({}, ended[version].at if version in ended else None, version)
        for version in reversed(_secrets(key))
    )


def workspace_of(workspace_id: str, workspace: History) -> WorkspaceRecord | None:
    """What the workspace was; None before it was created."""
    found: WorkspaceRecord | None = None
    for event in workspace:
        limit = event.data.get("rate_limit")
        if event.type == "workspace_created":
            found = WorkspaceRecord(workspace_id, "", msgspec.convert(limit, RateLimit))
        elif found is not None:
            found = msgspec.structs.replace(
                found,
                rate_limit=found.rate_limit if limit is None else msgspec.convert(limit, RateLimit),
                suspended=event.data.get("suspended", found.suspended),
                unreadable=found.unreadable or event.type not in TAGS,
            )
    return found


def unreadable(record: KeyRecord, key: History) -> KeyRecord:
    """The record, closed when something of its history cannot be read."""
    return msgspec.structs.replace(record, unreadable=any(event.type not in TAGS for event in key))


def _secrets(key: History) -> list[int]:
    return [event.version for event in key if event.type in (*_CREATED, "key_rotated")]


def _last(events: History, wanted: Callable[[Happened], bool]) -> Happened | None:
    return next((event for event in reversed(events) if wanted(event)), None)
