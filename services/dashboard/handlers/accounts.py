"""People and invitations: who may invite is asked of the key service, each time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from keyledger.clock import Clock
from keyledger.errors import Refusal, conflict, insufficient_permissions, invalid_request, not_found
from keyledger.token import Secret
from services.dashboard.domain import invitation as rules
from services.dashboard.domain.visitor import Visitor
from services.dashboard.handlers.sessions import TELL, SessionKeeper
from services.dashboard.ports import Invitation, Invitations, Memberships, People, Person

MOST_PEOPLE = 200


class Invited(Struct, frozen=True):
    """What an invitation says to whom it was sent."""

    invitation: Invitation
    workspace: str
    inviter: str
    has: str | None
    """The role of whoever opened it, if they are a member already."""


class AccountsOf:
    """`Accounts`, and what becomes of an invitation that is opened."""

    def __init__(
        self,
        people: People,
        invitations: Invitations,
        memberships: Memberships,
        keeper: SessionKeeper,
        clock: Clock,
        *,
        public_url: str,
        new_id: Callable[[str], str],
        new_secret: Callable[[], str],
    ) -> None:
        self._people = people
        self._invitations = invitations
        self._memberships = memberships
        self._keeper = keeper
        self._clock = clock
        self._public_url = public_url
        self._new_id = new_id
        self._new_secret = new_secret

    async def people(self, user_ids: Sequence[str]) -> Mapping[str, Person]:
        """Those of these users that the dashboard knows, by id."""
        wanted = list(dict.fromkeys(user_ids))[:MOST_PEOPLE]
        return await self._people.known(wanted) if wanted else {}

    async def invite(self, visitor: Visitor, role: str, note: str = "") -> tuple[Invitation, Secret]:
        """A new invitation into the visitor's workspace, and its address, which is told this once."""
        if role not in rules.ROLES:
            raise invalid_request(f"A role is one of {', '.join(rules.ROLES)}.", field="role")
        if not rules.is_note(note):
            raise invalid_request(
                f"A note is one line of at most {rules.LONGEST_NOTE} characters.", field="note"
            )
        workspace_id, own = await self._inviter(visitor)
        if not rules.may_invite(own, role):
            raise insufficient_permissions("Nobody grants a role above their own.", field="role")
        now = self._clock.now()
        made = Invitation(
            self._new_id("inv"), workspace_id, role, visitor.user_id, note, now, now + rules.LASTS
        )
        token = self._new_secret()
        if not await self._invitations.add(made, _digest(token), rules.MOST_OPEN):
            raise conflict(f"At most {rules.MOST_OPEN} invitations are open; withdraw some.")
        return made, Secret(f"{self._public_url}/invitations/{token}")

    async def invitations(self, visitor: Visitor) -> Sequence[Invitation]:
        """The open invitations into the visitor's workspace, newest first."""
        workspace_id, _ = await self._inviter(visitor)
        return await self._invitations.of_workspace(workspace_id, self._clock.now())

    async def withdraw(self, visitor: Visitor, invitation_id: str) -> None:
        """Make an invitation of the visitor's workspace void."""
        workspace_id, _ = await self._inviter(visitor)
        if not await self._invitations.close(workspace_id, invitation_id, self._clock.now()):
            raise not_found()

    async def opened(self, visitor: Visitor, token: str) -> Invited:
        """What an invitation says; `not_found` for one that is over, or whose inviter may not invite now."""
        found = await self._found(token)
        acting = self._keeper.proxy(found.invited_by, found.workspace_id)
        name = await self._memberships.workspace_name(acting, found.workspace_id)
        has = await self._memberships.role(acting, found.workspace_id, visitor.user_id)
        people = await self._people.known([found.invited_by])
        inviter = people.get(found.invited_by)
        return Invited(found, name, found.invited_by if inviter is None else inviter.called, has)

    async def accept(self, visitor: Visitor, token: str) -> str:
        """Make the visitor a member, in the inviter's name and by what that person may do now."""
        found = await self._found(token)
        acting = self._keeper.proxy(found.invited_by, found.workspace_id)
        has = await self._memberships.role(acting, found.workspace_id, visitor.user_id)
        if has is not None:
            raise conflict("You are a member of this workspace already.")
        # void before it is used: two who hold it cannot both come in
        if not await self._invitations.close(found.workspace_id, found.id, self._clock.now()):
            raise not_found()
        try:
            await self._memberships.put_member(acting, found.workspace_id, visitor.user_id, found.role)
        except Refusal:
            # nobody came in by it, so it still stands
            await self._invitations.add(found, _digest(token), rules.MOST_OPEN)
            raise
        return found.workspace_id

    async def erase(self, visitor: Visitor) -> None:
        """Have the visitor leave their workspaces, forget who they are, and end their sessions everywhere.

        `conflict`, and nothing is forgotten, where they are the only owner among others.
        """
        roles = await self._memberships.roles(visitor.jwt)
        # those first that may not let them go
        for workspace_id in sorted(roles, key=lambda each: roles[each] != rules.OWNER):
            await self._leave(visitor.user_id, workspace_id)
        now = self._clock.now()
        await self._people.erase(visitor.user_id, now, now + TELL)
        await self._keeper.tell(MOST_PEOPLE)

    async def _leave(self, user_id: str, workspace_id: str) -> None:
        """Leave a workspace, unless nobody else is in it: there the last owner stays, as an id."""
        acting = self._keeper.proxy(user_id, workspace_id)
        if set(await self._memberships.roles_in(acting, workspace_id)) <= {user_id}:
            return
        try:
            await self._memberships.leave(acting, workspace_id, user_id)
        except Refusal as refusal:
            if refusal.code != "conflict":
                raise
            name = await self._memberships.workspace_name(acting, workspace_id)
            raise conflict(
                f"You are the only owner of {name}, and others are in it: make one of them an owner first."
            ) from None

    async def _found(self, token: str) -> Invitation:
        found = await self._invitations.find(_digest(token), self._clock.now())
        if found is None:
            raise not_found()
        if not rules.may_invite(await self._keeper.role_of(found.invited_by, found.workspace_id), found.role):
            raise not_found()
        return found

    async def _inviter(self, visitor: Visitor) -> tuple[str, str]:
        """The visitor's workspace and role in it, when that role may invite anybody."""
        if visitor.workspace_id is None:
            raise not_found()
        own = await self._memberships.role(visitor.jwt, visitor.workspace_id, visitor.user_id)
        if own is None:
            raise not_found()
        if not rules.may_invite(own, rules.ROLES[0]):
            raise insufficient_permissions("Only admins and owners see and make invitations.")
        return visitor.workspace_id, own


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
