"""What the dashboard needs from outside, and what its own half offers to the pages.

Times are µs since the Unix epoch. Any call of a store may raise `StoreUnavailable`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from keyledger.token import Secret
from services.dashboard.domain.session import Session
from services.dashboard.domain.sign_in import Identity, Provider
from services.dashboard.domain.signing import KeyTimes
from services.dashboard.domain.visitor import Visitor


class StoreUnavailable(Exception):
    """The store cannot be reached just now; nothing of the call has happened, or all of it has."""


class Person(Struct, frozen=True):
    """What is known of a user; name and mail are None once they were erased."""

    user_id: str
    name: str | None
    mail: str | None

    @property
    def called(self) -> str:
        """What to call them: the name, else the mail address, else the id."""
        return self.name or self.mail or self.user_id


class Arrival(Struct, frozen=True):
    """Somebody who has just signed in."""

    person: Person
    is_new: bool
    workspace_id: str | None
    """Where they were last."""


class People(Protocol):
    """Users, by the issuer and subject they sign in with."""

    async def arrive(self, identity: Identity, new_user_id: str, now: int) -> Arrival:
        """The user of this identity with the name and mail it tells now; a new one gets `new_user_id`."""
        ...

    async def known(self, user_ids: Sequence[str]) -> Mapping[str, Person]:
        """Those of these users that there are, by id."""
        ...

    async def holding(self, text: str, most: int) -> Sequence[Person]:
        """At most so many whose name or mail holds this text, in whatever case; newest first."""
        ...

    async def erase(self, user_id: str, now: int, tell_until: int) -> bool:
        """Forget everything that says who this is, what others wrote to them included; end every session
        as `Sessions.end` does. The id stays, since the log speaks of it; the next sign-in is a new user's.
        False when there was nobody to forget.
        """
        ...

    async def ping(self) -> None:
        """Return when the store answers."""
        ...


class Presence(Struct, frozen=True):
    """A session and whose it is."""

    session: Session
    person: Person


class RefreshDigests(Struct, frozen=True):
    """What is stored of a refresh token: the digest of the half that finds its family, and of the other."""

    handle: bytes
    secret: bytes


class Sessions(Protocol):
    """Families of refresh tokens, one each sign-in."""

    async def open(self, session: Session, digests: RefreshDigests) -> None:
        """Begin a family."""
        ...

    async def find(self, session_id: str) -> Presence | None:
        """The session, live or not."""
        ...

    async def by_handle(self, handle: bytes) -> tuple[Presence, bytes] | None:
        """The session whose tokens begin so, and the digest of the secret that is good now."""
        ...

    async def renew(self, session_id: str, old: bytes, new: bytes, now: int) -> bool:
        """Put `new` in the place of `old`, once; False when `old` is not the good one, or it has ended."""
        ...

    async def choose(self, session_id: str, workspace_id: str | None, role: str | None) -> None:
        """The workspace that this session is in from now on, and its person at the next sign-in."""
        ...

    async def end(self, session_id: str, now: int, tell_until: int) -> bool:
        """End it, once, and have the key service told while a JWT of it may be good."""
        ...

    async def untold(self, now: int, limit: int) -> Sequence[Session]:
        """Ended sessions that the key service is still to be told of."""
        ...

    async def told(self, session_id: str) -> None:
        """The key service knows that this one has ended."""
        ...

    async def forget(self, before: int, limit: int) -> int:
        """Drop some sessions that were over at this time; how many."""
        ...


class Spent(Protocol):
    """What may be used once."""

    async def spend(self, digest: bytes, until: int, now: int) -> bool:
        """Whether this is the first time; remembered until `until`, after which it is not valid anyway."""
        ...

    async def clear(self, now: int) -> None:
        """Forget what is no longer valid."""
        ...


class StoredKey(Struct, frozen=True):
    """A signing key as it is stored: sealed."""

    times: KeyTimes
    sealed: bytes


class SigningKeys(Protocol):
    """The keys that sign sessions, shared by all processes of the dashboard."""

    async def all(self) -> Sequence[StoredKey]:
        """Every key, the oldest first."""
        ...

    async def add(self, key: StoredKey, after: str | None) -> bool:
        """Add it unless another process did: the last key is no longer `after`, then False."""
        ...

    async def drop(self, kids: Sequence[str]) -> None:
        """Remove keys that are no longer published."""
        ...


class Invitation(Struct, frozen=True):
    """An open invitation into a workspace."""

    id: str
    """`inv_<22 base62>`; names the invitation, and opens nothing."""
    workspace_id: str
    role: str
    invited_by: str
    note: str
    """Whom it is for, as the inviter wrote it; may be empty."""
    created_at: int
    expires_at: int


class Invitations(Protocol):
    """Open invitations. One that was accepted, withdrawn or is over is gone."""

    async def add(self, invitation: Invitation, digest: bytes, most: int) -> bool:
        """Keep it, unless the workspace has `most` open ones; then False."""
        ...

    async def of_workspace(self, workspace_id: str, now: int) -> Sequence[Invitation]:
        """Those into this workspace, newest first."""
        ...

    async def find(self, digest: bytes, now: int) -> Invitation | None:
        """The open invitation with this token."""
        ...

    async def close(self, workspace_id: str, invitation_id: str, now: int) -> bool:
        """Make it void, once; False when it was not open."""
        ...

    async def clear(self, now: int) -> None:
        """Remove those that are over."""
        ...


class IdentityProvider(Protocol):
    """The OpenID provider. Any call may raise `SignInRefused`, or a `Refusal` when it does not answer."""

    async def describe(self) -> Provider:
        """What it says of itself."""
        ...

    async def redeem(self, code: str, verifier: str, redirect_uri: str) -> Mapping[str, Any]:
        """The claims of the ID token that this code is good for, its signature proven and nothing else.

        Where it says nothing of the mail's verification, with what the provider's UserInfo says.
        """
        ...


class Memberships(Protocol):
    """The key service, as sign-in needs it; each call with a JWT. A `Refusal` as the key service told it,
    `unavailable` when it does not answer.
    """

    async def roles(self, jwt: Secret) -> Mapping[str, str]:
        """The caller's role in each of their workspaces, by its id; at most 200."""
        ...

    async def role(self, jwt: Secret, workspace_id: str, user_id: str) -> str | None:
        """A user's role in the JWT's workspace; None when they, or the caller, are not members of it."""
        ...

    async def workspace_name(self, jwt: Secret, workspace_id: str) -> str:
        """The name of the JWT's workspace."""
        ...

    async def create_workspace(self, jwt: Secret, name: str, once: str) -> str:
        """A new workspace that the caller owns, its id; the same one for the same `once`."""
        ...

    async def put_member(self, jwt: Secret, workspace_id: str, user_id: str, role: str) -> None:
        """Make the user a member."""
        ...

    async def roles_in(self, jwt: Secret, workspace_id: str) -> Mapping[str, str]:
        """The roles of members of the JWT's workspace, by user; at most 200, those added last."""
        ...

    async def leave(self, jwt: Secret, workspace_id: str, user_id: str) -> None:
        """Let the user be a member no more; `conflict` for the last owner."""
        ...

    async def end_session(self, jwt: Secret) -> None:
        """Have this JWT's session refused everywhere from now on."""
        ...


class Accounts(Protocol):
    """People, invitations and sessions, as the pages use them. Any call may raise a `Refusal`."""

    async def people(self, user_ids: Sequence[str]) -> Mapping[str, Person]:
        """Those of these users (at most 200) that the dashboard knows, by id."""
        ...

    async def invite(self, visitor: Visitor, role: str, note: str = "") -> tuple[Invitation, Secret]:
        """A new invitation into the visitor's workspace, and its address, which is told this once."""
        ...

    async def invitations(self, visitor: Visitor) -> Sequence[Invitation]:
        """The open invitations into the visitor's workspace, newest first; at most 100 there are."""
        ...

    async def withdraw(self, visitor: Visitor, invitation_id: str) -> None:
        """Make an invitation of the visitor's workspace void; `not_found` when there is none open."""
        ...

    async def erase(self, visitor: Visitor) -> None:
        """Have the visitor leave their workspaces, forget who they are, and end their sessions everywhere.

        `conflict`, and nothing is forgotten, where they are the only owner among others.
        """
        ...
