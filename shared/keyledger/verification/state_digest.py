"""What a projection holds, in 32 bytes: two that are equal hold the same records at the same position.

Each bucket's digest is the SHA-256 of its records, canonical and in the order of their ids; the whole's is
the SHA-256 of the buckets' digests. So a difference is found in two questions, the second about one bucket.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from keyledger.verification.frozen import BUCKETS, AnyRecord, Frozen

SLICE = 128
"""Records between two turns of the event loop: about a millisecond."""
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


async def digest_of(frozen: Frozen) -> StateDigest:
    """The digest of everything, computed in slices between which other work of the loop goes on."""
    records, buckets = 0, list[bytes]()
    for number in range(BUCKETS):
        found = frozen.bucket(number)
        records += len(found)
        state = hashlib.sha256()
        for at in range(0, max(len(found), 1), SLICE):
            state.update(_framed(found[at : at + SLICE]))
            await asyncio.sleep(0)
        buckets.append(state.digest())
    whole = hashlib.sha256(b"".join(buckets)).hexdigest()
    return StateDigest(
        frozen.position, _epoch(frozen), whole, records, tuple(bucket.hex() for bucket in buckets)
    )


async def bucket_digests(frozen: Frozen, number: int) -> BucketDigests:
    """The digests of the records of one bucket."""
    records: dict[str, str] = {}
    for count, (record_id, record) in enumerate(frozen.bucket(number), 1):
        records[record_id] = hashlib.sha256(canonical(record)).hexdigest()
        if count % SLICE == 0:
            await asyncio.sleep(0)
    return BucketDigests(frozen.position, _epoch(frozen), number, records)


def first_difference(expected: BucketDigests, found: BucketDigests) -> str | None:
    """The first id, in order, of which the two do not hold the same."""
    ids = sorted({*expected.records, *found.records})
    return next((one for one in ids if expected.records.get(one) != found.records.get(one)), None)


def _framed(found: Sequence[tuple[str, AnyRecord]]) -> bytes:
    encoded = [canonical(record) for _, record in found]
    return b"".join(len(one).to_bytes(4) + one for one in encoded)


def _epoch(frozen: Frozen) -> str:
    return "" if frozen.epoch is None else frozen.epoch.text
