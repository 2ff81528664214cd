"""The secrets of one key: what is kept of each, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from keyledger.events import KeyRotated, NewSecret, Proof

#: Retired secrets whose digests are kept, so that they are told from unknown ones.
KEPT_SECRETS = 64


class Secret(Struct, frozen=True, omit_defaults=True):
    """One secret of a key; it ends at `valid_until` (µs), None while it is the current one.

    `version` is that of the event which recorded it, and names it. `dropped_at` is the moment of the rotation
    after the one that replaced it, or of its retirement: it ends then at the latest. `foreign`: it is another
    system's token, known by its SHA-256. `on_first_use`: its first use ends the one before it.
    """

    hint: str
    digests: dict[str, bytes]
    created_at: int
    valid_until: int | None = None
    dropped_at: int | None = None
    proof: str | None = None
    version: int = 1
    foreign: bool = False
    on_first_use: bool = False

    def valid(self, now: int) -> bool:
        """Whether it may still be presented."""
        return all(end is None or end > now for end in (self.valid_until, self.dropped_at))


Secrets = tuple[Secret, ...]


def first(recorded: NewSecret, at: int, proof: str | None, *, foreign: bool) -> Secrets:
    """A new key's only secret."""
    return (Secret(recorded.hint, recorded.digests, at, proof=proof, foreign=foreign),)


def rotated(secrets: Secrets, event: KeyRotated, at: int, version: int) -> Secrets:
    """With the new one last; the current one ends with the overlap, an older one now."""
    ended = (_ended(secret, event.previous_valid_until, at) for secret in secrets)
    proof = event.private.proof if isinstance(event.private, Proof) else None
    new = Secret(
        event.secret.hint,
        event.secret.digests,
        at,
        proof=proof,
        version=version,
        on_first_use=event.retire == "on_first_use",
    )
    return (*ended, new)[-KEPT_SECRETS:]


def digested(secrets: Secrets, version: int, digests: Mapping[str, bytes]) -> Secrets:
    """With these digests of one secret besides."""
    return tuple(
        msgspec.structs.replace(secret, digests={**secret.digests, **digests})
        if secret.version == version
        else secret
        for secret in secrets
    )


def retired(secrets: Secrets, version: int, at: int) -> Secrets:
    """With one secret ended."""
    return tuple(_dropped(secret, at) if secret.version == version else secret for secret in secrets)


def to_retire(secrets: Secrets, used: int, now: int) -> Secret | None:
    """The secret that the first use of the one of version `used` ends, if it is still good."""
    if len(secrets) < 2 or secrets[-1].version != used or not secrets[-1].on_first_use:
        return None
    return secrets[-2] if secrets[-2].valid(now) else None


def _ended(secret: Secret, until: int, at: int) -> Secret:
    # `at` may stand for a moment that is not known yet, and is never compared
    if secret.valid_until is None:
        return msgspec.structs.replace(secret, valid_until=until)
    return _dropped(secret, at)


def _dropped(secret: Secret, at: int) -> Secret:
    return secret if secret.dropped_at is not None else msgspec.structs.replace(secret, dropped_at=at)
