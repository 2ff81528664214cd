"""The key service as sign-in needs it, by its public contract."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from keyledger.client.http import KeyledgerClient, KeyledgerError
from keyledger.errors import Refusal, unavailable
from keyledger.token import Secret

TIMEOUT, ATTEMPTS = 3.0, 2
MOST_WORKSPACES = 200
MOST_MEMBERS = 200
_NO_ROLE = "viewer"


class KeyServiceMemberships:
    """`Memberships` of the key service behind a client that has no credential of its own."""

    def __init__(self, client: KeyledgerClient) -> None:
        self._client = client

    async def roles(self, jwt: Secret) -> Mapping[str, str]:
        """The caller's role in each of their workspaces, by its id."""
        async with _told():
            page = await self._client.acting_for(jwt).workspaces.page(limit=MOST_WORKSPACES)
        return {each.id: each.role or _NO_ROLE for each in page.workspaces}

    async def role(self, jwt: Secret, workspace_id: str, user_id: str) -> str | None:
        """A user's role in the JWT's workspace; None when they, or the caller, are not members of it."""
        try:
            async with _told():
                return (await self._client.acting_for(jwt).members.get(workspace_id, user_id)).role
        except Refusal as refusal:
            if refusal.code == "not_found":
                return None
            raise

    async def workspace_name(self, jwt: Secret, workspace_id: str) -> str:
        """The name of the JWT's workspace."""
        async with _told():
            return (await self._client.acting_for(jwt).workspaces.get(workspace_id)).name

    async def create_workspace(self, jwt: Secret, name: str, once: str) -> str:
        """A new workspace that the caller owns, its id; the same one for the same `once`."""
        async with _told():
            made = await self._client.acting_for(jwt).workspaces.create(name, idempotency_key=once)
        return made.id

    async def put_member(self, jwt: Secret, workspace_id: str, user_id: str, role: str) -> None:
        """Make the user a member."""
        async with _told():
            await self._client.acting_for(jwt).members.put(workspace_id, user_id, role)

    async def roles_in(self, jwt: Secret, workspace_id: str) -> Mapping[str, str]:
        """The roles of members of the JWT's workspace, by user; at most 200, those added last."""
        async with _told():
            page = await self._client.acting_for(jwt).members.page(workspace_id, limit=MOST_MEMBERS)
        return {each.user: each.role for each in page.members}

    async def leave(self, jwt: Secret, workspace_id: str, user_id: str) -> None:
        """Let the user be a member no more; `conflict` for the last owner."""
        async with _told():
            await self._client.acting_for(jwt).members.remove(workspace_id, user_id)

    async def end_session(self, jwt: Secret) -> None:
        """Have this JWT's session refused everywhere from now on."""
        async with _told():
            await self._client.acting_for(jwt).end_session()


@asynccontextmanager
async def _told() -> AsyncGenerator[None]:
    """What the key service refused, as it said it; that it does not answer is a refusal, too."""
    try:
        yield
    except KeyledgerError as error:
        if error.status == 0 or error.status >= 500:
            raise unavailable("unavailable", "The key service does not answer just now.") from None
        raise Refusal(error.code, error.message, field=error.field) from None
