"""`Store` in an LMDB file, written by one process and read by any number."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import msgspec
from msgspec.structs import replace

from keyledger.errors import Refusal
from keyledger.events import Epoch, LostDenial
from keyledger.verification.board import Board
from keyledger.verification.lmdb_erasure import Erasure, gone_in
from keyledger.verification.lmdb_walk import LOOKED_AT, Walk
from keyledger.verification.lmdb_writing import LmdbWriting
from keyledger.verification.lost import lost_of_key, lost_of_workspace
from keyledger.verification.packing import DENIES, IMPORTED, OWNER
from keyledger.verification.projection import NOTHING, Change, KeyRecord, WorkspaceRecord, change
from keyledger.verification.record_ids import KEY, WORKSPACE, raw_id, text_id
from keyledger.verification.rows import DIGEST_SIZE, GONE, IMPORTS, KEYS, TOLD, WORKSPACES, rows_of
from keyledger.verification.store import (
    Damaged,
    Fit,
    Store,
    StoreUnavailable,
    accepted_since,
    fit_of,
    foreign_peppers,
)
from keyledger.verification.turns import MOST, Turn
from keyledger.wire import Followed

_log = logging.getLogger(__name__)


class _Fold:
    """The records as the log alone tells them, which is what the next event is folded into."""

    def __init__(self, store: LmdbWriting) -> None:
        self._store = store

    def get(self, key_id: str) -> KeyRecord | None:
        return self._store.folded_key(key_id)

    def workspace(self, workspace_id: str) -> WorkspaceRecord | None:
        return self._store.folded_workspace(workspace_id)


class LmdbStore(LmdbWriting):
    """The one that writes. Its own checks read it like any other process's."""

    _beside: LmdbStore | None = None
    _erasure: Erasure | None = None

    def begin(self, epoch: Epoch) -> None:
        if self.position:
            raise ValueError("the store is not empty")
        self.renumber(epoch)

    def renumber(self, epoch: Epoch) -> None:
        with self.batch():
            self._set(replace(self._state, epoch=epoch))

    def seed(self, epoch: Epoch, position: int, digest: bytes, accepted: tuple[int, bytes] | None) -> None:
        with self.batch():
            self.begin(epoch)
            self._set(replace(self._state, position=position, hash=digest, accepted=accepted))
            self._began_at(position, digest)

    def put(self, record: KeyRecord | WorkspaceRecord, position: int) -> None:
        with self.batch():
            self._batch.touched = True
            if isinstance(record, WorkspaceRecord):
                self._batch.workspaces[record.workspace_id] = record
                if record.deleted and position > self.position:
                    self._gone(record.workspace_id)
                return
            found_by = [digest for each in record.secrets if each.foreign for digest in each.digests.values()]
            if found_by:
                self._import(record, tuple(found_by))
            self._batch.keys[record.key_id] = record
            raw = raw_id(record.key_id, KEY)
            if position > self.position and raw is not None:
                self._batch.rows[TOLD + raw] = position.to_bytes(8)
                self._set(replace(self._state, told_until=max(position, self._state.told_until)))

    def fit(self, event: Followed) -> Fit:
        return fit_of(self, event)

    def apply(self, event: Followed) -> Change:
        fit = self.fit(event)
        if fit is Fit.KNOWN:
            return NOTHING
        if fit is not Fit.NEXT:
            raise ValueError(f"position {event.position} does not follow {self.position}")
        if self._staged is not None:
            return self._applied(event)
        with self.batch():
            return self._applied(event)

    def _applied(self, event: Followed) -> Change:
        told = event.position <= self._state.told_until and self._told(event)
        effect = NOTHING if told else change(self._fold, event)
        self._take(effect, event.hash)
        self._moved_to(event.position, event.hash)
        if 0 < self._state.told_until <= event.position:
            self._forget_told()
        return effect

    def lose(self, lost: tuple[LostDenial, ...]) -> None:
        """Refuse these as well, from now on."""
        with self.batch():
            self._lost.note(lost)
            self._batch.lost = self._batch.touched = True

    def accepted_since(self, before: Epoch | None) -> bool:
        """Whether an operator accepted this telling after it parted from the one of this epoch."""
        return accepted_since(self._state.accepted, self.epoch, before)

    @property
    def _fold(self) -> _Fold:
        return _Fold(self)

    def _take(self, effect: Change, digest: bytes) -> None:
        if effect.key is not None:
            if effect.found_by:
                self._import(effect.key, effect.found_by)
            self._batch.keys[effect.key.key_id] = effect.key
        if effect.workspace is not None:
            self._batch.workspaces[effect.workspace.workspace_id] = effect.workspace
        if effect.gone is not None:
            self._gone(effect.gone)
        if effect.lost:
            self.lose(effect.lost)
        if effect.accepted is not None:
            self._lost.clear()
            self._batch.lost = True
            self._set(replace(self._state, accepted=(effect.accepted, digest)))

    def _told(self, event: Followed) -> bool:
        """Whether the snapshot's record of this key knew of the event already."""
        if (raw := raw_id(event.stream_id, KEY)) is None:
            return False
        told = self._batch.rows.get(TOLD + raw) or self._opened.get(TOLD + raw)
        return told is not None and int.from_bytes(told) >= event.position

    def _forget_told(self) -> None:
        self._set(replace(self._state, told_until=0, forgetting=True))

    def _import(self, record: KeyRecord, digests: tuple[bytes, ...]) -> None:
        staged = self._batch
        raw = raw_id(record.key_id, KEY)
        staged.rows.update({IMPORTS + digest: raw for digest in digests if len(digest) == DIGEST_SIZE})
        before = self.folded_key(record.key_id)
        if before is not None:
            self._peppers_of -= Counter(foreign_peppers(before))
        self._peppers_of.update(foreign_peppers(record))
        staged.sidelined = True

    def _gone(self, workspace_id: str) -> None:
        """No key of this workspace is found any more; their rows go bit by bit."""
        raw = raw_id(workspace_id, WORKSPACE)
        if (
            raw is None
            or self._batch.rows.get(GONE + raw) is not None
            or self._opened.get(GONE + raw) is not None
        ):
            return
        self._batch.rows[GONE + raw] = b"\1"
        self._batch.sidelined = True
        self._set(replace(self._state, erasing=self._state.erasing + 1))

    # -- what was put off

    @property
    def untidy(self) -> bool:
        return self._state.erasing > 0 or self._state.forgetting

    def tidy(self, most: int = MOST) -> None:
        if not self.untidy:
            return
        with self.batch():
            if self._state.forgetting:
                self._forget_some(most)
            else:
                self._erase_some(most)

    def _load(self) -> None:
        # what it has passed may still be there
        self._erasure = None
        super()._load()

    def _forget_some(self, most: int) -> None:
        with self._opened.reading() as txn:
            rows = [row for row, _ in islice(rows_of(txn, TOLD), most)]
        self._batch.rows.update(dict.fromkeys(rows))
        self._set(replace(self._state, forgetting=len(rows) == most))

    def _erase_some(self, most: int) -> None:
        erasure = self._erasure = self._erasure or Erasure(self._opened)
        try:
            for row, packed in erasure.some(self._steady, most):
                self._erase(row, packed)
        except (Damaged, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self.distrust(error) from None
        if erasure.ended:
            self._erasure = None
            self._batch.rows.update(dict.fromkeys(GONE + raw for raw in erasure.gone))
            self._batch.sidelined = True
            self._set(replace(self._state, erasing=self._state.erasing - len(erasure.gone)))

    def _erase(self, row: bytes, packed: bytes) -> None:
        staged, key_id = self._batch, row.decode()
        staged.keys[key_id], staged.touched = None, True
        if not packed[0] & IMPORTED:
            return
        record = self._packing.key_record(row, key_id, packed)
        self._peppers_of -= Counter(foreign_peppers(record))
        staged.sidelined = True
        for digest in {each for secret in record.secrets for each in secret.digests.values()}:
            # it may have been imported again, elsewhere
            if self._opened.get(IMPORTS + digest) == row[len(KEYS) :]:
                staged.rows[IMPORTS + digest] = None

    # -- another telling

    def beside(self) -> LmdbStore:
        if self._beside is not None:
            self._beside.discard()
        serial = self._folder.fresh()
        self._beside = LmdbStore(
            Board.private(), self._folder, self._steady, serial, new=True, map_size=self._map_size
        )
        return self._beside

    def close(self) -> None:
        if self._beside is not None:
            self._beside.discard()
            self._beside = None
        super().close()

    def discard(self) -> None:
        """Close, and take the file away."""
        if self._file is not None:
            self._file.remove()
        self.close()

    def become(self, other: Store) -> Iterator[None]:
        if not isinstance(other, LmdbStore):
            raise TypeError("a store can only become one of its own kind")
        lost: list[LostDenial] = []
        if not other.accepted_since(self.epoch):
            for found in self._lost_in(other):
                lost += found
                yield
        if lost:
            other.lose(tuple(lost))
        before = self._file
        self._file, self._serial, other._file = other._file, other._serial, None
        self._words, self._packing = other._words, other._packing
        self._state, self._hashes, self._lost = other._state, other._hashes, other._lost
        self._peppered, self._peppers_of = other._peppered, other._peppers_of
        self._beside = self._erasure = None
        self._drop_all()
        self._lay_over()
        self.board.broken = False
        self.publish()
        if before is not None:
            before.remove()
            before.close()

    def _lost_in(self, other: LmdbStore) -> Iterator[list[LostDenial]]:
        """What is refused here and would not be in `other`, as far as what is here can still be read."""
        lost = {denial.key_id or denial.workspace_id for denial in self._lost.denials()}
        try:
            with self._opened.reading() as txn:
                gone = gone_in(txn)
            keys, workspaces = Walk(self._opened, KEYS), Walk(self._opened, WORKSPACES)
            while not keys.ended:
                found: list[LostDenial] = []
                turn = Turn(self._steady, most=LOOKED_AT)
                for row, packed in keys.some(turn):
                    if packed[OWNER] in gone:
                        continue
                    if packed[0] & DENIES or (lost and row.decode() in lost):
                        key_id = row.decode()
                        old = self._lost.key(self._packing.key_record(row, key_id, packed))
                        if (new := other.get(key_id)) is not None:
                            found += lost_of_key(old, new)
                yield found
            while not workspaces.ended:
                found = []
                for row, packed in workspaces.some(Turn(self._steady, most=LOOKED_AT)):
                    workspace_id = text_id(row[1:], WORKSPACE)
                    before = self._packing.workspace_record(row, workspace_id, packed)
                    now = other.workspace(workspace_id)
                    if now is not None:
                        found += lost_of_workspace(self._lost.workspace(before), now)
                yield found
        except (Damaged, StoreUnavailable, Refusal, msgspec.MsgspecError, IndexError) as error:
            _log.error("not all that was refused before can be read: %s", error)
