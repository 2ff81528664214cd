"""Who is asking: a signed-in user. The dashboard's token says who; the membership, what they may do."""

from __future__ import annotations

from keyledger.clock import SECOND, Clock
from keyledger.errors import invalid_session
from keyledger.server.jwt import Claims, SessionTokens
from services.keys.domain.principal import Principal
from services.keys.domain.roles import scopes_of
from services.keys.ports import Memberships

ENDED_KEPT = 31 * 86_400 * SECOND
"""How long an ended session is remembered, µs: no token of it is good for longer than an hour."""


class Sessions:
    """Reads the tokens of users; without `tokens` (no issuer is configured) it refuses every one."""

    def __init__(self, tokens: SessionTokens | None, memberships: Memberships, clock: Clock) -> None:
        self._tokens = tokens
        self._memberships = memberships
        self._clock = clock

    @property
    def accepted(self) -> bool:
        """Whether tokens of users are accepted at all."""
        return self._tokens is not None

    async def principal(self, token: str) -> Principal:
        """The user, with the scopes of their role in the token's workspace: none for who is no member there.

        Role and session are looked up as of now, and never remembered. Raises `invalid_session`, also for a
        session that was ended, and `unavailable` while that cannot be known.
        """
        claims = await self._claims(token)
        workspace_id = claims.workspace_id or ""
        standing = await self._memberships.standing(claims.user_id, workspace_id, claims.session_id)
        if standing.ended:
            raise invalid_session()
        if standing.role is None:
            return Principal(claims.user_id, "", frozenset())
        return Principal(claims.user_id, workspace_id, scopes_of(standing.role))

    async def end(self, token: str) -> str:
        """Refuse this token's session everywhere from now on; its id. One that was ended already stays so."""
        claims = await self._claims(token)
        await self._memberships.end(claims.session_id, until=self._clock.now() + ENDED_KEPT)
        return claims.session_id

    async def _claims(self, token: str) -> Claims:
        if self._tokens is None:
            raise invalid_session()
        return await self._tokens.read(token)
