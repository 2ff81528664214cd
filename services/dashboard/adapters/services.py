"""The key service and the usage service, called by their public contract with the visitor's own JWT."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import httpx2

from keyledger.client.http import KeyledgerClient, KeyledgerError
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
from keyledger.errors import Refusal, not_found
from keyledger.events import Retire
from services.dashboard.backend import AsOf, Group, KeyFilter, NewKey, Resolution
from services.dashboard.domain.visitor import Visitor

SECONDS = 5.0
ATTEMPTS = 2
SECONDS_ASIDE = 1.0
"""For what a page is shown without when it does not come: one attempt of a second."""
T = TypeVar("T")


class Services:
    """Implements `Backend`. The connections are shared, the credential is each call's own."""

    def __init__(
        self, keys_url: str, usage_url: str, *, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self._client = KeyledgerClient(
            keys_url, usage_url=usage_url, timeout=SECONDS, attempts=ATTEMPTS, transport=transport
        )
        self._aside = KeyledgerClient(
            keys_url, usage_url=usage_url, timeout=SECONDS_ASIDE, attempts=1, transport=transport
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
        await self._aside.close()

    async def keys(
        self, visitor: Visitor, which: KeyFilter, *, cursor: str | None = None, limit: int = 50
    ) -> KeyPage:
        return await _told(
            self._as(visitor).keys.page(
                _in(visitor),
                environment=which.environment,
                status=which.status,
                search=which.search or None,
                limit=limit,
                cursor=cursor,
            )
        )

    async def key(self, visitor: Visitor, key_id: str, *, as_of: AsOf | None = None) -> Key:
        return await _told(self._as(visitor).keys.get(_in(visitor), key_id, as_of=as_of))

    async def create_key(self, visitor: Visitor, new: NewKey, *, once: str) -> CreatedKey:
        return await _told(
            self._as(visitor).keys.create(
                _in(visitor),
                name=new.name,
                environment=new.environment,
                scopes=new.scopes,
                expires_at=new.expires_at,
                allowed_ips=new.allowed_ips,
                rate_limit=new.rate_limit,
                external_id=new.external_id,
                metadata=new.metadata,
                idempotency_key=once,
            )
        )

    async def change_key(
        self, visitor: Visitor, key_id: str, changes: Mapping[str, Any], *, version: int | None = None
    ) -> Key:
        return await _told(
            self._as(visitor).keys.patch(_in(visitor), key_id, changes, if_match=_etag(version))
        )

    async def rotate_key(
        self, visitor: Visitor, key_id: str, *, overlap_seconds: int, retire: Retire, once: str
    ) -> RotatedKey:
        return await _told(
            self._as(visitor).keys.rotate(
                _in(visitor), key_id, overlap_seconds=overlap_seconds, retire=retire, idempotency_key=once
            )
        )

    async def revoke_key(
        self, visitor: Visitor, key_id: str, *, reason: str | None, note: str | None, wait: float, once: str
    ) -> RevokedKey:
        return await _told(
            self._as(visitor).keys.revoke(
                _in(visitor), key_id, reason=reason, note=note, wait=wait, idempotency_key=once
            )
        )

    async def events(
        self, visitor: Visitor, key_id: str | None = None, *, newest: bool = True,
        cursor: str | None = None, limit: int = 50,
    ) -> EventPage:  # fmt: skip
        return await _told(
            self._as(visitor).keys.events_page(
                _in(visitor), key_id, newest_first=newest, limit=limit, cursor=cursor
            )
        )

    async def usage(
        self, visitor: Visitor, key_id: str | None = None, *, start: datetime, end: datetime,
        granularity: Resolution, group_by: Sequence[Group] = (),
    ) -> UsageSeries:  # fmt: skip
        return await _told(
            self._as(visitor).usage.series(
                _in(visitor), key_id, start=start, end=end, granularity=granularity, group_by=group_by
            )
        )

    async def last_used(self, visitor: Visitor, key_ids: Sequence[str]) -> Mapping[str, datetime | None]:
        aside = self._aside.acting_for(visitor.jwt)
        return await _told(aside.usage.last_used(_in(visitor), key_ids))

    async def rate_limit(self, visitor: Visitor, key_id: str | None = None) -> RateLimitCell:
        return await _told(self._as(visitor).usage.rate_limit(_in(visitor), key_id))

    async def workspace(self, visitor: Visitor) -> Workspace:
        return await _told(self._as(visitor).workspaces.get(_in(visitor)))

    async def workspaces(self, visitor: Visitor) -> Sequence[Workspace]:
        async def every() -> list[Workspace]:
            return [workspace async for workspace in self._as(visitor).workspaces.list()]

        return await _told(every())

    async def create_workspace(self, visitor: Visitor, name: str, *, once: str) -> Workspace:
        return await _told(self._as(visitor).workspaces.create(name, idempotency_key=once))

    async def rename_workspace(self, visitor: Visitor, name: str) -> Workspace:
        return await _told(self._as(visitor).workspaces.patch(_in(visitor), name=name))

    async def members(self, visitor: Visitor, *, cursor: str | None = None, limit: int = 100) -> MemberPage:
        return await _told(self._as(visitor).members.page(_in(visitor), limit=limit, cursor=cursor))

    async def set_role(self, visitor: Visitor, user_id: str, role: str) -> None:
        client, workspace_id = self._as(visitor), _in(visitor)
        # PUT would add who is no member (any more): only the state that was looked at is changed
        workspace = await _told(client.workspaces.get(workspace_id))
        await _told(client.members.get(workspace_id, user_id))
        await _told(client.members.put(workspace_id, user_id, role, if_match=_etag(workspace.version)))

    async def remove_member(self, visitor: Visitor, user_id: str) -> None:
        await _told(self._as(visitor).members.remove(_in(visitor), user_id))

    def _as(self, visitor: Visitor) -> KeyledgerClient:
        return self._client.acting_for(visitor.jwt)


def _in(visitor: Visitor) -> str:
    """The workspace the visitor is in; without one there is nothing to see."""
    if visitor.workspace_id is None:
        raise not_found()
    return visitor.workspace_id


def _etag(version: int | None) -> str | None:
    return None if version is None else f'"{version}"'


async def _told(call: Awaitable[T]) -> T:
    """The answer, or the service's refusal as one of our own."""
    try:
        return await call
    except KeyledgerError as error:
        if error.status == 0 or error.code == "unreadable" or error.status >= 500:
            code, message = "unavailable", "The service behind this page does not answer just now."
        else:
            code, message = error.code, error.message
        after = None if error.retry_after is None else round(error.retry_after)
        refusal = Refusal(code, message, field=error.field, retry_after=after)
    # outside the except block: what the driver knew of the request ends there
    raise refusal
