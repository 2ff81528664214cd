"""Sessions: begun at a sign-in, renewed by a refresh token that is good once, ended everywhere."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable

import msgspec
import structlog
from msgspec import Struct

from keyledger.clock import SECOND, Clock
from keyledger.errors import Refusal, not_found
from keyledger.server.jwt import SessionTokens
from keyledger.token import Secret
from services.dashboard.domain import session as rules
from services.dashboard.domain.session import Session
from services.dashboard.domain.visitor import Visitor
from services.dashboard.handlers.signing import Signer
from services.dashboard.ports import (
    Arrival,
    Memberships,
    Presence,
    RefreshDigests,
    Sessions,
    StoreUnavailable,
)

TELL = (rules.JWT_SECONDS + rules.LEEWAY_SECONDS) * SECOND
"""For how long after its end a JWT of a session may still be good."""
FIRST_WORKSPACE = "My workspace"
_REFRESH = re.compile(r"klr_([0-9A-Za-z]{32})([0-9A-Za-z]{32})")
_log = structlog.get_logger("keyledger.dashboard")


class Tokens(Struct, frozen=True):
    """What a browser keeps, and for how many seconds."""

    jwt: Secret
    jwt_seconds: int
    refresh: Secret | None
    """None leaves the one that the browser has."""
    refresh_seconds: int


class SessionKeeper:
    """Begins, renews and ends sessions; `new_secret` draws 32 base62 characters, `new_id` an id of a kind."""

    def __init__(
        self,
        store: Sessions,
        memberships: Memberships,
        signer: Signer,
        tokens: SessionTokens,
        clock: Clock,
        *,
        issuer: str,
        new_id: Callable[[str], str],
        new_secret: Callable[[], str],
    ) -> None:
        self._store = store
        self._memberships = memberships
        self._signer = signer
        self._tokens = tokens
        self._clock = clock
        self._issuer = issuer
        self._new_id = new_id
        self._new_secret = new_secret

    async def begin(self, arrival: Arrival, *, first_workspace: bool, presented: Secret | None) -> Tokens:
        """A new session. The one that the browser had is ended: nobody else may have known it.

        It begins in the workspace of the last time, or in the only one there is.
        """
        if presented is not None:
            await self.end_presented(presented)
        now = self._clock.now()
        session = Session(self._new_id("ses"), arrival.person.user_id, None, None, now, now)
        workspace_id, role = await self._first_workspace(session, arrival, make=first_workspace)
        session = msgspec.structs.replace(session, workspace_id=workspace_id, role=role)
        refresh, digests = self._refresh_token(self._new_secret())
        await self._store.open(session, digests)
        return self._given(session, refresh)

    async def renew(self, presented: Secret) -> Tokens | None:
        """New tokens for a refresh token that is good; None for any other, and one that was good ends all."""
        parts = _REFRESH.fullmatch(presented.reveal())
        if parts is None:
            return None
        found = await self._store.by_handle(_digest(parts[1]))
        if found is None:
            return None
        presence, good = found
        session, now = presence.session, self._clock.now()
        current = hmac.compare_digest(_digest(parts[2]), good)
        decided = rules.renewal(session, current=current, now=now)
        if decided.ends_family:
            _log.warning("refresh_token_used_again")
            await self._end(session)
        if not decided.accepted:
            return None
        refresh, digests = self._refresh_token(parts[1])
        if not await self._store.renew(session.session_id, good, digests.secret, now):
            # another request was there first with the same token: one of the two is not the browser
            await self._end(session)
            return None
        session = await self._with_role(msgspec.structs.replace(session, renewed_at=now))
        return self._given(session, refresh)

    async def visitor(self, jwt: Secret) -> Visitor | None:
        """Whose JWT this is, when it and its session are good."""
        try:
            claims = await self._tokens.read(jwt.reveal())
        except Refusal as refusal:
            if refusal.code == "unavailable":
                raise
            return None
        presence = await self._store.find(claims.session_id)
        now = self._clock.now()
        if presence is None or not presence.session.is_live(now):
            return None
        return _visitor(presence, claims.workspace_id, jwt, max(0, (claims.expires_at - now) // SECOND))

    async def placed(self, visitor: Visitor, workspace_id: str) -> Visitor | None:
        """The visitor with their role of now in their workspace; None when they are no member any more."""
        role = await self._memberships.role(visitor.jwt, workspace_id, visitor.user_id)
        return None if role is None else msgspec.structs.replace(visitor, role=role)

    async def switch(self, visitor: Visitor, workspace_id: str | None) -> Tokens:
        """A JWT for another workspace, once the key service has said that the user is a member of it."""
        presence = await self._store.find(visitor.session_id)
        if presence is None or not presence.session.is_live(self._clock.now()):
            raise not_found()
        session, role = presence.session, None
        if workspace_id is not None:
            role = await self._role(session, workspace_id)
            if role is None:
                raise not_found()
        await self._store.choose(session.session_id, workspace_id, role)
        return self._given(msgspec.structs.replace(session, workspace_id=workspace_id, role=role), None)

    async def end(self, session_id: str) -> None:
        """End a session here, at once, and tell the key service; it is told again until it knows."""
        presence = await self._store.find(session_id)
        if presence is not None:
            await self._end(presence.session)

    async def end_presented(self, refresh: Secret) -> None:
        """End the session of a refresh token, whatever has become of it."""
        parts = _REFRESH.fullmatch(refresh.reveal())
        found = None if parts is None else await self._store.by_handle(_digest(parts[1]))
        if found is not None:
            await self._end(found[0].session)

    async def tell(self, limit: int) -> bool:
        """Tell the key service of sessions that have ended; whether all of these were told."""
        for session in await self._store.untold(self._clock.now(), limit):
            if not await self._told(session):
                return False
        return True

    async def forget(self, limit: int) -> None:
        """Drop some sessions that have been over for a day."""
        await self._store.forget(self._clock.now() - 24 * 3600 * SECOND, limit)

    def proxy(self, user_id: str, workspace_id: str | None) -> Secret:
        """A JWT of half a minute in a user's name that never leaves this process, but for the key service."""
        now = self._clock.now()
        session = Session(self._new_id("ses"), user_id, workspace_id, None, now, now)
        return self._signed(session, rules.PROXY_SECONDS)

    async def role_of(self, user_id: str, workspace_id: str) -> str | None:
        """The user's role as the key service knows it now."""
        return await self._memberships.role(self.proxy(user_id, workspace_id), workspace_id, user_id)

    async def _end(self, session: Session) -> None:
        now = self._clock.now()
        if await self._store.end(session.session_id, now, now + TELL):
            await self._told(session)

    async def _told(self, session: Session) -> bool:
        try:
            # whether it is live does not matter to a JWT that only says which session it is
            now = self._clock.now()
            named = msgspec.structs.replace(session, workspace_id=None, created_at=now, renewed_at=now)
            await self._memberships.end_session(self._signed(named, rules.PROXY_SECONDS))
            await self._store.told(session.session_id)
        except (Refusal, StoreUnavailable) as error:
            _log.warning("session_end_not_told", error=type(error).__name__)
            return False
        return True

    async def _first_workspace(
        self, session: Session, arrival: Arrival, *, make: bool
    ) -> tuple[str | None, str | None]:
        """Where a session begins. A key service that is away keeps nobody from signing in."""
        asking = self._signed(session, rules.PROXY_SECONDS)
        try:
            roles = await self._memberships.roles(asking)
            if make and arrival.is_new and not roles:
                made = await self._memberships.create_workspace(
                    asking, FIRST_WORKSPACE, f"first-workspace-{session.user_id}"
                )
                return made, "owner"
        except Refusal as refusal:
            _log.warning("workspaces_unknown", reason=refusal.code)
            return None, None
        if (last := arrival.workspace_id) is not None and last in roles:
            return last, roles[last]
        return next(iter(roles.items())) if len(roles) == 1 else (None, None)

    async def _with_role(self, session: Session) -> Session:
        """The session with the role of now; out of its workspace when there is none any more."""
        if session.workspace_id is None:
            return session
        try:
            role = await self._role(session, session.workspace_id)
        except Refusal:
            return session
        workspace_id = None if role is None else session.workspace_id
        if role != session.role:
            await self._store.choose(session.session_id, workspace_id, role)
        return msgspec.structs.replace(session, workspace_id=workspace_id, role=role)

    async def _role(self, session: Session, workspace_id: str) -> str | None:
        return await self.role_of(session.user_id, workspace_id)

    def _given(self, session: Session, refresh: Secret | None) -> Tokens:
        now = self._clock.now()
        left = max(1, (session.lasts_until() - now) // SECOND)
        return Tokens(self._signed(session, rules.JWT_SECONDS), min(rules.JWT_SECONDS, left), refresh, left)

    def _signed(self, session: Session, seconds: int) -> Secret:
        told = rules.claims(
            self._issuer, session, jwt_id=self._new_id("jti"), now=self._clock.now(), seconds=seconds
        )
        return self._signer.sign(told)

    def _refresh_token(self, handle: str) -> tuple[Secret, RefreshDigests]:
        secret = self._new_secret()
        return Secret(f"klr_{handle}{secret}"), RefreshDigests(_digest(handle), _digest(secret))


def _digest(text: str) -> bytes:
    # 190 bits from a CSPRNG need no slow hash
    return hashlib.sha256(text.encode()).digest()


def _visitor(presence: Presence, workspace_id: str | None, jwt: Secret, left: int) -> Visitor:
    session, person = presence.session, presence.person
    role = session.role if session.workspace_id == workspace_id else None
    return Visitor(
        person.user_id, person.name, person.mail, workspace_id, role, session.session_id, jwt, left
    )
