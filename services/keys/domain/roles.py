"""What the members of a workspace may do there: each role, the management scopes it stands for, its rank.

The table stands in SECURITY.md, too. A role that this code does not know, written by a later one, grants
nothing and is changed by owners alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

from msgspec import Struct

from services.keys.domain.principal import KEYS_READ, KEYS_WRITE, USAGE_READ, WORKSPACE_WRITE

Role: TypeAlias = Literal["viewer", "member", "admin", "owner"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Every role, from the one that may do least: each may do what those before it may."""
OWNER: Role = "owner"
ADMIN_ROLE: Role = "admin"
MAX_WORKSPACES = 50
"""How many workspaces a user may have made and still be a member of."""
_READ = frozenset({KEYS_READ, USAGE_READ})
_SCOPES: Mapping[str, frozenset[str]] = {
    "viewer": _READ,
    "member": _READ | {KEYS_WRITE},
    "admin": _READ | {KEYS_WRITE, WORKSPACE_WRITE},
    "owner": _READ | {KEYS_WRITE, WORKSPACE_WRITE},
}


class Member(Struct, frozen=True):
    """A user's place in a workspace: since when (µs), by whom, and the version of the event that says so."""

    role: str
    since: int
    added_by: str
    added: int


def scopes_of(role: str | None) -> frozenset[str]:
    """The management scopes that this role stands for; none for one that is not known, or for no role."""
    return _SCOPES.get(role or "", frozenset())


def rank(role: str) -> int:
    """Where the role stands among all, higher for one that may do more; the highest for one not known."""
    return ROLES.index(role) if role in ROLES else len(ROLES) - 1
