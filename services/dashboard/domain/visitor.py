"""Who looks at a page."""

from __future__ import annotations

from msgspec import Struct

from keyledger.token import Secret


class Visitor(Struct, frozen=True):
    """A person with a live session. Where a workspace is needed, `role` is the key service's of now.

    Elsewhere it is what it was when the session was last renewed.
    """

    user_id: str
    name: str | None
    mail: str | None
    workspace_id: str | None
    """The workspace that was chosen; None before one is."""
    role: str | None
    session_id: str
    jwt: Secret
    """What the key and usage services take as `Authorization: Bearer`."""
    seconds_left: int
    """How long the JWT lasts from when the request arrived; pages tell session.js, which renews it."""

    @property
    def called(self) -> str:
        """What to call them: the name, else the mail address, else the id."""
        return self.name or self.mail or self.user_id
