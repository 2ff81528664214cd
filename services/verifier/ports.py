"""What the verifier's operators need from the key service: who they are, and what happened to a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from keyledger.events import RateLimit
from services.verifier.domain.history import Happened


class Credential(Struct, frozen=True):
    """A caller's X-API-Key and Authorization headers as they came; the repr shows nothing."""

    headers: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return "Credential(***)"


class PastKey(Struct, frozen=True):
    """What a key was at some moment, as far as a check looks at it; `expires_at` is in µs."""

    id: str
    workspace_id: str
    environment: str
    scopes: tuple[str, ...]
    enabled: bool
    status: str
    expires_at: int | None
    allowed_ips: tuple[str, ...] | None
    rate_limit: RateLimit | None
    version: int

    def __repr__(self) -> str:
        return f"PastKey({self.id}, version {self.version})"


class KeyService(Protocol):
    """The key service, asked with an operator's own credential.

    Any call refuses with what the key service refuses, and with `unavailable` when it does not answer.
    """

    async def admit(self, credential: Credential) -> None:
        """Return when the credential covers `keyledger:admin`."""
        ...

    async def events(
        self, credential: Credential, workspace_id: str, stream_id: str, *, until: int
    ) -> Sequence[Happened]:
        """What happened to a key or to the workspace up to a position, oldest first."""
        ...

    async def key_as_of(
        self, credential: Credential, workspace_id: str, key_id: str, as_of: str
    ) -> tuple[PastKey, int]:
        """The key as it was, and the position that `as_of` stands for: it is one, or an RFC 3339 time."""
        ...

    async def moment_of(self, credential: Credential, position: int) -> int:
        """When (µs) the event of this position was recorded."""
        ...
