"""Where the projection lives: the records, and which position of which telling of the log they are.

`MemoryStore` keeps everything in dicts and starts empty with its process.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from typing import Protocol

from msgspec import Struct

from keyledger.digest import Peppers
from keyledger.events import GENESIS, Epoch, LostDenial
from keyledger.verification.frozen import BUCKETS, AnyRecord, Frozen, FrozenFold, bucket_of
from keyledger.verification.lost import Lost, denies_something, lost_of_key, lost_of_workspace
from keyledger.verification.projection import (
    NOTHING,
    Change,
    KeyRecord,
    WorkspaceRecord,
    change,
)
from keyledger.verification.turns import MOST
from keyledger.wire import Followed

KEPT_HASHES = 4096
"""How far back a second delivery is compared with what was applied."""


class Busy(Exception):
    """The fold is being read by someone else."""


class StoreUnavailable(Exception):
    """The store cannot take or give anything just now: a full disk, a file that is not what it was."""


class Damaged(Exception):
    """A store's file or a row of it is not what was written; the message says which."""


class Fit(Enum):
    """How an event fits what is applied."""

    NEXT = "next"
    KNOWN = "known"
    GAP = "gap"
    FORK = "fork"
    """The same position or its predecessor has another hash: this is another history."""


class Records(Protocol):
    """The records of one telling of the log, up to one position, as a check reads them."""

    @property
    def position(self) -> int:
        """The last position applied; 0 before the first."""
        ...

    @property
    def epoch(self) -> Epoch | None:
        """The epoch of what is applied; None before the log was first heard of."""
        ...

    def get(self, key_id: str) -> KeyRecord | None:
        """The key's record as it is judged: the fold of the log, and over it what was lost."""
        ...

    def workspace(self, workspace_id: str) -> WorkspaceRecord | None:
        """The workspace's record, as it is judged."""
        ...

    def find(self, digest: bytes) -> str | None:
        """The id of the key that was imported with a token of this digest."""
        ...

    def unfindable(self, peppers: Peppers) -> bool:
        """Whether some imported token has no digest under a pepper held, so that `find` cannot know it."""
        ...

    def freeze(self) -> AbstractContextManager[FrozenFold]:
        """The fold as it is now, for as long as the context lasts, while the store goes on; one at a time.

        Raises `Busy` while another is open.
        """
        ...


class Store(Records, Protocol):
    """The records, and what an event does to them. What cannot be kept raises `StoreUnavailable`."""

    @property
    def last_hash(self) -> bytes:
        """The hash of the last event applied."""
        ...

    def batch(self) -> AbstractContextManager[None]:
        """What is applied or put meanwhile is kept together when the context ends, or none of it.

        Nobody else reads it before, and nothing is to be awaited meanwhile. After an exception the store is
        whole, and at the position before it or at that of the last event.
        """
        ...

    def begin(self, epoch: Epoch) -> None:
        """Name the epoch of an empty store."""
        ...

    def seed(self, epoch: Epoch, position: int, digest: bytes, accepted: tuple[int, bytes] | None) -> None:
        """Begin an empty store at this position, whose hash is `digest`; the records follow by `put`.

        `accepted` are the last accepted epoch and the hash of the event that says so.
        """
        ...

    def put(self, record: KeyRecord | WorkspaceRecord, position: int) -> None:
        """Take a record as it stands after the event at `position`, which may be later than the store's."""
        ...

    def renumber(self, epoch: Epoch) -> None:
        """Take another number for the same line."""
        ...

    def hash_at(self, position: int) -> bytes | None:
        """The hash at a position no more than `KEPT_HASHES` back, else None."""
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

    def become(self, other: Store) -> Iterator[None]:
        """Become `other`, and go on refusing what was refused here, until `other` is accepted.

        It is looked for in steps, between which checks go on and nothing is to be applied; the last step
        makes it `other` at once. Before that nothing has changed here.
        """
        ...

    @property
    def untidy(self) -> bool:
        """Whether rows are left of what is gone; no check finds them."""
        ...

    def tidy(self, most: int = MOST) -> None:
        """Remove some of these rows, no more than `most` together.

        `unfindable` may go on counting tokens that were imported into a deleted workspace until none is left.
        """
        ...


class _Fold(Struct, frozen=True):
    """The records as the log alone tells them, which is what the next event is folded into."""

    keys: dict[str, KeyRecord]
    workspaces: dict[str, WorkspaceRecord]

    def get(self, key_id: str) -> KeyRecord | None:
        return self.keys.get(key_id)

    def workspace(self, workspace_id: str) -> WorkspaceRecord | None:
        return self.workspaces.get(workspace_id)


