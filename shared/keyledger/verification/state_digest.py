"""What a projection holds, in 32 bytes: two that are equal hold the same records at the same position.

Each bucket's digest is the SHA-256 of its records, canonical and in the order of their ids; the whole's is
the SHA-256 of the buckets' digests. So a difference is found in two questions, the second about one bucket.
"""

from __future__ import annotations

import asyncio
import hashlib

import msgspec
from msgspec import Struct

from keyledger.verification.frozen import BUCKETS, AnyRecord, FrozenFold

_ENCODER = msgspec.json.Encoder(order="sorted")


class StateDigest(Struct, frozen=True):
    """The digest of a whole projection. Digests are hex, `epoch` as in every answer."""

    position: int
    epoch: str
    digest: str
    records: int
    buckets: tuple[str, ...]


class BucketDigests(Struct, frozen=True):
    """The digest of each record of one bucket, by its id."""

    position: int
    epoch: str
    bucket: int
    records: dict[str, str]


def canonical(record: AnyRecord) -> bytes:
    """The record's bytes, the same wherever it is folded."""
    return _ENCODER.encode(record)


async def digest_of(frozen: FrozenFold) -> StateDigest:
    """The digest of everything, computed in slices between which other work of the loop goes on."""
    records, states = 0, [hashlib.sha256() for _ in range(BUCKETS)]
    for found in frozen.slices():
        records += len(found)
        for bucket, _, record in found:
            encoded = canonical(record)
            states[bucket].update(len(encoded).to_bytes(4) + encoded)
        await asyncio.sleep(0)
    buckets = [state.digest() for state in states]
    whole = hashlib.sha256(b"".join(buckets)).hexdigest()
    return StateDigest(
        frozen.position, _epoch(frozen), whole, records, tuple(bucket.hex() for bucket in buckets)
    )


async def bucket_digests(frozen: FrozenFold, number: int) -> BucketDigests:
    """The digests of the records of one bucket."""
    records: dict[str, str] = {}
    for found in frozen.slices(number):
        for _, record_id, record in found:
            records[record_id] = hashlib.sha256(canonical(record)).hexdigest()
        await asyncio.sleep(0)
    return BucketDigests(frozen.position, _epoch(frozen), number, records)


def first_difference(expected: BucketDigests, found: BucketDigests) -> str | None:
    """The first id, in order, of which the two do not hold the same."""
    ids = sorted({*expected.records, *found.records})
    return next((one for one in ids if expected.records.get(one) != found.records.get(one)), None)


def _epoch(frozen: FrozenFold) -> str:
    return "" if frozen.epoch is None else frozen.epoch.text
