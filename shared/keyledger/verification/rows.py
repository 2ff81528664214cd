"""The rows of a store in LMDB: what their keys begin with, and those that are no records."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import lmdb
import msgspec
from msgspec import Struct

from keyledger.events import GENESIS, Epoch, LostDenial
from keyledger.verification.record_ids import KEY, SIZE
from keyledger.verification.store import Damaged

SCHEMA = 2
STATE, LOST, GONE = b"\x01state", b"\x01lost", b"\x01gone"
HASHES, TOLD, IMPORTS, WORDS, WORKSPACES = b"\x02", b"\x03", b"\x04", b"\x05", b"\x06"
KEYS = b"key_"
"""A key's row is named as the key is, which saves a check the time to turn one into the other. They are the
last: what is added at the end of a file fills its pages. Behind `GONE` stands the raw id of a workspace some
of whose keys may still have their rows."""
KEY_SIZE = len(KEYS) + SIZE
DIGEST_SIZE = 32


class State(Struct, array_like=True):
    """What a store is besides its records.

    `peppered`: how many imported tokens have digests under exactly these peppers. `told_until`: the last
    position that a record of a snapshot knew of already; `forgetting`: such rows are left that nothing needs.
    `erasing`: the rows that `GONE` has.
    """

    schema: int = SCHEMA
    position: int = 0
    hash: bytes = GENESIS
    epoch: Epoch | None = None
    accepted: tuple[int, bytes] | None = None
    peppered: tuple[tuple[tuple[str, ...], int], ...] = ()
    told_until: int = 0
    forgetting: bool = False
    erasing: int = 0


_encode = msgspec.msgpack.encode
_decode_state = msgspec.msgpack.Decoder(State).decode
_decode_lost = msgspec.msgpack.Decoder(tuple[LostDenial, ...]).decode


def key_row(key_id: str) -> bytes | None:
    """Where the key of this id stands; None for what is no such id."""
    if len(key_id) != KEY_SIZE or not key_id.isascii() or key_id[:4] != KEY:
        return None
    return key_id.encode()


def word_row(number: int) -> bytes:
    """Where the word of this number stands."""
    return WORDS + number.to_bytes(4)


def hash_row(slot: int) -> bytes:
    """Where the hash of a position that leaves this rest stands."""
    return HASHES + slot.to_bytes(2)


def rows_of(
    txn: lmdb.Transaction[bytes], kind: bytes, *, after: bytes = b""
) -> Iterator[tuple[bytes, bytes]]:
    """The rows of a kind, in order; only those behind this one's key, if one is given."""
    size = len(kind)
    with txn.cursor() as cursor:
        if cursor.set_range(after + b"\0" if after else kind):
            for key, value in cursor.iternext():
                if key[:size] != kind:
                    return
                yield key, value


def encode_state(state: State) -> bytes:
    """The state as its row's value."""
    return _sealed(_encode(state))


def decode_state(packed: bytes | None) -> State:
    """The state in its row; `Damaged` when it is none of this schema."""
    try:
        state = _decode_state(_unsealed(packed))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Damaged("its state cannot be read") from None
    if state.schema != SCHEMA:
        raise Damaged("it has another schema")
    return state


def encode_lost(lost: tuple[LostDenial, ...]) -> bytes:
    """The denials as their row's value."""
    return _sealed(_encode(lost))


def decode_lost(packed: bytes | None) -> tuple[LostDenial, ...]:
    """The denials in their row, which may be missing; `Damaged` when they cannot be read."""
    if packed is None:
        return ()
    try:
        return _decode_lost(_unsealed(packed))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Damaged("what was lost cannot be read") from None


def encode_hash(position: int, digest: bytes) -> bytes:
    """A position's hash as its row's value."""
    return position.to_bytes(8) + digest


def decode_hash(packed: bytes) -> tuple[int, bytes]:
    """The position and its hash."""
    return int.from_bytes(packed[:8]), packed[8:]


def _sealed(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4) + body


def _unsealed(packed: bytes | None) -> bytes:
    if packed is None or len(packed) < 4 or zlib.crc32(packed[4:]) != int.from_bytes(packed[:4]):
        raise Damaged("a row is missing or not what was written")
    return packed[4:]
