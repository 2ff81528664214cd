"""The dashboard's stores in memory, and a key service that knows members by heart."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from msgspec.structs import replace

from keyledger.errors import Refusal, conflict, not_found, unavailable
from keyledger.token import Secret
from services.dashboard.domain.session import Session
from services.dashboard.domain.sign_in import Identity
from services.dashboard.ports import (
    Arrival,
    Invitation,
    Person,
    Presence,
    RefreshDigests,
    StoredKey,
)
from tests.support.tokens import claims as claims_of


class MemoryAccounts:
    """What the stores share."""

    def __init__(self) -> None:
        self.persons: dict[str, Person] = {}
        self.identities: dict[tuple[str, str], str] = {}
        self.last: dict[str, str | None] = {}
        self.sessions: dict[str, Session] = {}
        self.digests: dict[str, RefreshDigests] = {}
        self.tell: dict[str, int] = {}
        self.invitations: dict[str, tuple[Invitation, bytes]] = {}

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Nothing has to be opened."""
        yield

    def end(self, session_id: str, now: int, tell_until: int) -> bool:
        """End a session, once."""
        session = self.sessions.get(session_id)
        if session is None or session.ended_at is not None:
            return False
        self.sessions[session_id] = replace(session, ended_at=now)
        self.tell[session_id] = tell_until
        return True


class MemoryPeople:
    """`People`."""

    def __init__(self, accounts: MemoryAccounts) -> None:
        self._accounts = accounts

    async def arrive(self, identity: Identity, new_user_id: str, now: int) -> Arrival:
        del now
        known = self._accounts.identities.setdefault((identity.issuer, identity.subject), new_user_id)
        person = Person(known, identity.name, identity.mail)
        self._accounts.persons[known] = person
        return Arrival(person, known == new_user_id, self._accounts.last.get(known))

    async def known(self, user_ids: Sequence[str]) -> Mapping[str, Person]:
        persons = self._accounts.persons
        return {user_id: persons[user_id] for user_id in user_ids if user_id in persons}

    async def holding(self, text: str, most: int) -> Sequence[Person]:
        sought, persons = text.lower(), reversed(self._accounts.persons.values())
        found = [
            each for each in persons if any(sought in (part or "").lower() for part in (each.name, each.mail))
        ]
        return found[:most]

    async def erase(self, user_id: str, now: int, tell_until: int) -> bool:
        accounts = self._accounts
        there = user_id in accounts.identities.values()
        accounts.persons[user_id] = Person(user_id, None, None)
        accounts.identities = {key: user for key, user in accounts.identities.items() if user != user_id}
        accounts.last.pop(user_id, None)
        accounts.invitations = {
            id_: kept for id_, kept in accounts.invitations.items() if kept[0].invited_by != user_id
        }
        for session in list(accounts.sessions.values()):
            if session.user_id == user_id:
                accounts.end(session.session_id, now, tell_until)
        return there

    async def ping(self) -> None:
        return


class MemorySessions:
    """`Sessions`."""

    def __init__(self, accounts: MemoryAccounts) -> None:
        self._accounts = accounts

    async def open(self, session: Session, digests: RefreshDigests) -> None:
        self._accounts.sessions[session.session_id] = session
        self._accounts.digests[session.session_id] = digests

    async def find(self, session_id: str) -> Presence | None:
        session = self._accounts.sessions.get(session_id)
        return None if session is None else Presence(session, self._accounts.persons[session.user_id])

    async def by_handle(self, handle: bytes) -> tuple[Presence, bytes] | None:
        for session_id, digests in self._accounts.digests.items():
            if digests.handle == handle:
                found = await self.find(session_id)
                return None if found is None else (found, digests.secret)
        return None

    async def renew(self, session_id: str, old: bytes, new: bytes, now: int) -> bool:
        session, digests = self._accounts.sessions.get(session_id), self._accounts.digests.get(session_id)
        if session is None or digests is None or session.ended_at is not None or digests.secret != old:
            return False
        self._accounts.digests[session_id] = RefreshDigests(digests.handle, new)
        self._accounts.sessions[session_id] = replace(session, renewed_at=now)
        return True

    async def choose(self, session_id: str, workspace_id: str | None, role: str | None) -> None:
        session = self._accounts.sessions[session_id]
        self._accounts.sessions[session_id] = replace(session, workspace_id=workspace_id, role=role)
        self._accounts.last[session.user_id] = workspace_id

    async def end(self, session_id: str, now: int, tell_until: int) -> bool:
        return self._accounts.end(session_id, now, tell_until)

    async def untold(self, now: int, limit: int) -> Sequence[Session]:
        self._accounts.tell = {id_: until for id_, until in self._accounts.tell.items() if until > now}
        ended = [self._accounts.sessions[id_] for id_ in self._accounts.tell]
        return sorted(ended, key=lambda session: session.ended_at or 0)[:limit]

    async def told(self, session_id: str) -> None:
        self._accounts.tell.pop(session_id, None)

    async def forget(self, before: int, limit: int) -> int:
        over = [
            session.session_id
            for session in self._accounts.sessions.values()
            if session.session_id not in self._accounts.tell
            and (session.lasts_until() < before or (session.ended_at or before) < before)
        ][:limit]
        for session_id in over:
            del self._accounts.sessions[session_id], self._accounts.digests[session_id]
        return len(over)


