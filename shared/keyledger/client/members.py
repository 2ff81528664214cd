"""`/v1/workspaces/{ws}/members`: who belongs to a workspace, and what they may do there."""

from __future__ import annotations

from collections.abc import AsyncIterator

from keyledger.client.caller import PAGE, Caller, workspace_path
from keyledger.client.records import Member, MemberPage, RemovedMember


class Members:
    """`/v1/workspaces/{ws}/members`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def page(self, workspace_id: str, *, limit: int = 50, cursor: str | None = None) -> MemberPage:
        """At most `limit` (≤ 200) members, those added last first, from a cursor on."""
        path = workspace_path(workspace_id, "members")
        return await self._caller.call("GET", path, MemberPage, query={"limit": limit, "cursor": cursor})

    async def list(self, workspace_id: str) -> AsyncIterator[Member]:
        """Every member, those added last first, page by page."""
        cursor: str | None = None
        while True:
            page = await self.page(workspace_id, limit=PAGE, cursor=cursor)
            for member in page.members:
                yield member
            if (cursor := page.next_cursor) is None:
                return

    async def get(self, workspace_id: str, user_id: str) -> Member:
        """One member; `not_found` when the user is none."""
        return await self._caller.call("GET", workspace_path(workspace_id, "members", user_id), Member)

    async def put(self, workspace_id: str, user_id: str, role: str, *, if_match: str | None = None) -> Member:
        """Add the user with this role, or give a member this role instead; `if_match` is the workspace's.

        `insufficient_permissions` for a role above the caller's own, `conflict` for the last owner.
        """
        path = workspace_path(workspace_id, "members", user_id)
        return await self._caller.call("PUT", path, Member, body={"role": role}, if_match=if_match)

    async def remove(self, workspace_id: str, user_id: str, *, if_match: str | None = None) -> RemovedMember:
        """Let the user be a member no more; everyone may leave, but the last owner (`conflict`).

        `not_found` when they are none already, also by an attempt of this call whose answer was lost.
        """
        path = workspace_path(workspace_id, "members", user_id)
        return await self._caller.call("DELETE", path, RemovedMember, if_match=if_match)
