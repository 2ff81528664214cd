"""Rows gone through a turn at a time while the store goes on: each turn has a transaction of its own."""

from __future__ import annotations

from collections.abc import Iterator

from keyledger.verification.rows import rows_of
from keyledger.verification.store_file import StoreFile
from keyledger.verification.turns import Turn

LOOKED_AT = 2000
"""Rows looked at in one turn; most are passed over."""


class Walk:
    """Every row of a kind in the order of their keys. What is added behind it on the way is found too."""

    def __init__(self, file: StoreFile, kind: bytes) -> None:
        self.ended = False
        self._file = file
        self._kind = kind
        self._after = b""

    def some(self, turn: Turn) -> Iterator[tuple[bytes, bytes]]:
        """The next rows, until the turn is over or nobody takes any more."""
        with self._file.reading() as txn:
            for row, packed in rows_of(txn, self._kind, after=self._after):
                self._after = row
                yield row, packed
                if turn.over():
                    return
        self.ended = True
