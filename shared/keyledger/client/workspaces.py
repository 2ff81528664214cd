"""`/v1/workspaces`: the calls on tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec import UNSET, UnsetType

from keyledger.client.caller import PAGE, Caller, workspace_path
from keyledger.client.records import DeletedWorkspace, Workspace, WorkspacePage
from keyledger.events import Quota, RateLimit


class Workspaces:
    """`/v1/workspaces`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def create(
        self, name: str, *, rate_limit: RateLimit | None = None, idempotency_key: str | None = None
    ) -> Workspace:
        """A new workspace. A user owns it then, and cannot set its limit; a key needs `keyledger:admin`.

        The same `idempotency_key` twice makes one and the same answer; without one, it is made here.
        """
        body = {"name": name, "rate_limit": rate_limit or UNSET}
        return await self._caller.call(
            "POST", "/v1/workspaces", Workspace, body=body, idempotent=idempotency_key or True
        )

    async def get(self, workspace_id: str) -> Workspace:
        """One workspace."""
        return await self._caller.call("GET", workspace_path(workspace_id), Workspace)

    async def page(self, *, limit: int = 50, cursor: str | None = None) -> WorkspacePage:
        """At most `limit` (≤ 200) workspaces, newest first, from a cursor on; whose, as for `list`."""
        query = {"limit": limit, "cursor": cursor}
        return await self._caller.call("GET", "/v1/workspaces", WorkspacePage, query=query)

    async def list(self) -> AsyncIterator[Workspace]:
        """A user's own workspaces, with their `role`; with `keyledger:admin` every one. Newest first."""
        cursor: str | None = None
        while True:
            page = await self.page(limit=PAGE, cursor=cursor)
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
