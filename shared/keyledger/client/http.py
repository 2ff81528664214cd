"""The async client: workspaces, keys and their usage with a management key, and a verifier's answer.

    async with KeyledgerClient("http://localhost:8401", api_key) as keyledger:
        created = await keyledger.keys.create(workspace_id, name="billing", environment="live")

Every call has a timeout and raises `KeyledgerError`. POSTs carry an Idempotency-Key and are tried again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx2
from msgspec import UNSET, Struct, UnsetType

from keyledger.client.caller import Caller, KeyledgerError
from keyledger.client.records import (
    CreatedKey,
    Key,
    KeyEvent,
    RevokedKey,
    RotatedKey,
    UsagePoint,
    UsageSeries,
    Verdict,
    Workspace,
)
from keyledger.events import RateLimit
from keyledger.token import Secret

__all__ = ["KeyledgerClient", "KeyledgerError", "VerifierClient"]

PAGE = 200
T = TypeVar("T")


class KeyledgerClient:
    """The key service, and the usage service when `usage_url` is given; `api_key` is a management key."""

    def __init__(
        self,
        base_url: str,
        api_key: str | Secret,
        *,
        usage_url: str | None = None,
        timeout: float = 5.0,
        attempts: int = 3,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        credential = ("X-API-Key", _secret(api_key))

        def calling(url: str) -> Caller:
            return Caller(url, credential=credential, timeout=timeout, attempts=attempts, transport=transport)

        self._base_url = base_url
        self._callers = [calling(base_url)]
        self.workspaces = Workspaces(self._callers[0])
        self.keys = Keys(self._callers[0])
        if usage_url is not None:
            self._callers.append(calling(usage_url))
        self.usage = Usage(self._callers[1] if usage_url is not None else None)

    def __repr__(self) -> str:
        return f"<KeyledgerClient {self._base_url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        for caller in self._callers:
            await caller.close()


class _WorkspacePage(Struct):
    workspaces: list[Workspace]
    next_cursor: str | None = None


class _KeyPage(Struct):
    keys: list[Key]
    next_cursor: str | None = None


class _EventPage(Struct):
    events: list[KeyEvent]
    next_cursor: str | None = None


class _LastUsed(Struct):
    last_used: dict[str, datetime | None]


class _UsagePage(UsageSeries, kw_only=True, frozen=True):
    next_cursor: str | None = None


class Workspaces:
    """`/v1/workspaces`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def create(self, name: str, *, rate_limit: RateLimit | None = None) -> Workspace:
        """A new workspace; needs `keyledger:admin`."""
        body = {"name": name, "rate_limit": rate_limit or UNSET}
        return await self._caller.call("POST", "/v1/workspaces", Workspace, body=body, idempotent=True)

    async def get(self, workspace_id: str) -> Workspace:
        """One workspace."""
        return await self._caller.call("GET", _at(workspace_id), Workspace)

    async def list(self) -> AsyncIterator[Workspace]:
        """Every workspace, newest first, page by page; needs `keyledger:admin`."""
        cursor: str | None = None
        while True:
            query = {"limit": PAGE, "cursor": cursor}
            page = await self._caller.call("GET", "/v1/workspaces", _WorkspacePage, query=query)
            for workspace in page.workspaces:
                yield workspace
            if (cursor := page.next_cursor) is None:
                return

    async def patch(
        self,
        workspace_id: str,
        *,
        name: str | UnsetType = UNSET,
        rate_limit: RateLimit | UnsetType = UNSET,
        suspended: bool | UnsetType = UNSET,
        if_match: str | None = None,
    ) -> Workspace:
        """Change what is given; not tried again, since a repetition is a change of its own."""
        body = {"name": name, "rate_limit": rate_limit, "suspended": suspended}
        return await self._caller.call("PATCH", _at(workspace_id), Workspace, body=body, if_match=if_match)


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
    ) -> CreatedKey:
        """A new key; its `key` is the token, told this once."""
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
        path = _at(workspace_id, "keys")
        return await self._caller.call("POST", path, CreatedKey, body=body, idempotent=True)

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
        query = {
            "environment": environment, "status": status, "external_id": external_id, "search": search,
            "as_of": as_of, "limit": PAGE,
        }  # fmt: skip
        cursor: str | None = None
        while True:
            page = await self._caller.call(
                "GET", _at(workspace_id, "keys"), _KeyPage, query={**query, "cursor": cursor}
            )
            for key in page.keys:
                yield key
            if (cursor := page.next_cursor) is None:
                return

    async def get(self, workspace_id: str, key_id: str, *, as_of: datetime | int | None = None) -> Key:
        """One key, now or as it was."""
        return await self._caller.call("GET", _at(workspace_id, "keys", key_id), Key, query={"as_of": as_of})

    async def patch(
        self, workspace_id: str, key_id: str, changes: Mapping[str, Any], *, if_match: str | None = None
    ) -> Key:
        """Change the fields in `changes`; None clears where the contract allows it. Not tried again."""
        path = _at(workspace_id, "keys", key_id)
        return await self._caller.call("PATCH", path, Key, body=dict(changes), if_match=if_match)

    async def rotate(
        self, workspace_id: str, key_id: str, *, overlap_seconds: int = 0, retire: str | None = None
    ) -> RotatedKey:
        """A new token for the same key; the one before is accepted for `overlap_seconds` more."""
        body = {"overlap_seconds": overlap_seconds, "retire": retire or UNSET}
        path = _at(workspace_id, "keys", key_id, "rotate")
        return await self._caller.call("POST", path, RotatedKey, body=body, idempotent=True)

    async def revoke(
        self,
        workspace_id: str,
        key_id: str,
        *,
        reason: str | None = None,
        note: str | None = None,
        wait: float | None = None,
    ) -> RevokedKey:
        """Refuse the key for ever; with `wait` (seconds, ≤ 30) the answer says which verifiers do already."""
        body = {"reason": reason or UNSET, "note": note or UNSET, "wait": UNSET if wait is None else wait}
        path = _at(workspace_id, "keys", key_id, "revoke")
        return await self._caller.call(
            "POST", path, RevokedKey, body=body, idempotent=True, extra_time=wait or 0.0
        )

    async def events(
        self, workspace_id: str, key_id: str | None = None, *, after: int = 0
    ) -> AsyncIterator[KeyEvent]:
        """The history of a key, or of the whole workspace, after this position, oldest first."""
        path = _at(workspace_id, "events") if key_id is None else _at(workspace_id, "keys", key_id, "events")
        while True:
            page = await self._caller.call("GET", path, _EventPage, query={"after": after, "limit": PAGE})
            for event in page.events:
                yield event
            if page.next_cursor is None or not page.events:
                return
            after = page.events[-1].position


