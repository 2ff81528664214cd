"""An LMDB store's fold as it was at one position: a reading transaction, gone through in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import lmdb

from keyledger.events import Epoch
from keyledger.verification.frozen import SLICE, AnyRecord, Found, bucket_of
from keyledger.verification.lmdb_erasure import gone_in
from keyledger.verification.packing import OWNER, Packing
from keyledger.verification.record_ids import WORKSPACE, text_id
from keyledger.verification.rows import KEYS, WORKSPACES, rows_of
from keyledger.verification.store import Busy

LONGEST = 120.0
"""Seconds that pages which changed since may be kept from being used again."""


class LmdbFrozen:
    """`FrozenFold` of one transaction, which ends with the store's `freeze`."""

    def __init__(
        self,
        txn: lmdb.Transaction[bytes],
        packing: Packing,
        epoch: Epoch | None,
        position: int,
        steady: Callable[[], float],
    ) -> None:
        """`steady` are seconds of `Clock.steady`."""
        self.epoch = epoch
        self.position = position
        self._txn = txn
        self._packing = packing
        self._steady = steady
        self._until = steady() + LONGEST
        self._gone = gone_in(txn)

    def slices(self, bucket: int | None = None) -> Iterator[list[Found]]:
        """As `FrozenFold` says, in the order of all ids; `Busy` when it takes too long."""
        found: list[Found] = []
        for looked, each in enumerate(self._all(bucket), 1):
            if each is not None:
                found.append(each)
            if looked % SLICE == 0:
                yield found
                found = []
                if self._steady() > self._until:
                    raise Busy
        yield found

    def bucket(self, number: int) -> list[tuple[str, AnyRecord]]:
        """The records of one bucket in the order of their ids."""
        return [(each, record) for found in self.slices(number) for _, each, record in found]

    def _all(self, bucket: int | None) -> Iterator[Found | None]:
        """Everything in the order of its ids, as None what is not of the bucket."""
        for kind in (KEYS, WORKSPACES):
            for row, packed in rows_of(self._txn, kind):
                if kind == KEYS and packed[OWNER] in self._gone:
                    yield None
                    continue
                record_id = row.decode() if kind == KEYS else text_id(row[1:], WORKSPACE)
                number = bucket_of(record_id)
                wanted = bucket is None or bucket == number
                yield (number, record_id, self._record(row, record_id, packed)) if wanted else None

    def _record(self, row: bytes, record_id: str, packed: bytes) -> AnyRecord:
        if row.startswith(KEYS):
            return self._packing.key_record(row, record_id, packed)
        return self._packing.workspace_record(row, record_id, packed)
