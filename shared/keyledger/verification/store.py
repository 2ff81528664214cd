"""Where the projection lives: the records, and which position of which telling of the log they are.

`MemoryStore` keeps everything in dicts and starts empty with its process.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Protocol

from keyledger.events import GENESIS, Epoch
from keyledger.verification.projection import (
    NOTHING,
    Change,
    KeyRecord,
    WorkspaceRecord,
    carry_over,
    change,
    denies_something,
)
from keyledger.wire import Followed

KEPT_HASHES = 4096
"""How far back a second delivery is compared with what was applied."""


class Fit(Enum):
    """How an event fits what is applied."""

    NEXT = "next"
    KNOWN = "known"
    GAP = "gap"
    FORK = "fork"
    """The same position or its predecessor has another hash: this is another history."""


class Store(Protocol):
    """The records of one telling of the log, up to one position."""

    @property
    def position(self) -> int:
        """The last position applied; 0 before the first."""
        ...

    @property
    def epoch(self) -> Epoch | None:
        """The epoch of what is applied; None before the log was first heard of."""
        ...

    @property
    def last_hash(self) -> bytes:
        """The hash of the last event applied."""
        ...

    def begin(self, epoch: Epoch) -> None:
        """Name the epoch of an empty store."""
        ...

    def renumber(self, epoch: Epoch) -> None:
        """Take another number for the same line."""
        ...

    def hash_at(self, position: int) -> bytes | None:
        """The hash at a position no more than `KEPT_HASHES` back, else None."""
        ...

    def get(self, key_id: str) -> KeyRecord | None:
        """The key's record."""
        ...

    def workspace(self, workspace_id: str) -> WorkspaceRecord | None:
        """The workspace's record."""
        ...

    def fit(self, event: Followed) -> Fit:
        """How this event fits; only `NEXT` may be applied."""
        ...

    def apply(self, event: Followed) -> Change:
        """Apply an event that is `NEXT`, position and effect together; `ValueError` for any other."""
        ...

    def beside(self) -> Store:
        """An empty store to build another telling in."""
        ...

    def swap(self, other: Store) -> None:
        """Become `other`, at once, and go on refusing what was refused here."""
        ...


class MemoryStore:
    """`Store` in dicts."""

    def __init__(self) -> None:
        self._epoch: Epoch | None = None
        self._position = 0
        self._hashes: deque[bytes] = deque([GENESIS], maxlen=KEPT_HASHES + 1)
        self._keys: dict[str, KeyRecord] = {}
        self._workspaces: dict[str, WorkspaceRecord] = {}

    @property
    def position(self) -> int:
        return self._position

    @property
    def epoch(self) -> Epoch | None:
        return self._epoch

    @property
    def last_hash(self) -> bytes:
        return self._hashes[-1]

    def begin(self, epoch: Epoch) -> None:
        if self._position:
            raise ValueError("the store is not empty")
        self._epoch = epoch

    def renumber(self, epoch: Epoch) -> None:
        self._epoch = epoch

    def hash_at(self, position: int) -> bytes | None:
        back = self._position - position
        return self._hashes[-1 - back] if 0 <= back < len(self._hashes) else None

    def get(self, key_id: str) -> KeyRecord | None:
        return self._keys.get(key_id)

    def workspace(self, workspace_id: str) -> WorkspaceRecord | None:
        return self._workspaces.get(workspace_id)

    def fit(self, event: Followed) -> Fit:
        if event.position > self._position + 1:
            return Fit.GAP
        if event.position == self._position + 1:
            return Fit.NEXT if event.previous_hash == self._hashes[-1] else Fit.FORK
        known = self.hash_at(event.position)
        return Fit.KNOWN if known is None or known == event.hash else Fit.FORK

    def apply(self, event: Followed) -> Change:
        fit = self.fit(event)
        if fit is Fit.KNOWN:
            return NOTHING
        if fit is not Fit.NEXT:
            raise ValueError(f"position {event.position} does not follow {self._position}")
        effect = change(self, event)
        if effect.key is not None:
            self._keys[effect.key.key_id] = effect.key
        if effect.workspace is not None:
            self._workspaces[effect.workspace.workspace_id] = effect.workspace
        self._position = event.position
        self._hashes.append(event.hash)
        return effect

    def beside(self) -> MemoryStore:
        return MemoryStore()

    def swap(self, other: Store) -> None:
        if not isinstance(other, MemoryStore):
            raise TypeError("a store can only become one of its own kind")
        for key_id, record in self._keys.items():
            told_anew = other._keys.get(key_id)
            if told_anew is not None and denies_something(record):
                other._keys[key_id] = carry_over(record, told_anew)
        self._epoch, self._position, self._hashes = other._epoch, other._position, other._hashes
        self._keys, self._workspaces = other._keys, other._workspaces
