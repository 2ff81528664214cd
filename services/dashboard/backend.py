"""What the pages need of the key service and the usage service: the port, and what goes in and comes out.

Every call is made with the visitor's own JWT, in the workspace that it names; what the visitor may not see
is a `Refusal` with the contract's code (`not_found`, `insufficient_permissions`, …), its `field` as the
service named it. A service that does not answer is the refusal `unavailable`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias

from msgspec import Struct

from keyledger.client.records import (
    CreatedKey,
    EventPage,
    Key,
    KeyPage,
    MemberPage,
    RateLimitCell,
    RevokedKey,
    RotatedKey,
    UsageSeries,
    Workspace,
)
from keyledger.events import RateLimit, Retire
from services.dashboard.domain.visitor import Visitor

AsOf: TypeAlias = datetime | int
"""A moment, or a position of the log."""
Granularity: TypeAlias = Literal["minute", "hour", "day"]
Resolution: TypeAlias = Granularity | Literal["total"]
Group: TypeAlias = Literal["key", "outcome", "environment"]


class KeyFilter(Struct, frozen=True):
    """Which keys a list shows; what is None or empty filters nothing."""

    search: str = ""
    environment: str | None = None
    status: str | None = None


class NewKey(Struct, frozen=True, kw_only=True):
    """A key to be made."""

    name: str
    environment: str
    scopes: tuple[str, ...] = ("*",)
    expires_at: datetime | None = None
    allowed_ips: tuple[str, ...] | None = None
    rate_limit: RateLimit | None = None
    external_id: str | None = None
    metadata: Mapping[str, str] = {}


class Backend(Protocol):
    """The calls. `once` is the Idempotency-Key: the same one twice makes one thing and one answer."""

    async def keys(
        self, visitor: Visitor, which: KeyFilter, *, cursor: str | None = None, limit: int = 50
    ) -> KeyPage:
        """One page of the keys that fit."""
        ...

    async def key(self, visitor: Visitor, key_id: str, *, as_of: AsOf | None = None) -> Key:
        """One key, now or as it was."""
        ...

    async def create_key(self, visitor: Visitor, new: NewKey, *, once: str) -> CreatedKey:
        """Make a key; its token is in this answer only."""
        ...

    async def change_key(
        self, visitor: Visitor, key_id: str, changes: Mapping[str, Any], *, version: int | None = None
    ) -> Key:
        """Change the given fields (None clears), if the key still is of `version`."""
        ...

    async def rotate_key(
        self, visitor: Visitor, key_id: str, *, overlap_seconds: int, retire: Retire, once: str
    ) -> RotatedKey:
        """Give the key a new secret."""
        ...

    async def revoke_key(
        self, visitor: Visitor, key_id: str, *, reason: str | None, note: str | None, wait: float, once: str
    ) -> RevokedKey:
        """End the key for ever, and wait up to `wait` seconds for the verifiers to say so."""
        ...

    async def events(
        self, visitor: Visitor, key_id: str | None = None, *, newest: bool = True,
        cursor: str | None = None, limit: int = 50,
    ) -> EventPage:  # fmt: skip
        """One page of the history of a key, or of the whole workspace."""
        ...

    async def usage(
        self, visitor: Visitor, key_id: str | None = None, *, start: datetime, end: datetime,
        granularity: Resolution, group_by: Sequence[Group] = (),
    ) -> UsageSeries:  # fmt: skip
        """The uses of a key, or of the whole workspace, from `start` to `end` (exclusive): whole buckets."""
        ...

    async def last_used(self, visitor: Visitor, key_ids: Sequence[str]) -> Mapping[str, datetime | None]:
        """When each of these keys (at most 200) was last used; `unavailable` when that takes a second."""
        ...

    async def rate_limit(self, visitor: Visitor, key_id: str | None = None) -> RateLimitCell:
        """The running cell of the workspace's limit, or of a key's own."""
        ...

    async def workspace(self, visitor: Visitor) -> Workspace:
        """The workspace the visitor is in."""
        ...

    async def workspaces(self, visitor: Visitor) -> Sequence[Workspace]:
        """Those the visitor is a member of, with their `role`; works without being in one."""
        ...

    async def create_workspace(self, visitor: Visitor, name: str, *, once: str) -> Workspace:
        """Make a workspace that the visitor owns; works without being in one."""
        ...

    async def rename_workspace(self, visitor: Visitor, name: str) -> Workspace:
        """Give the workspace another name."""
        ...

    async def members(self, visitor: Visitor, *, cursor: str | None = None, limit: int = 100) -> MemberPage:
        """One page of the workspace's members."""
        ...

    async def set_role(self, visitor: Visitor, user_id: str, role: str) -> None:
        """Change what a member may do."""
        ...

    async def remove_member(self, visitor: Visitor, user_id: str) -> None:
        """Let a member go; oneself, to leave."""
        ...
