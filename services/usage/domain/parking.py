"""Batches of the use log that cannot be counted: told apart, tried a few times, then passed over."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from keyledger.verification.use_rule import uncountable
from keyledger.wire import RecordedUses

TRIES = 3
"""So often a batch is tried alone before it is passed over: what a feed told wrongly it may tell rightly."""


class Unfoldable(Exception):
    """Something in these batches cannot be counted, however often it is told; nothing of them was."""


class Parked(Struct, frozen=True):
    """A batch that is passed over: no counter has its uses, nor does a derivation."""

    position: int
    uses: int
    why: str


class Unread(Struct, frozen=True):
    """A record of the feed that is no batch; the positions of a page are dense, so its own is known."""

    position: int
    uses: tuple[()] = ()
    erased: tuple[()] = ()


class Tries:
    """How often the batch that stands in the way was tried alone."""

    def __init__(self) -> None:
        self._position = 0
        self._failed = 0

    def spent(self, position: int) -> bool:
        """Note that this one failed again; True when it is to be passed over."""
        if position != self._position:
            self._position, self._failed = position, 0
        self._failed += 1
        return self._failed >= TRIES


def check(batches: Iterable[RecordedUses | Unread]) -> None:
    """Raise `Unfoldable` when one of them holds what no counter may take."""
    for batch in batches:
        if isinstance(batch, Unread):
            raise Unfoldable("unreadable")
        for use in batch.uses:
            if (number := uncountable(use)) is not None:
                raise Unfoldable(number)
