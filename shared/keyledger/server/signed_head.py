"""The head of the log under an Ed25519 signature, to be kept in another place than the database.

Whoever owns the database can rewrite it and recompute the chain; they cannot take back a head that was
exported before. The signing key is a file of 32 random bytes in hex, outside Postgres.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct

from keyledger.events import Epoch

FORMAT = "keyledger signed head 1"
KEY_BYTES = 32
HASH_BYTES = 32


class Untrusted(Exception):
    """The export proves nothing: it is not one, its signature is wrong, or another key made it."""


class Head(Struct, frozen=True, forbid_unknown_fields=True):
    """What is signed. `hash`, `epoch_line` and the keys are hex, times µs.

    `hashes_sha256` is the SHA-256 of every event's hash up to the position, one behind the other, where these
    go with the export.
    """

    format: str
    epoch_number: int
    epoch_line: str
    position: int
    hash: str
    at: int
    signed_at: int
    key_id: str
    public_key: str
    hashes_sha256: str | None = None

    @property
    def epoch(self) -> Epoch:
        """The epoch the head belonged to."""
        return Epoch(self.epoch_number, bytes.fromhex(self.epoch_line))


class Export(Struct, frozen=True, forbid_unknown_fields=True):
    """A signed head as it lies in a file, with the hashes up to it if they were asked for."""

    head: Head
    signature: str
    hashes: bytes | None = None

    def hash_of(self, position: int) -> bytes | None:
        """The hash of the event at this position, as far as the export tells it."""
        if position == self.head.position:
            return bytes.fromhex(self.head.hash)
        if self.hashes is None or not 0 < position < self.head.position:
            return None
        return self.hashes[(position - 1) * HASH_BYTES : position * HASH_BYTES]


class Signer:
    """Signs heads with one key; its repr shows nothing of it."""

    def __init__(self, secret: str) -> None:
        """`secret` is the key file's text; `ValueError` when it is not 32 bytes in hex."""
        raw = bytes.fromhex(secret)
        if len(raw) != KEY_BYTES:
            raise ValueError(f"a signing key has {KEY_BYTES} bytes")
        self._key = Ed25519PrivateKey.from_private_bytes(raw)

    def __repr__(self) -> str:
        return "Signer(***)"

    @property
    def public_key(self) -> str:
        """The public key in hex: what whoever checks an export has to know beforehand."""
        return self._key.public_key().public_bytes_raw().hex()

    def sign(
        self,
        epoch: Epoch,
        position: int,
        digest: bytes,
        at: int,
        *,
        signed_at: int,
        hashes: bytes | None = None,
    ) -> Export:
        """The signed head; `hashes` are those of all events up to it."""
        head = Head(
            FORMAT,
            epoch.number,
            epoch.line.hex(),
            position,
            digest.hex(),
            at,
            signed_at,
            key_id(self.public_key),
            self.public_key,
            None if hashes is None else hashlib.sha256(hashes).hexdigest(),
        )
        return Export(head, self._key.sign(_signed(head)).hex(), hashes)


def key_id(public_key: str) -> str:
    """The short name of a public key in hex."""
    return hashlib.sha256(bytes.fromhex(public_key)).hexdigest()[:16]


def write(export: Export) -> bytes:
    """The export as a file's content."""
    return msgspec.json.format(msgspec.json.encode(export), indent=2) + b"\n"


def read(content: bytes, public_key: str) -> Export:
    """The export in a file, signed by the key that is trusted; `Untrusted` otherwise."""
    try:
        export = msgspec.json.decode(content, type=Export)
        bytes.fromhex(export.head.epoch_line + export.head.hash)
        trusted = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        signature = bytes.fromhex(export.signature)
    except (msgspec.MsgspecError, ValueError) as error:
        # a driver's words may quote the content
        raise Untrusted(f"it cannot be read as a signed head ({type(error).__name__})") from None
    if export.head.format != FORMAT:
        raise Untrusted("it is a signed head of another format")
    if export.head.public_key != public_key:
        raise Untrusted(f"it was signed by the key {export.head.key_id}, not by {key_id(public_key)}")
    try:
        trusted.verify(signature, _signed(export.head))
    except InvalidSignature:
        raise Untrusted("its signature is wrong: it was changed, or forged") from None
    if export.hashes is not None and not _belong(export.hashes, export.head):
        raise Untrusted("its hashes are not those that were signed")
    return export


def _belong(hashes: bytes, head: Head) -> bool:
    return (
        len(hashes) == head.position * HASH_BYTES
        and hashlib.sha256(hashes).hexdigest() == head.hashes_sha256
        and (not head.position or hashes[-HASH_BYTES:].hex() == head.hash)
    )


def _signed(head: Head) -> bytes:
    content: dict[str, Any] = msgspec.to_builtins(head)
    return FORMAT.encode() + b"\n" + msgspec.json.encode(content, order="sorted")
