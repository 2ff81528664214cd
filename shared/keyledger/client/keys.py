"""`/v1/workspaces/{ws}/keys`: the calls on keys, and the history of both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import UNSET

from keyledger.client.caller import PAGE, Caller, workspace_path
from keyledger.client.records import (
    CreatedKey,
    EventPage,
    ForeignKey,
    ImportedKeys,
    Key,
    KeyEvent,
    KeyPage,
    RevokedKey,
    RotatedKey,
)
from keyledger.events import RateLimit, Retire

SECONDS_PER_FOREIGN_KEY = 0.1


class Keys:
    """`/v1/workspaces/{ws}/keys`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def create(
        self,
        workspace_id: str,
        *,
        name: str,
        environment: str,
        scopes: Sequence[str] = ("*",),
        expires_at: datetime | None = None,
        allowed_ips: Sequence[str] | None = None,
        rate_limit: RateLimit | None = None,
        external_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> CreatedKey:
        """A new key; its `key` is the token, told this once.

        The same `idempotency_key` twice makes one key and the same answer; without one, it is made here.
        """
        body = {
            "name": name,
            "environment": environment,
            "scopes": tuple(scopes),
            "expires_at": expires_at or UNSET,
            "allowed_ips": UNSET if allowed_ips is None else tuple(allowed_ips),
            "rate_limit": rate_limit or UNSET,
            "external_id": UNSET if external_id is None else external_id,
            "metadata": UNSET if metadata is None else dict(metadata),
        }
        path = workspace_path(workspace_id, "keys")
        idempotent = idempotency_key or True
        return await self._caller.call("POST", path, CreatedKey, body=body, idempotent=idempotent)

    async def page(
        self,
        workspace_id: str,
        *,
        environment: str | None = None,
        status: str | None = None,
        external_id: str | None = None,
        search: str | None = None,
        as_of: datetime | int | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> KeyPage:
        """At most `limit` (≤ 200) keys that fit, newest first, from a cursor of the same question on."""
        query = {
            "environment": environment, "status": status, "external_id": external_id, "search": search,
            "as_of": as_of, "limit": limit, "cursor": cursor,
        }  # fmt: skip
        return await self._caller.call("GET", workspace_path(workspace_id, "keys"), KeyPage, query=query)

    async def list(
        self,
        workspace_id: str,
        *,
        environment: str | None = None,
        status: str | None = None,
        external_id: str | None = None,
        search: str | None = None,
        as_of: datetime | int | None = None,
    ) -> AsyncIterator[Key]:
        """Every key that fits, newest first, page by page."""
        cursor: str | None = None
        while True:
            page = await self.page(
                workspace_id,
                environment=environment,
                status=status,
                external_id=external_id,
                search=search,
                as_of=as_of,
                limit=PAGE,
                cursor=cursor,
            )
            for key in page.keys:
                yield key
            if (cursor := page.next_cursor) is None:
                return

    async def get(self, workspace_id: str, key_id: str, *, as_of: datetime | int | None = None) -> Key:
        """One key, now or as it was."""
        return await self._caller.call(
            "GET", workspace_path(workspace_id, "keys", key_id), Key, query={"as_of": as_of}
        )

    async def patch(
        self, workspace_id: str, key_id: str, changes: Mapping[str, Any], *, if_match: str | None = None
    ) -> Key:
        """Change the fields in `changes`; None clears where the contract allows it. Not tried again."""
        path = workspace_path(workspace_id, "keys", key_id)
        return await self._caller.call("PATCH", path, Key, body=dict(changes), if_match=if_match)

    async def rotate(
        self,
        workspace_id: str,
        key_id: str,
        *,
        overlap_seconds: int = 0,
        retire: Retire | None = None,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> RotatedKey:
        """A new token for the same key; the one before is accepted for `overlap_seconds` more.

        With `retire="on_first_use"` it ends at the new one's first use, if that comes sooner.
        """
        body = {"overlap_seconds": overlap_seconds, "retire": retire or UNSET}
        path = workspace_path(workspace_id, "keys", key_id, "rotate")
        return await self._caller.call(
            "POST", path, RotatedKey, body=body, idempotent=idempotency_key or True, if_match=if_match
        )

    async def revoke(
        self,
        workspace_id: str,
        key_id: str,
        *,
        reason: str | None = None,
        note: str | None = None,
        wait: float | None = None,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> RevokedKey:
        """Refuse the key for ever; with `wait` (seconds, ≤ 30) the answer says which verifiers do already."""
        body = {"reason": reason or UNSET, "note": note or UNSET, "wait": UNSET if wait is None else wait}
        path = workspace_path(workspace_id, "keys", key_id, "revoke")
        return await self._caller.call(
            "POST",
            path,
            RevokedKey,
            body=body,
            idempotent=idempotency_key or True,
            if_match=if_match,
            extra_time=wait or 0.0,
        )

    async def import_foreign(self, workspace_id: str, keys: Sequence[ForeignKey]) -> ImportedKeys:
        """Take over keys that another system made, at most 1,000: all of them, or none.

        Each token is proven slowly once, so the call may take some seconds more for each hundred.
        """
        path = workspace_path(workspace_id, "keys", "import")
        return await self._caller.call(
            "POST",
            path,
            ImportedKeys,
            body={"keys": tuple(keys)},
            idempotent=True,
            extra_time=SECONDS_PER_FOREIGN_KEY * len(keys),
        )

    async def events(
        self, workspace_id: str, key_id: str | None = None, *, after: int = 0
    ) -> AsyncIterator[KeyEvent]:
        """The history of a key, or of the whole workspace, after this position, oldest first."""
        path = _events_path(workspace_id, key_id)
        while True:
            page = await self._caller.call("GET", path, EventPage, query={"after": after, "limit": PAGE})
            for event in page.events:
                yield event
            if page.next_cursor is None or not page.events:
                return
            after = page.events[-1].position

    async def events_page(
        self,
        workspace_id: str,
        key_id: str | None = None,
        *,
        newest_first: bool = False,
        limit: int = 50,
        cursor: str | None = None,
    ) -> EventPage:
        """At most `limit` (≤ 200) events of a key, or the workspace, from a cursor of this order on."""
        order = "newest" if newest_first else "oldest"
        query = {"order": order, "limit": limit, "cursor": cursor}
        return await self._caller.call("GET", _events_path(workspace_id, key_id), EventPage, query=query)


def _events_path(workspace_id: str, key_id: str | None) -> str:
    if key_id is None:
        return workspace_path(workspace_id, "events")
    return workspace_path(workspace_id, "keys", key_id, "events")
