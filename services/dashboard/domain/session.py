"""How long a session lasts, and what its JWT says. Times are µs since the Unix epoch.

A session is the family of refresh tokens that began with one sign-in in one browser.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from services.dashboard.domain.units import SECOND

JWT_SECONDS = 600
PROXY_SECONDS = 30
"""How long a JWT lasts that never leaves the dashboard: one that asks, or acts for an inviter."""
LEEWAY_SECONDS = 30
"""What consumers grant clocks that differ."""
IDLE = 12 * 3600 * SECOND
"""A session that nobody has used for this long is over."""
ABSOLUTE = 7 * 24 * 3600 * SECOND
"""A session is over this long after the sign-in, however much it is used."""
AUDIENCE = "keyledger"


class Session(Struct, frozen=True):
    """One sign-in in one browser."""

    session_id: str
    user_id: str
    workspace_id: str | None
    role: str | None
    created_at: int
    renewed_at: int
    ended_at: int | None = None

    def lasts_until(self) -> int:
        """When it is over unless it is renewed before."""
        return min(self.renewed_at + IDLE, self.created_at + ABSOLUTE)

    def is_live(self, now: int) -> bool:
        """Whether it was neither ended nor left alone for too long."""
        return self.ended_at is None and now < self.lasts_until()


class Renewal(Struct, frozen=True):
    """What to do with a refresh token that names this session."""

    accepted: bool
    ends_family: bool = False
    """The token was used before, or is made up: whoever holds the session may be a thief."""


def renewal(session: Session, *, current: bool, now: int) -> Renewal:
    """Whether a refresh token renews: only the current one of a live session."""
    if not session.is_live(now):
        return Renewal(accepted=False)
    return Renewal(accepted=current, ends_family=not current)


def claims(
    issuer: str, session: Session, *, jwt_id: str, now: int, seconds: int = JWT_SECONDS
) -> dict[str, Any]:
    """The JWT's claims; `ws` and `role` are left out while no workspace is chosen.

    It never outlasts the session.
    """
    issued = now // SECOND
    last = session.lasts_until() // SECOND
    told: dict[str, Any] = {
        "iss": issuer,
        "aud": AUDIENCE,
        "sub": session.user_id,
        "sid": session.session_id,
        "iat": issued,
        "exp": min(issued + seconds, max(last, issued + 1)),
        "jti": jwt_id,
    }
    if session.workspace_id is not None:
        told["ws"] = session.workspace_id
        if session.role is not None:
            told["role"] = session.role
    return told
