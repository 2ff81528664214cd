"""The usage service: what was used when, and by which key."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from keyledger.client.caller import Caller, workspace_path
from keyledger.client.records import RateLimitCell, UsagePoint, UsageSeries


class _LastUsed(Struct):
    last_used: dict[str, datetime | None]


class _UsagePage(UsageSeries, kw_only=True, frozen=True):
    next_cursor: str | None = None


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
        path = (
            workspace_path(workspace_id, "usage")
            if key_id is None
            else workspace_path(workspace_id, "keys", key_id, "usage")
        )
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
        answer = await self._caller.call(
            "GET", workspace_path(workspace_id, "last-used"), _LastUsed, query=query
        )
        return answer.last_used

    async def rate_limit(self, workspace_id: str, key_id: str | None = None) -> RateLimitCell:
        """The cell that runs now of the workspace's rate limit and quota, or of a key's own."""
        path = (
            workspace_path(workspace_id, "rate-limit")
            if key_id is None
            else workspace_path(workspace_id, "keys", key_id, "rate-limit")
        )
        return await self._caller.call("GET", path, RateLimitCell)
