"""What is sealed at rest, and under which key.

One seal secret, outside Postgres and NATS, wraps each workspace's data key; the data key seals what people
have typed (AES-256-GCM). Destroying a wrapped key shreds that workspace's text for ever. Kept answers are
sealed under HKDF of the seal secret and the caller's Idempotency-Key, so that only its holder opens them.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_SIZE = 32
_NONCE_SIZE = 12
_SALT_SIZE = 16


class SealBroken(Exception):
    """A sealed value does not open: another key, another place, or changed bytes."""


class Sealer:
    """Seals and opens under one seal secret of at least 32 bytes."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < KEY_SIZE:
            raise ValueError(f"the seal secret has at least {KEY_SIZE} bytes")
        self._secret = secret
        self._wrapping = AESGCM(self._derive(b"keyledger data keys", b""))
        self._naming = self._derive(b"keyledger names", b"")

    def __repr__(self) -> str:
        return "Sealer(***)"

    def new_data_key(self, workspace_id: str) -> tuple[bytes, bytes]:
        """A fresh data key for this workspace, plain and wrapped."""
        key = os.urandom(KEY_SIZE)
        return key, _seal(self._wrapping, key, workspace_id.encode())

    def unwrap(self, workspace_id: str, wrapped: bytes) -> bytes:
        """The data key inside `wrapped`; `SealBroken` if it is another workspace's or another secret's."""
        return _open(self._wrapping, wrapped, workspace_id.encode())

    def name(self, *parts: str | bytes) -> bytes:
        """A keyed 32-byte name of these parts: the same each time, and no one can guess it."""
        mac = hmac.new(self._naming, digestmod=hashlib.sha256)
        for part in parts:
            raw = part.encode() if isinstance(part, str) else part
            mac.update(len(raw).to_bytes(4) + raw)
        return mac.digest()

    def seal_answer(self, idempotency_key: str, plain: bytes, place: bytes) -> bytes:
        """Seal an answer so that it opens only with this Idempotency-Key, at this place."""
        salt = os.urandom(_SALT_SIZE)
        return salt + _seal(self._answer_key(idempotency_key, salt), plain, place)

    def open_answer(self, idempotency_key: str, sealed: bytes, place: bytes) -> bytes:
        """Open what `seal_answer` sealed; `SealBroken` with another key or place."""
        salt, rest = sealed[:_SALT_SIZE], sealed[_SALT_SIZE:]
        return _open(self._answer_key(idempotency_key, salt), rest, place)

    def _answer_key(self, idempotency_key: str, salt: bytes) -> AESGCM:
        return AESGCM(self._derive(b"keyledger answers\x00" + idempotency_key.encode(), salt))

    def _derive(self, purpose: bytes, salt: bytes) -> bytes:
        return HKDF(algorithm=SHA256(), length=KEY_SIZE, salt=salt or None, info=purpose).derive(self._secret)


def seal_text(data_key: bytes, plain: bytes, place: bytes) -> bytes:
    """Seal under a workspace's data key; `place` (stream, version, type) binds it where it stands."""
    return _seal(AESGCM(data_key), plain, place)


def open_text(data_key: bytes, sealed: bytes, place: bytes) -> bytes:
    """Open what `seal_text` sealed; `SealBroken` otherwise."""
    return _open(AESGCM(data_key), sealed, place)


class TextOpener:
    """A workspace's data key made ready to open many texts, which takes longer than opening one."""

    def __init__(self, data_key: bytes) -> None:
        self._cipher = AESGCM(data_key)

    def __repr__(self) -> str:
        return "TextOpener(***)"

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """As `open_text`."""
        return _open(self._cipher, sealed, place)


def _seal(cipher: AESGCM, plain: bytes, place: bytes) -> bytes:
    nonce = os.urandom(_NONCE_SIZE)
    return nonce + cipher.encrypt(nonce, plain, place)


def _open(cipher: AESGCM, sealed: bytes, place: bytes) -> bytes:
    try:
        return cipher.decrypt(sealed[:_NONCE_SIZE], sealed[_NONCE_SIZE:], place)
    except (InvalidTag, ValueError):
        raise SealBroken("a sealed value does not open") from None
