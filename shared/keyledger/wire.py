"""What travels between the services: followed events, uses, heads, and the framing of a feed page.

All of it is msgpack of arrays: a new field goes to the end and gets a default. Golden files freeze it.
"""

from __future__ import annotations

import struct

from msgspec import Struct


class Followed(Struct, frozen=True, array_like=True):
    """One event as followers get it, by feed and by bus: the private part open, the proof left out."""

    position: int
    previous_hash: bytes
    hash: bytes
    stream_id: str
    version: int
    type: str
    schema_version: int
    workspace_id: str
    at: int
    data: bytes


class Use(Struct, frozen=True, array_like=True):
    """How often one key met one outcome in one minute, as one verifier counted it.

    `minute` is µs of the minute's start, `last_at` µs of the last use, `cost` the limit units spent.
    """

    workspace_id: str
    key_id: str
    environment: str
    minute: int
    outcome: str
    count: int
    cost: int
    last_at: int


class UseBatch(Struct, frozen=True, array_like=True):
    """What a verifier sends each second; `(boot, seq)` identifies it for ever, `seq` counts up from 0."""

    boot: str
    seq: int
    uses: tuple[Use, ...]


class RecordedUses(Struct, frozen=True, array_like=True):
    """A batch as the use log holds it, at its dense position."""

    position: int
    at: int
    uses: tuple[Use, ...]


class Page(Struct, frozen=True, array_like=True):
    """What precedes the records of a feed page: the epoch and head it was read at, its last position."""

    epoch_number: int
    epoch_line: bytes
    head_position: int
    head_hash: bytes
    last_position: int


class Head(Struct, frozen=True, array_like=True):
    """The answer to a follower's question for the head; `nonce` repeats the question's.

    `writable` is False when Postgres could not be asked; position and hash are then the last ones known.
    """

    nonce: str
    epoch_number: int
    epoch_line: bytes
    position: int
    hash: bytes
    at: int
    writable: bool = True


class HeadQuestion(Struct, frozen=True, array_like=True):
    """What a follower asks once a second: who it is, how far it has applied."""

    nonce: str
    verifier: str
    epoch_line: bytes = b""
    applied: int = 0


def frame(records: list[bytes]) -> bytes:
    """Length-prefixed binary (u32 big-endian), the body of a feed page: a `Page`, then its records."""
    return b"".join(struct.pack(">I", len(record)) + record for record in records)


def unframe(body: bytes) -> list[memoryview]:
    """The records of a framed body; `ValueError` when it is cut short."""
    view, records, offset = memoryview(body), list[memoryview](), 0
    while offset < len(view):
        if offset + 4 > len(view):
            raise ValueError("a length is cut short")
        (length,) = struct.unpack_from(">I", view, offset)
        offset += 4
        if offset + length > len(view):
            raise ValueError("a record is cut short")
        records.append(view[offset : offset + length])
        offset += length
    return records