class MemorySpent:
    """`Spent`."""

    def __init__(self) -> None:
        self._until: dict[bytes, int] = {}

    async def spend(self, digest: bytes, until: int, now: int) -> bool:
        del now
        first = digest not in self._until
        self._until.setdefault(digest, until)
        return first

    async def clear(self, now: int) -> None:
        self._until = {digest: until for digest, until in self._until.items() if until > now}


class MemorySigningKeys:
    """`SigningKeys`."""

    def __init__(self) -> None:
        self._keys: list[StoredKey] = []

    async def all(self) -> Sequence[StoredKey]:
        return list(self._keys)

    async def add(self, key: StoredKey, after: str | None) -> bool:
        last = self._keys[-1].times.kid if self._keys else None
        if last != after:
            return False
        self._keys = sorted([*self._keys, key], key=lambda each: (each.times.starts_at, each.times.kid))
        return True

    async def drop(self, kids: Sequence[str]) -> None:
        self._keys = [key for key in self._keys if key.times.kid not in kids]


class MemoryInvitations:
    """`Invitations`."""

    def __init__(self, accounts: MemoryAccounts) -> None:
        self._accounts = accounts

    async def add(self, invitation: Invitation, digest: bytes, most: int) -> bool:
        if len(await self.of_workspace(invitation.workspace_id, invitation.created_at)) >= most:
            return False
        self._accounts.invitations[invitation.id] = (invitation, digest)
        return True

    async def of_workspace(self, workspace_id: str, now: int) -> Sequence[Invitation]:
        found = [one for one, _ in self._accounts.invitations.values() if one.workspace_id == workspace_id]
        live = [one for one in found if one.expires_at > now]
        return sorted(live, key=lambda one: (one.created_at, one.id), reverse=True)

    async def find(self, digest: bytes, now: int) -> Invitation | None:
        for one, kept in self._accounts.invitations.values():
            if kept == digest and one.expires_at > now:
                return one
        return None

    async def close(self, workspace_id: str, invitation_id: str, now: int) -> bool:
        found = self._accounts.invitations.get(invitation_id)
        if found is None or found[0].workspace_id != workspace_id:
            return False
        del self._accounts.invitations[invitation_id]
        return found[0].expires_at > now

    async def clear(self, now: int) -> None:
        self._accounts.invitations = {
            id_: kept for id_, kept in self._accounts.invitations.items() if kept[0].expires_at > now
        }


class FakeMemberships:
    """`Memberships`: who is what where. It believes every JWT, and remembers which sessions ended."""

    def __init__(self) -> None:
        self.members: dict[str, dict[str, str]] = {}
        self.ended: list[str] = []
        self.away = False
        self.put_fails = False

    async def roles(self, jwt: Secret) -> Mapping[str, str]:
        user = self._told(jwt)["sub"]
        return {ws: members[user] for ws, members in self.members.items() if user in members}

    async def role(self, jwt: Secret, workspace_id: str, user_id: str) -> str | None:
        members = self._entered(jwt, workspace_id)
        return None if members is None else members.get(user_id)

    async def workspace_name(self, jwt: Secret, workspace_id: str) -> str:
        if self._entered(jwt, workspace_id) is None:
            raise not_found()
        return f"Workspace {workspace_id[-1]}"

    async def create_workspace(self, jwt: Secret, name: str, once: str) -> str:
        del name, once
        workspace_id = f"ws_{len(self.members):022d}"
        self.members[workspace_id] = {self._told(jwt)["sub"]: "owner"}
        return workspace_id

    async def put_member(self, jwt: Secret, workspace_id: str, user_id: str, role: str) -> None:
        members = self._entered(jwt, workspace_id)
        if members is None or self.put_fails:
            raise Refusal("insufficient_permissions", "No.")
        members[user_id] = role

    async def roles_in(self, jwt: Secret, workspace_id: str) -> Mapping[str, str]:
        members = self._entered(jwt, workspace_id)
        if members is None:
            raise not_found()
        return dict(members)

    async def leave(self, jwt: Secret, workspace_id: str, user_id: str) -> None:
        members = self._entered(jwt, workspace_id)
        if members is None:
            raise not_found()
        if [user for user, role in members.items() if role == "owner"] == [user_id]:
            raise conflict("The last owner stays one.")
        del members[user_id]

    async def end_session(self, jwt: Secret) -> None:
        self.ended.append(self._told(jwt)["sid"])

    def _told(self, jwt: Secret) -> dict[str, Any]:
        if self.away:
            raise unavailable("unavailable", "The key service does not answer just now.")
        return claims_of(jwt.reveal())

    def _entered(self, jwt: Secret, workspace_id: str) -> dict[str, str] | None:
        told = self._told(jwt)
        members = self.members.get(workspace_id, {})
        return members if told.get("ws") == workspace_id and told["sub"] in members else None
