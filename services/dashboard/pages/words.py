"""Words for the contract's codes: statuses, outcomes, roles, scopes; an unknown one speaks for itself."""

from __future__ import annotations

from msgspec import Struct

STATUSES = {"active": "Active", "disabled": "Disabled", "expired": "Expired", "revoked": "Revoked"}
ENVIRONMENTS = {"live": "Live", "test": "Test"}
GOOD = "VALID"
OUTCOMES = {
    "VALID": "Allowed",
    "RATE_LIMITED": "Over the rate limit",
    "QUOTA_EXCEEDED": "Over the quota",
    "INSUFFICIENT_PERMISSIONS": "Scope missing",
    "IP_NOT_ALLOWED": "Address not allowed",
    "WRONG_ENVIRONMENT": "Wrong environment",
    "EXPIRED": "Expired",
    "DISABLED": "Disabled",
    "REVOKED": "Revoked",
    "WORKSPACE_SUSPENDED": "Workspace suspended",
    "NOT_FOUND": "Unknown key",
    "MALFORMED": "Malformed",
}
"""In the order in which charts stack them: what was allowed is at the bottom."""


class Role(Struct, frozen=True):
    """A role as the pages explain it."""

    name: str
    title: str
    may: str


ROLES = (
    Role("owner", "Owner", "Everything, including who is an owner"),
    Role("admin", "Admin", "Manages keys, members and the workspace"),
    Role("member", "Member", "Creates, rotates and revokes keys"),
    Role("viewer", "Viewer", "Views keys, usage and activity"),
)
"""The strongest first; what each may do is the key service's word, this is only its description."""
_RANKS = {role.name: rank for rank, role in enumerate(reversed(ROLES))}
MANAGEMENT_SCOPES = {
    "keyledger:keys:read": "List keys and their history",
    "keyledger:keys:write": "Create, change, rotate and revoke keys",
    "keyledger:usage:read": "Read usage and rate limits",
    "keyledger:workspace:write": "Rename the workspace and manage members",
}
_SCOPES_OF = {
    "viewer": frozenset({"keyledger:keys:read", "keyledger:usage:read"}),
    "member": frozenset({"keyledger:keys:read", "keyledger:usage:read", "keyledger:keys:write"}),
}


def outcome(code: str) -> str:
    """An outcome in words."""
    return OUTCOMES.get(code) or code.replace("_", " ").capitalize()


def role_title(name: str | None) -> str:
    """A role's name as it is shown."""
    return next((role.title for role in ROLES if role.name == name), name or "No role")


def may_write_keys(role: str | None) -> bool:
    """Whether to offer what changes keys; the key service decides."""
    return _RANKS.get(role or "", 0) >= _RANKS["member"]


def may_manage(role: str | None) -> bool:
    """Whether to offer what changes the workspace and its members; the key service decides."""
    return _RANKS.get(role or "", 0) >= _RANKS["admin"]


def grantable(role: str | None) -> tuple[Role, ...]:
    """The roles somebody of this role may give: none that is more than their own."""
    if not may_manage(role):
        return ()
    return tuple(each for each in ROLES if _RANKS[each.name] <= _RANKS[role or ""])


def grantable_scopes(role: str | None) -> dict[str, str]:
    """The management scopes that a key made by somebody of this role may hold."""
    held = frozenset(MANAGEMENT_SCOPES) if may_manage(role) else _SCOPES_OF.get(role or "", frozenset())
    return {scope: words for scope, words in MANAGEMENT_SCOPES.items() if scope in held}