class MemoryStore:
    """`Store` in dicts."""

    def __init__(self) -> None:
        self._epoch: Epoch | None = None
        self._position = 0
        self._hashes: deque[bytes] = deque([GENESIS], maxlen=KEPT_HASHES + 1)
        self._keys: dict[str, KeyRecord] = {}
        self._workspaces: dict[str, WorkspaceRecord] = {}
        # every id there ever was, by bucket; and who reads the fold as it was, if anyone does
        self._ids: list[list[str]] = [[] for _ in range(BUCKETS)]
        self._frozen: Frozen | None = None
        self._imported: dict[bytes, str] = {}
        # how many imported tokens have digests under exactly these peppers
        self._peppered: Counter[tuple[str, ...]] = Counter()
        self._lost = Lost()
        # the last acceptance of an epoch, and the hash that tells it from another of the same number
        self._accepted: tuple[int, bytes] | None = None
        # the keys that a snapshot told of later than where the store began, and their positions
        self._told: dict[str, int] = {}

    @property
    def position(self) -> int:
        return self._position

    @property
    def epoch(self) -> Epoch | None:
        return self._epoch

    @property
    def last_hash(self) -> bytes:
        return self._hashes[-1]

    @contextmanager
    def batch(self) -> Generator[None]:
        # in memory whatever is applied is kept, and nothing can fail between two events
        yield

    def begin(self, epoch: Epoch) -> None:
        if self._position:
            raise ValueError("the store is not empty")
        self._epoch = epoch

    def seed(self, epoch: Epoch, position: int, digest: bytes, accepted: tuple[int, bytes] | None) -> None:
        self.begin(epoch)
        self._position, self._accepted = position, accepted
        self._hashes = deque([digest], maxlen=KEPT_HASHES + 1)

    def put(self, record: KeyRecord | WorkspaceRecord, position: int) -> None:
        if isinstance(record, WorkspaceRecord):
            # its events set what they name, so those that it knows already do no harm
            self._about_to_change(record.workspace_id, self._workspaces.get(record.workspace_id))
            self._workspaces[record.workspace_id] = record
            if record.deleted and position > self._position:
                # an earlier page may have told of its keys, and its last event will count no more
                self._drop(record.workspace_id)
            return
        self._about_to_change(record.key_id, self._keys.get(record.key_id))
        found_by = [digest for each in record.secrets if each.foreign for digest in each.digests.values()]
        if found_by:
            self._import(record, tuple(found_by))
        self._keys[record.key_id] = record
        if position > self._position:
            self._told[record.key_id] = position

    def renumber(self, epoch: Epoch) -> None:
        self._epoch = epoch

    def hash_at(self, position: int) -> bytes | None:
        back = self._position - position
        return self._hashes[-1 - back] if 0 <= back < len(self._hashes) else None

    def get(self, key_id: str) -> KeyRecord | None:
        return self._lost.keys.get(key_id) or self._keys.get(key_id)

    def workspace(self, workspace_id: str) -> WorkspaceRecord | None:
        return self._lost.workspaces.get(workspace_id) or self._workspaces.get(workspace_id)

    def find(self, digest: bytes) -> str | None:
        return self._imported.get(digest)

    def unfindable(self, peppers: Peppers) -> bool:
        return any(not peppers.holds_any(names) for names in self._peppered)

    def fit(self, event: Followed) -> Fit:
        return fit_of(self, event)

    def apply(self, event: Followed) -> Change:
        fit = self.fit(event)
        if fit is Fit.KNOWN:
            return NOTHING
        if fit is not Fit.NEXT:
            raise ValueError(f"position {event.position} does not follow {self._position}")
        told = self._told.get(event.stream_id, 0) >= event.position
        effect = NOTHING if told else change(self._fold, event)
        if effect.key is not None:
            if effect.found_by:
                self._import(effect.key, effect.found_by)
            self._about_to_change(effect.key.key_id, self._keys.get(effect.key.key_id))
            self._keys[effect.key.key_id] = effect.key
            self._lost.key_changed(effect.key)
        if effect.workspace is not None:
            workspace_id = effect.workspace.workspace_id
            self._about_to_change(workspace_id, self._workspaces.get(workspace_id))
            self._workspaces[workspace_id] = effect.workspace
            self._lost.workspace_changed(effect.workspace)
        if effect.gone is not None:
            self._drop(effect.gone)
        if effect.lost:
            self._lost.add(effect.lost, self._fold)
        if effect.accepted is not None:
            self._lost.clear()
            self._accepted = (effect.accepted, event.hash)
        self._position = event.position
        self._hashes.append(event.hash)
        return effect

    def _import(self, record: KeyRecord, digests: tuple[bytes, ...]) -> None:
        self._imported.update(dict.fromkeys(digests, record.key_id))
        before = self._keys.get(record.key_id)
        if before is not None:
            self._peppered -= Counter(foreign_peppers(before))
        self._peppered.update(foreign_peppers(record))

    def _drop(self, workspace_id: str) -> None:
        gone = [key for key, record in self._keys.items() if record.workspace_id == workspace_id]
        for key_id in gone:
            self._about_to_change(key_id, self._keys[key_id])
            record = self._keys.pop(key_id)
            self._lost.gone(key_id)
            self._peppered -= Counter(foreign_peppers(record))
            for secret in record.secrets if any(each.foreign for each in record.secrets) else ():
                for digest in secret.digests.values():
                    self._imported.pop(digest, None)

    @contextmanager
    def freeze(self) -> Generator[Frozen]:
        if self._frozen is not None:
            raise Busy
        frozen = Frozen(self._epoch, self._position, self._keys, self._workspaces, self._ids)
        self._frozen = frozen
        try:
            yield frozen
        finally:
            if self._frozen is frozen:
                self._frozen = None

    def _about_to_change(self, record_id: str, record: AnyRecord | None) -> None:
        if record is None:
            self._ids[bucket_of(record_id)].append(record_id)
        if self._frozen is not None:
            self._frozen.keep(record_id, record)

    def beside(self) -> MemoryStore:
        return MemoryStore()

    untidy = False

    def tidy(self, most: int = MOST) -> None:
        """Nothing is left to remove."""

    def become(self, other: Store) -> Iterator[None]:
        if not isinstance(other, MemoryStore):
            raise TypeError("a store can only become one of its own kind")
        yield
        if not accepted_since(other._accepted, other._epoch, self._epoch):
            other._lost.add(self._lost_in(other), other._fold)
        self._lost, self._accepted = other._lost, other._accepted
        self._epoch, self._position, self._hashes = other._epoch, other._position, other._hashes
        # what is frozen here goes on reading the records that are let go
        self._frozen = None
        self._keys, self._workspaces, self._ids = other._keys, other._workspaces, other._ids
        self._imported, self._peppered = other._imported, other._peppered

    @property
    def _fold(self) -> _Fold:
        return _Fold(self._keys, self._workspaces)

    def _lost_in(self, other: MemoryStore) -> Iterator[LostDenial]:
        """What is refused here and would not be in `other`."""
        for key_id in self._keys:
            old = self.get(key_id)
            if old is not None and denies_something(old) and (new := other.get(key_id)) is not None:
                yield from lost_of_key(old, new)
        for workspace_id in self._workspaces:
            before, now = self.workspace(workspace_id), other.workspace(workspace_id)
            if before is not None and now is not None and before != now:
                yield from lost_of_workspace(before, now)


def fit_of(store: Store, event: Followed) -> Fit:
    """How the event fits what this store has applied."""
    if event.position > store.position + 1:
        return Fit.GAP
    if event.position == store.position + 1:
        return Fit.NEXT if event.previous_hash == store.last_hash else Fit.FORK
    known = store.hash_at(event.position)
    return Fit.KNOWN if known is None or known == event.hash else Fit.FORK


def has(store: Records, position: int, epoch: str | None) -> bool:
    """Whether the store has this position, of this epoch if one is given."""
    ours = store.epoch
    return store.position >= position and (epoch is None or (ours is not None and ours.text == epoch))


def accepted_since(accepted: tuple[int, bytes] | None, ours: Epoch | None, before: Epoch | None) -> bool:
    """Whether an operator accepted our telling after it parted from the one `before`."""
    if accepted is None or ours is None or before is None or ours.line == before.line:
        # nobody noticed that the log went back: an acceptance in it may be from before that
        return False
    return accepted[0] >= ours.number


def foreign_peppers(record: KeyRecord) -> list[tuple[str, ...]]:
    """Under which peppers each imported token of the key has digests."""
    return [tuple(sorted(secret.digests)) for secret in record.secrets if secret.foreign]
