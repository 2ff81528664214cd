"""Digests: keyed BLAKE2b-256 (RFC 7693) of a token under a named pepper.

A pepper lives outside Postgres and NATS, so a stolen database proves nothing. A digest under *any* pepper
held is accepted and is definitive. Argon2id is `keyledger.server.proof`, and never on this path.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path

SIZE = 32
PEPPER_SIZE = 32
_NOTHING = bytes(SIZE)


class PepperError(Exception):
    """The peppers on disk cannot be used; the message names the file, never its content."""


class Peppers:
    """The peppers this process holds; new digests are made under the active one.

    Hash objects are prepared once and copied for each digest, which halves the cost of keying.
    """

    def __init__(self, peppers: Mapping[str, bytes], active: str) -> None:
        if active not in peppers:
            raise PepperError(f"the active pepper {active!r} is not among those held")
        if any(len(pepper) != PEPPER_SIZE for pepper in peppers.values()):
            raise PepperError(f"a pepper is {PEPPER_SIZE} bytes long")
        self.active = active
        self._prepared = {
            name: hashlib.blake2b(key=pepper, digest_size=SIZE)
            # the newest first: most secrets have a digest under it
            for name, pepper in sorted(peppers.items(), key=lambda item: age(item[0]), reverse=True)
        }

    def same(self, other: Peppers) -> bool:
        """Whether both hold the same peppers."""
        return self.names == other.names and self.every_digest(b"") == other.every_digest(b"")

    def __repr__(self) -> str:
        return f"Peppers({', '.join(self._prepared)}; active {self.active})"

    @property
    def names(self) -> tuple[str, ...]:
        """The ids of the peppers held."""
        return tuple(self._prepared)

    def become(self, other: Peppers, active: str) -> None:
        """Hold what `other` holds, from now on, with this one of them active."""
        if active not in other.names:
            raise PepperError(f"the active pepper {active!r} is not among those held")
        self._prepared, self.active = other._prepared, active

    def holds_any(self, names: Iterable[str]) -> bool:
        """Whether one of these peppers is held."""
        return any(name in self._prepared for name in names)

    def digest(self, token: str | bytes) -> bytes:
        """The digest of `token` under the active pepper, 32 bytes.

        A foreign token stands as its SHA-256, in bytes, wherever a token of ours stands as its text.
        """
        # as `_digest`, in place: this is on the path of every check
        state = self._prepared[self.active].copy()
        state.update(token if isinstance(token, bytes) else token.encode())
        return state.digest()

    def every_digest(self, token: str | bytes) -> list[bytes]:
        """The digests of `token` under each pepper held."""
        return [self._digest(name, token) for name in self._prepared]

    def proves(self, token: str | bytes, digests: Mapping[str, bytes]) -> bool:
        """Whether `token` has one of these digests (pepper id → digest), compared in constant time.

        With no digest under a held pepper the answer is False after the same amount of work.
        """
        for name in self._prepared:
            expected = digests.get(name)
            if expected is not None:
                return hmac.compare_digest(self._digest(name, token), expected)
        hmac.compare_digest(self._digest(self.active, token), _NOTHING)
        return False

    def _digest(self, name: str, token: str | bytes) -> bytes:
        state = self._prepared[name].copy()
        state.update(token if isinstance(token, bytes) else token.encode())
        return state.digest()


def foreign(token: str) -> bytes:
    """What stands for another system's token: its SHA-256."""
    return hashlib.sha256(token.encode()).digest()


def load_peppers(folder: Path) -> Peppers:
    """Read every `<id>.pepper` (64 hex characters) of `folder`; the last by name is active.

    Raises `PepperError` when there is none, or one cannot be read.
    """
    peppers: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.pepper")):
        try:
            pepper = bytes.fromhex(path.read_text().strip())
        except (OSError, ValueError):
            pepper = b""
        if len(pepper) != PEPPER_SIZE:
            raise PepperError(f"{path.name} is not a readable pepper of 64 hex characters")
        peppers[path.stem] = pepper
    if not peppers:
        raise PepperError(f"there is no *.pepper file in {folder}")
    return Peppers(peppers, active=max(peppers, key=age))


def age(name: str) -> tuple[int, str]:
    """What peppers are sorted by, the oldest first: p10 is younger than p9."""
    return len(name), name
