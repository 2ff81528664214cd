"""`/v1/workspaces`: the calls on tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec import UNSET, Struct, UnsetType

from keyledger.client.caller import PAGE, Caller, workspace_path
from keyledger.client.records import DeletedWorkspace, Workspace
from keyledger.events import Quota, RateLimit


class _WorkspacePage(Struct):
    workspaces: list[Workspace]
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
        return await self._caller.call("GET", workspace_path(workspace_id), Workspace)

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
        quota: Quota | None | UnsetType = UNSET,
        if_match: str | None = None,
    ) -> Workspace:
        """Change what is given; not tried again, since a repetition is a change of its own."""
        body = {"name": name, "rate_limit": rate_limit, "suspended": suspended, "quota": quota}
        return await self._caller.call(
            "PATCH", workspace_path(workspace_id), Workspace, body=body, if_match=if_match
        )

    async def delete(self, workspace_id: str, *, if_match: str | None = None) -> DeletedWorkspace:
        """Forget it with all its keys, for ever; needs `keyledger:admin`.

        `not_found` when it is gone already, also by an attempt of this call whose answer was lost.
        """
        path = workspace_path(workspace_id)
        return await self._caller.call("DELETE", path, DeletedWorkspace, if_match=if_match)
