"""The records of an LMDB store as a check reads them: from this process's memory, else from the file.

Every process of a verifier has one of these over the same file. Memory is bounded, and what the board says
has changed is dropped from it before anything is answered.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager

import msgspec

from keyledger.digest import Peppers
from keyledger.errors import Refusal, unavailable
from keyledger.events import Epoch
from keyledger.verification.board import GENERATION, Board, Current
from keyledger.verification.frozen import FrozenFold
from keyledger.verification.lmdb_frozen import LmdbFrozen
from keyledger.verification.lost import Lost
from keyledger.verification.packing import Packing, Words
from keyledger.verification.projection import KeyRecord, WorkspaceRecord
from keyledger.verification.record_ids import KEY, WORKSPACE, raw_id, text_id
from keyledger.verification.rows import (
    IMPORTS,
    LOST,
    STATE,
    WORKSPACES,
    State,
    decode_lost,
    decode_state,
    key_row,
    word_row,
)
from keyledger.verification.store import Busy, Damaged, StoreUnavailable
from keyledger.verification.store_file import Foreign, StoreFile
from keyledger.verification.store_folder import StoreFolder

KEPT_RECORDS = 65_536
"""Decoded records of keys, and of workspaces, in the memory of one process."""
_SHED = 4
_MARKS = 1 << 16
_ANYHOW = 16
"""One of so many records read is kept at once: two that share a mark would else keep each other out."""
_TRIES = 5
_log = logging.getLogger(__name__)
_UNREADABLE = (Damaged, msgspec.MsgspecError, UnicodeDecodeError)


class LmdbRecords:
    """`Records` of the file that the board names current; `Foreign` when that is no store of ours."""

    def __init__(self, board: Board, folder: StoreFolder, steady: Callable[[], float]) -> None:
        """`steady` are seconds of `Clock.steady`."""
        self.board = board
        self._counters = board.counters
        self._steady = steady
        self._folder = folder
        self._file: StoreFile | None = None
        self._serial = 0
        self._seen = -1
        self._current = Current()
        # those that were asked for lately, and those before them, of which some are asked for again
        self._keys: dict[str, KeyRecord] = {}
        self._older: dict[str, KeyRecord] = {}
        # which keys were asked for once: to keep one in memory costs as much as to read it
        self._asked = bytearray(_MARKS)
        self._reads = 0
        self._workspaces: OrderedDict[str, WorkspaceRecord] = OrderedDict()
        self._shed: list[dict[str, KeyRecord] | dict[str, WorkspaceRecord]] = []
        self._peppered: Counter[tuple[str, ...]] = Counter()
        self._lost = Lost()
        self._state = State()
        self._frozen = False
        self._over = False
        self._let_go(None, 0)

    # -- what a check asks

    @property
    def position(self) -> int:
        if self._counters[GENERATION] != self._seen:
            self._catch_up()
        return self._current.position

    @property
    def epoch(self) -> Epoch | None:
        if self._counters[GENERATION] != self._seen:
            self._catch_up()
        return self._current.epoch

    def get(self, key_id: str) -> KeyRecord | None:
        if self._counters[GENERATION] != self._seen:
            self._catch_up()
        record = self._keys.get(key_id) or self._read_key(key_id)
        return self._as_judged(record) if self._over and record is not None else record

    def workspace(self, workspace_id: str) -> WorkspaceRecord | None:
        if self._counters[GENERATION] != self._seen:
            self._catch_up()
        record = self._workspaces.get(workspace_id) or self._read_workspace(workspace_id)
        return self._lost.workspace(record) if self._lost.any and record is not None else record

    def find(self, digest: bytes) -> str | None:
        if self._counters[GENERATION] != self._seen:
            self._catch_up()
        raw = self._row(IMPORTS + digest)
        if raw is None:
            return None
        key_id = text_id(raw, KEY)
        return None if self._over and self.get(key_id) is None else key_id

    def unfindable(self, peppers: Peppers) -> bool:
        if self._counters[GENERATION] != self._seen:
            self._catch_up()
        return any(not peppers.holds_any(names) for names in self._peppered)

    @contextmanager
    def freeze(self) -> Generator[FrozenFold]:
        if self._frozen:
            raise Busy
        if self._counters[GENERATION] != self._seen:
            self._catch_up()
        if self._file is None:
            raise Busy
        self._frozen = True
        try:
            with self._file.reading() as txn:
                state = decode_state(txn.get(STATE))
                yield LmdbFrozen(txn, self._packing, state.epoch, state.position, self._steady)
        except Damaged as error:
            raise self.distrust(error) from None
        finally:
            self._frozen = False

    # -- where it comes from

    def _as_judged(self, record: KeyRecord) -> KeyRecord | None:
        """The record with what lies over it: its workspace may be gone, and what was lost is refused."""
        if self._state.erasing:
            workspace = self._workspaces.get(record.workspace_id) or self._read_workspace(record.workspace_id)
            if workspace is not None and workspace.deleted:
                return None
        return self._lost.key(record)

    def _lay_over(self) -> None:
        """Have `get` look at what lies over the records while something does."""
        self._over = self._lost.any or self._state.erasing > 0

    def _read_key(self, key_id: str) -> KeyRecord | None:
        """The record of long ago or in the file, kept in memory when it is asked for again."""
        if key_id in self._older:
            record = self._older.pop(key_id)
            self._keep(key_id, record)
            return record
        row, file = key_row(key_id), self._file
        if row is None or file is None:
            return None
        try:
            packed = file.get(row)
            if packed is None:
                return None
            record = self._packing.key_record(row, key_id, packed)
        except _UNREADABLE as error:
            raise self.distrust(error) from None
        except StoreUnavailable as error:
            raise _unread(error) from None
        mark = hash(key_id)
        at, mark = mark % _MARKS, (mark >> 16) & 0xFF
        self._reads += 1
        if self._asked[at] == mark or self._reads % _ANYHOW == 0:
            self._keep(key_id, record)
        else:
            self._asked[at] = mark
        return record

    def _keep(self, key_id: str, record: KeyRecord) -> None:
        if len(self._keys) >= KEPT_RECORDS // 2:
            self._shed.append(self._older)
            self._older, self._keys = self._keys, {}
        self._keys[key_id] = record
        if self._shed:
            self._free_some()

    def _read_workspace(self, workspace_id: str) -> WorkspaceRecord | None:
        raw = raw_id(workspace_id, WORKSPACE)
        if raw is None or (packed := self._row(row := WORKSPACES + raw)) is None:
            return None
        try:
            record = self._packing.workspace_record(row, workspace_id, packed)
        except _UNREADABLE as error:
            raise self.distrust(error) from None
        if len(self._workspaces) >= KEPT_RECORDS:
            self._workspaces.popitem(last=False)
        self._workspaces[workspace_id] = record
        return record

    def _row(self, key: bytes) -> bytes | None:
        if self._file is None:
            return None
        try:
            return self._file.get(key)
        except Damaged as error:
            raise self.distrust(error) from None
        except StoreUnavailable as error:
            raise _unread(error) from None

    def _drop_all(self) -> None:
        # freed a few at a time, and faster than others are read: all at once would hold everybody up
        self._shed += [self._keys, self._older, self._workspaces]
        self._keys, self._older, self._workspaces = {}, {}, OrderedDict()

    def _free_some(self) -> None:
        last = self._shed[-1]
        for _ in range(min(_SHED, len(last))):
            last.popitem()
        if not last:
            self._shed.pop()

    def _drop(self, record_id: str) -> None:
        self._keys.pop(record_id, None)
        self._older.pop(record_id, None)
        self._workspaces.pop(record_id, None)

    def distrust(self, error: Exception) -> Refusal:
        """Say that the file is damaged, so that another is built; the refusal to raise."""
        if not self.board.broken:
            _log.error("the store is damaged and will be built anew: %s", error)
        self.board.broken = True
        return unavailable("unavailable", "What is known here has to be read anew.")

    def _catch_up(self) -> None:
        """Drop from memory what is not true any more, and follow a swap."""
        now = self.board.current
        changes = self.board.changes(self._seen, now.generation)
        if now.serial != self._serial:
            changes = None
            now = self._switch()
        elif now.sidelined != self._current.sidelined:
            self._read_sidelined()
        if changes is None:
            self._drop_all()
        else:
            for record_id in changes:
                self._drop(record_id)
        self._current, self._seen = now, now.generation

    def _switch(self) -> Current:
        """Open the file that is current; while it is being opened another may have become it."""
        for _ in range(_TRIES):
            now = self.board.current
            if now.serial == 0:
                self._let_go(None, 0)
                return now
            try:
                self._let_go(StoreFile(self._folder.path(now.serial), writing=False), now.serial)
            except (Foreign, OSError):
                continue
            self._read_sidelined()
            return now
        raise unavailable("unavailable", "What is known here is being replaced.")

    def _let_go(self, file: StoreFile | None, serial: int) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._serial = file, serial
        self._peppered, self._lost, self._state, self._over = Counter(), Lost(), State(), False
        self._words = Words(lambda number: None if file is None else file.get(word_row(number)))
        self._packing = Packing(self._words)

    def _read_sidelined(self) -> None:
        """What every process keeps whole: what was lost or is gone, and the peppers of imported tokens."""
        try:
            self._state = decode_state(self._row(STATE))
            self._peppered = Counter(dict(self._state.peppered))
            self._lost = Lost.of(decode_lost(self._row(LOST)))
            self._lay_over()
        except Damaged as error:
            raise self.distrust(error) from None

    def tend(self) -> None:
        """Once a minute: free what dead readers hold."""
        if self._file is not None:
            self._file.tend()

    def close(self) -> None:
        """Let the file go; the board is somebody else's."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _unread(error: StoreUnavailable) -> Refusal:
    return unavailable("unavailable", f"What is known here cannot be read: {error}.")