class Usage:
    """The usage service; every call is a `ValueError` when its client was made without `usage_url`."""

    def __init__(self, caller: Caller | None) -> None:
        self._given = caller

    @property
    def _caller(self) -> Caller:
        if self._given is None:
            raise ValueError("the client was made without usage_url")
        return self._given

    async def series(
        self,
        workspace_id: str,
        key_id: str | None = None,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        granularity: str = "hour",
        group_by: Sequence[str] = (),
    ) -> UsageSeries:
        """The uses of a workspace or a key from `start` to `end` (exclusive), every page of them."""
        path = _at(workspace_id, "usage") if key_id is None else _at(workspace_id, "keys", key_id, "usage")
        query = {"from": start, "to": end, "granularity": granularity, "group_by": tuple(group_by) or None}
        points: list[UsagePoint] = []
        cursor: str | None = None
        while True:
            page = await self._caller.call("GET", path, _UsagePage, query={**query, "cursor": cursor})
            points += page.series
            if (cursor := page.next_cursor) is None:
                return UsageSeries(series=points, totals=page.totals, last_used_at=page.last_used_at)

    async def last_used(self, workspace_id: str, key_ids: Sequence[str]) -> dict[str, datetime | None]:
        """When each of these keys (at most 200) was last used; None for one that never was."""
        query = {"keys": tuple(key_ids)}
        answer = await self._caller.call("GET", _at(workspace_id, "last-used"), _LastUsed, query=query)
        return answer.last_used


class VerifierClient:
    """A verifier; `token` is its X-Verifier-Token, needed beyond loopback."""

    def __init__(
        self,
        base_url: str,
        *,
        token: str | Secret | None = None,
        timeout: float = 1.0,
        attempts: int = 2,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        credential = None if token is None else ("X-Verifier-Token", _secret(token))
        self._caller = Caller(
            base_url, credential=credential, timeout=timeout, attempts=attempts, transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def verify(
        self,
        key: str | Secret,
        *,
        scopes: Sequence[str] = (),
        environment: str | None = None,
        ip: str | None = None,
        cost: int = 1,
        min_position: int | None = None,
        epoch: str | None = None,
        max_staleness: float | None = None,
    ) -> Verdict:
        """Whether this token may do this, now. Spends `cost`, so an attempt that was sent is not repeated."""
        given = {
            "environment": environment, "ip": ip, "min_position": min_position, "epoch": epoch,
            "max_staleness": max_staleness, "scopes": tuple(scopes) or None,
        }  # fmt: skip
        body = {name: value for name, value in given.items() if value is not None}
        body |= {"key": _secret(key), "cost": cost}
        return await self._caller.call("POST", "/v1/verify", Verdict, body=body)

    async def close(self) -> None:
        """Close every connection."""
        await self._caller.close()


def _secret(text: str | Secret) -> Secret:
    return text if isinstance(text, Secret) else Secret(text)


def _at(workspace_id: str, *rest: str) -> str:
    """A path below a workspace; what stands in an id cannot leave its segment."""
    if not {workspace_id, *rest}.isdisjoint((".", "..", "")):
        raise ValueError("not an id")
    return "/v1/workspaces/" + "/".join(quote(part, safe="") for part in (workspace_id, *rest))
