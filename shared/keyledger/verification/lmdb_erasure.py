"""The keys of deleted workspaces leave an LMDB store bit by bit. No check finds one from the deletion on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import lmdb

from keyledger.verification.lmdb_walk import LOOKED_AT, Walk
from keyledger.verification.packing import OWNER
from keyledger.verification.rows import GONE, KEYS, rows_of
from keyledger.verification.store_file import StoreFile
from keyledger.verification.turns import Turn


def gone_in(txn: lmdb.Transaction[bytes]) -> frozenset[bytes]:
    """The raw ids of the workspaces some of whose keys may still have their rows."""
    return frozenset(row[len(GONE) :] for row, _ in rows_of(txn, GONE))


class Erasure:
    """Goes once through all keys, and finds those of the workspaces that were gone when it began."""

    def __init__(self, file: StoreFile) -> None:
        with file.reading() as txn:
            self.gone = gone_in(txn)
        self._walk = Walk(file, KEYS)

    @property
    def ended(self) -> bool:
        """Whether every key was looked at."""
        return self._walk.ended

    def some(self, steady: Callable[[], float], most: int) -> Iterator[tuple[bytes, bytes]]:
        """The rows of the next of these keys, `most` at most."""
        turn, found = Turn(steady, most=LOOKED_AT), 0
        for row, packed in self._walk.some(turn):
            if packed[OWNER] in self.gone:
                yield row, packed
                found += 1
                if found == most:
                    return
