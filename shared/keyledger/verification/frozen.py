"""A store's fold as it was at one position, read bit by bit while the store goes on applying events.

In memory nothing is copied at the start: the store hands over what it is about to replace, and only that is
kept.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias

from keyledger.events import Epoch
from keyledger.verification.projection import KeyRecord, WorkspaceRecord

BUCKETS = 1024
"""Records are read bucket by bucket; which bucket a record is in follows from its id alone."""
AnyRecord: TypeAlias = KeyRecord | WorkspaceRecord
Found: TypeAlias = tuple[int, str, AnyRecord]
"""A record's bucket, its id, and itself."""
SLICE = 128
"""Records gone through between two turns of the event loop: about a millisecond."""


def bucket_of(record_id: str) -> int:
    """The bucket of a key or a workspace, the same everywhere."""
    return zlib.crc32(record_id.encode()) % BUCKETS


class FrozenFold(Protocol):
    """A store's fold at `position` of `epoch`, for as long as its context lasts."""

    @property
    def epoch(self) -> Epoch | None:
        """The epoch it was frozen in."""
        ...

    @property
    def position(self) -> int:
        """The position it was frozen at."""
        ...

    def slices(self, bucket: int | None = None) -> Iterator[list[Found]]:
        """The records, of one bucket or of all, a few at a time; those of a bucket in order of their ids."""
        ...

    def bucket(self, number: int) -> list[tuple[str, AnyRecord]]:
        """The records of one bucket in the order of their ids."""
        ...


class Frozen:
    """The records at `position`. The store calls `keep` before it replaces or removes one."""

    def __init__(
        self,
        epoch: Epoch | None,
        position: int,
        keys: Mapping[str, KeyRecord],
        workspaces: Mapping[str, WorkspaceRecord],
        ids: Sequence[Sequence[str]],
    ) -> None:
        self.epoch = epoch
        self.position = position
        self._keys = keys
        self._workspaces = workspaces
        self._ids = ids
        self._kept: dict[str, AnyRecord | None] = {}

    def keep(self, record_id: str, record: AnyRecord | None) -> None:
        """This record, None for none, is about to be replaced."""
        self._kept.setdefault(record_id, record)

    def slices(self, bucket: int | None = None) -> Iterator[list[Found]]:
        """As `FrozenFold` says, bucket by bucket."""
        for number in range(BUCKETS) if bucket is None else (bucket,):
            found = self.bucket(number)
            for at in range(0, max(len(found), 1), SLICE):
                yield [(number, record_id, record) for record_id, record in found[at : at + SLICE]]

    def bucket(self, number: int) -> list[tuple[str, AnyRecord]]:
        """The records of one bucket in the order of their ids."""
        found = ((record_id, self._then(record_id)) for record_id in sorted({*self._ids[number]}))
        return [(record_id, record) for record_id, record in found if record is not None]

    def _then(self, record_id: str) -> AnyRecord | None:
        if record_id in self._kept:
            return self._kept[record_id]
        return self._keys.get(record_id) or self._workspaces.get(record_id)
