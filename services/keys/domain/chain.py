"""The chain of the log, recomputed event by event; the first thing that is not as it must be is named."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from msgspec import Struct

from keyledger.events import GENESIS, Epoch, Recorded, chain_hash


class Difference(Struct, frozen=True):
    """One thing that is not as it must be: where, what was expected, what is there instead."""

    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}"


class Differs(Exception):
    """A check that ended at its first difference."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(str(difference))
        self.difference = difference


class EpochBegun(Struct, frozen=True):
    """One telling of the log: what comes after `base_position` was hashed under the epoch's line."""

    epoch: Epoch
    base_position: int
    base_hash: bytes


class ChainEnd(Struct, frozen=True):
    """Where a chain ends."""

    epoch: Epoch
    position: int
    hash: bytes
    at: int


class ChainCheck:
    """Takes events in position order, from the first; raises `Differs` at the first that does not fit."""

    def __init__(self, epochs: Sequence[EpochBegun]) -> None:
        self.position = 0
        self.hash = GENESIS
        self.at = 0
        self._epochs = sorted(epochs, key=lambda begun: begun.epoch.number)
        self._entered = -1
        self._enter()

    @property
    def epoch(self) -> Epoch:
        """The epoch that the next event is hashed under."""
        return self._epochs[self._entered].epoch

    def take(self, event: Recorded) -> None:
        """Check the next event of the log."""
        expected = self.position + 1
        if event.position != expected:
            raise _differs(f"position {expected}", "an event", f"the next one at position {event.position}")
        where = f"position {event.position}"
        if event.at < self.at:
            raise _differs(where, f"a moment of at least {self.at} µs", f"{event.at} µs")
        try:
            computed = chain_hash(self.hash, self.epoch.line, event)
        except struct.error:
            raise _differs(where, "numbers that can be hashed", f"version {event.version}") from None
        if event.hash != computed:
            raise _differs(where, f"hash {computed.hex()}", event.hash.hex())
        self.position, self.hash, self.at = event.position, event.hash, event.at
        self._enter()

    def end(self, head: ChainEnd, last_position: int) -> ChainEnd:
        """Check that the head is where the events end, under the newest epoch; answers it."""
        if self._entered + 1 < len(self._epochs):
            begun = self._epochs[self._entered + 1]
            where = f"epoch {begun.epoch.text}"
            raise _differs(where, f"a base within {self.position} events", f"position {begun.base_position}")
        for what, expected, found in (
            ("position", str(max(self.position, last_position)), str(head.position)),
            ("hash", self.hash.hex(), head.hash.hex()),
            ("epoch", self.epoch.text, head.epoch.text),
        ):
            if expected != found:
                raise _differs(f"the head's {what}", expected, found)
        if head.at < self.at:
            raise _differs("the head's moment", f"at least {self.at} µs", f"{head.at} µs")
        return head

    def _enter(self) -> None:
        """Enter every epoch that begins here."""
        if not self._epochs:
            raise _differs("the epochs", "at least one", "none")
        while self._entered + 1 < len(self._epochs):
            begun = self._epochs[self._entered + 1]
            where = f"epoch {begun.epoch.text}"
            if begun.base_position > self.position:
                if self._entered < 0:
                    raise _differs(where, "to begin the log at position 0", f"position {begun.base_position}")
                return
            if begun.base_position < self.position:
                raise _differs(where, "a base no earlier than the epoch before", f"{begun.base_position}")
            if begun.base_hash != self.hash:
                raise _differs(f"{where}, base at {self.position}", self.hash.hex(), begun.base_hash.hex())
            self._entered += 1


def _differs(where: str, expected: str, found: str) -> Differs:
    return Differs(Difference(where, expected, found))
