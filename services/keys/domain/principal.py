"""Who is asking, and what the scopes of that credential let them do."""

from __future__ import annotations

import msgspec

from keyledger.errors import insufficient_permissions, not_found
from services.keys.domain.values import reserved

ADMIN = "keyledger:admin"
KEYS_READ = "keyledger:keys:read"
KEYS_WRITE = "keyledger:keys:write"
WORKSPACE_WRITE = "keyledger:workspace:write"
USAGE_READ = "keyledger:usage:read"
FEED_READ = "keyledger:feed:read"
PROVE = "keyledger:prove"


class Principal(msgspec.Struct, frozen=True):
    """The holder of a proven credential; `actor` is its public id, as it will stand in the log."""

    actor: str
    workspace_id: str
    scopes: frozenset[str]

    @property
    def admin(self) -> bool:
        """Whether this is an operator's credential. Only keys of the system workspace can hold the scope."""
        return ADMIN in self.scopes

    @property
    def person(self) -> bool:
        """Whether this is a signed-in user, and not a key."""
        return self.actor.startswith("user_")

    def enter(self, workspace_id: str) -> None:
        """Refuse, as if nothing were there, to tell anything about another workspace."""
        if not self.admin and self.workspace_id != workspace_id:
            raise not_found()

    def need(self, scope: str) -> None:
        """Refuse unless the credential covers `scope`."""
        if not self.admin and scope not in self.scopes:
            raise insufficient_permissions(f"This needs the scope {scope}.")

    def need_any(self) -> None:
        """Refuse a credential that manages nothing at all."""
        if not reserved(self.scopes):
            raise insufficient_permissions("This needs a management scope.")

    def need_admin(self, field: str | None = None) -> None:
        """Refuse unless the credential is an operator's."""
        if not self.admin:
            raise insufficient_permissions(f"This needs the scope {ADMIN}.", field=field)

    def covers(self, *granted: tuple[str, ...]) -> None:
        """Refuse unless the caller itself holds every management scope in these lists.

        No one can mint or reach, by way of another key, a power that they lack.
        """
        if self.admin:
            return
        for scopes in granted:
            if reserved(scopes) - self.scopes:
                raise insufficient_permissions(
                    "You can only manage keys whose keyledger: scopes you hold yourself.", field="scopes"
                )
