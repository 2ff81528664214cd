"""Invitations: who may invite as what, and when one is over. Times are µs since the Unix epoch."""

from __future__ import annotations

from services.dashboard.domain.units import SECOND

ROLES = ("viewer", "member", "admin", "owner")
"""From the least to the most. What each may do, the key service says."""
OWNER = ROLES[-1]
LASTS = 7 * 24 * 3600 * SECOND
MOST_OPEN = 100
"""Open invitations of one workspace."""
LONGEST_NOTE = 200


def may_invite(own: str | None, role: str) -> bool:
    """Whether somebody of this role may invite as `role`: admins and owners, up to what they are."""
    return own in ("admin", "owner") and role in ROLES and ROLES.index(role) <= ROLES.index(own)


def is_note(text: str) -> bool:
    """Whether this can stand as a note: one line, not too long, possibly nothing."""
    return len(text) <= LONGEST_NOTE and all(character.isprintable() for character in text)
