"""What this verifier's projection holds, told in a few bytes, to be compared with a fold of the log."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from keyledger.errors import unavailable
from keyledger.verification.frozen import BUCKETS
from keyledger.verification.state_digest import BucketDigests, StateDigest, bucket_digests, digest_of
from keyledger.verification.store import Busy, Records


class DigestQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Without a bucket the digest of everything is told, with one the digest of each of its records."""

    bucket: Annotated[int, Meta(ge=0, lt=BUCKETS)] | None = None


class Projection:
    """Digests of a store; one is computed at a time, in slices, while verdicts are given."""

    def __init__(self, store: Records) -> None:
        self._store = store

    async def digest(self, query: DigestQuery) -> bytes:
        """The answer's body; `busy` while another is computed, `unavailable` before the log was heard of."""
        if self._store.epoch is None:
            raise unavailable("unavailable", "The keys are not loaded yet.")
        told: StateDigest | BucketDigests
        try:
            with self._store.freeze() as frozen:
                if query.bucket is None:
                    told = await digest_of(frozen)
                else:
                    told = await bucket_digests(frozen, query.bucket)
        except Busy:
            raise unavailable("busy", "Another digest is being computed.") from None
        return msgspec.json.encode(told)
