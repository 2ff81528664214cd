"""The writing side of an LMDB store: a batch is written when it ends, in one commit, or not at all.

Each record is written once however often it changed. What a commit cannot keep is taken back whole, so the
position never says more than the file holds.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

from msgspec.structs import replace

from keyledger.events import GENESIS, Epoch
from keyledger.verification.board import GENERATION, Board, Current
from keyledger.verification.lmdb_records import LmdbRecords
from keyledger.verification.lost import Lost
from keyledger.verification.projection import KeyRecord, WorkspaceRecord
from keyledger.verification.record_ids import SIZE, WORKSPACE, raw_id
from keyledger.verification.rows import (
    HASHES,
    LOST,
    STATE,
    WORDS,
    WORKSPACES,
    State,
    decode_hash,
    decode_lost,
    decode_state,
    encode_hash,
    encode_lost,
    encode_state,
    hash_row,
    key_row,
    rows_of,
    word_row,
)
from keyledger.verification.store import KEPT_HASHES, Damaged, StoreUnavailable
from keyledger.verification.store_file import MAP_SIZE, StoreFile
from keyledger.verification.store_folder import StoreFolder

_SLOTS = KEPT_HASHES + 1


class Staged:
    """What a batch will write: records by id and other rows by key, None for what goes."""

    def __init__(self) -> None:
        self.keys: dict[str, KeyRecord | None] = {}
        self.workspaces: dict[str, WorkspaceRecord] = {}
        self.rows: dict[bytes, bytes | None] = {}
        self.hashes: list[tuple[int, bytes]] = []
        self.lost = False
        self.sidelined = False
        self.touched = False


class LmdbWriting(LmdbRecords):
    """The records, and batches of changes to them; only one process has one."""

    def __init__(
        self,
        board: Board,
        folder: StoreFolder,
        steady: Callable[[], float],
        serial: int,
        *,
        new: bool,
        map_size: int = MAP_SIZE,
    ) -> None:
        """Open the file of this serial, or make it; raises `Foreign` or `Damaged` for what is no store."""
        super().__init__(board, folder, steady)
        self._map_size = map_size
        self._staged: Staged | None = None
        self._peppers_of: Counter[tuple[str, ...]] = Counter()
        self._hashes: deque[bytes] = deque([GENESIS], maxlen=_SLOTS)
        self._let_go(StoreFile(folder.path(serial), writing=True, new=new, map_size=map_size), serial)
        if new:
            self._opened.write([(STATE, encode_state(State()))])
        self._load()

    @property
    def position(self) -> int:
        return self._state.position

    @property
    def epoch(self) -> Epoch | None:
        return self._state.epoch

    @property
    def last_hash(self) -> bytes:
        return self._hashes[-1]

    def hash_at(self, position: int) -> bytes | None:
        back = self._state.position - position
        return self._hashes[-1 - back] if 0 <= back < len(self._hashes) else None

    @contextmanager
    def batch(self) -> Generator[None]:
        if self._staged is not None:
            yield
            return
        staged = self._staged = Staged()
        try:
            yield
            if staged.touched:
                self._commit(staged)
        except BaseException:
            self._staged = None
            self._load()
            raise
        self._staged = None

    def publish(self, changed: list[str] | None = None, *, sidelined: bool = False) -> None:
        """Say on the board what is committed, and which records changed; None for all."""
        state = self._state
        count = self._current.sidelined + (sidelined or changed is None)
        current = Current(0, self._serial, state.position, state.epoch, count, self._opened.metas())
        self._seen = self.board.publish(current, changed)
        self._current = current

    def _catch_up(self) -> None:
        """Nobody else writes: what is in memory is what was committed."""
        self._seen = self._counters[GENERATION]

    # -- inside a batch

    @property
    def _opened(self) -> StoreFile:
        if self._file is None:
            raise StoreUnavailable("the store is closed")
        return self._file

    @property
    def _batch(self) -> Staged:
        if self._staged is None:
            raise RuntimeError("no batch is open")
        return self._staged

    def _set(self, state: State) -> None:
        self._state = state
        self._batch.touched = True

    def _began_at(self, position: int, digest: bytes) -> None:
        self._hashes = deque([digest], maxlen=_SLOTS)
        self._batch.hashes = [(position, digest)]

    def _moved_to(self, position: int, digest: bytes) -> None:
        self._hashes.append(digest)
        self._batch.hashes.append((position, digest))
        self._batch.touched = True
        self._state.position, self._state.hash = position, digest

    def folded_key(self, key_id: str) -> KeyRecord | None:
        """The key's record as the log alone tells it, this batch included."""
        if self._staged is not None and key_id in self._staged.keys:
            return self._staged.keys[key_id]
        return self._keys.get(key_id) or self._read_key(key_id)

    def folded_workspace(self, workspace_id: str) -> WorkspaceRecord | None:
        """As `folded_key`, for a workspace."""
        if self._staged is not None and workspace_id in self._staged.workspaces:
            return self._staged.workspaces[workspace_id]
        return self._workspaces.get(workspace_id) or self._read_workspace(workspace_id)

    # -- its end

    def _commit(self, staged: Staged) -> None:
        if staged.sidelined:
            self._state = replace(self._state, peppered=tuple(self._peppers_of.items()))
        self._opened.write(sorted(self._rows(staged).items()))
        self._words.added.clear()
        for key_id, record in staged.keys.items():
            if record is not None and key_id in self._keys:
                self._keys[key_id] = record
            else:
                self._drop(key_id)
        for workspace_id in staged.workspaces:
            self._workspaces.pop(workspace_id, None)
        if staged.sidelined:
            self._peppered = self._peppers_of.copy()
        self._lay_over()
        self.publish([*staged.keys, *staged.workspaces], sidelined=staged.sidelined or staged.lost)

    def _rows(self, staged: Staged) -> dict[bytes, bytes | None]:
        rows = staged.rows
        for key_id, record in staged.keys.items():
            # what has no id of ours can never be asked for
            if (row := key_row(key_id)) is not None:
                rows[row] = None if record is None else self._packed_key(row, record)
        for workspace_id, workspace in staged.workspaces.items():
            if (raw := raw_id(workspace_id, WORKSPACE)) is not None:
                row = WORKSPACES + raw
                rows[row] = self._packing.workspace(row, raw, workspace)
        for position, digest in staged.hashes[-_SLOTS:]:
            rows[hash_row(position % _SLOTS)] = encode_hash(position, digest)
        for number, encoded in self._words.added.items():
            rows[word_row(number)] = encoded
        if staged.lost:
            rows[LOST] = encode_lost(self._lost.denials())
        rows[STATE] = encode_state(self._state)
        return rows

    def _packed_key(self, row: bytes, record: KeyRecord) -> bytes:
        return self._packing.key(row, raw_id(record.workspace_id, WORKSPACE) or bytes(SIZE), record)

    def _load(self) -> None:
        """Take everything but the records from the file, as it was committed."""
        self._words.forget()
        with self._opened.reading() as txn:
            for row, encoded in rows_of(txn, WORDS):
                self._words.learn(int.from_bytes(row[1:]), encoded)
            hashes = dict(decode_hash(packed) for _, packed in rows_of(txn, HASHES))
            self._state = decode_state(txn.get(STATE))
            self._lost = Lost.of(decode_lost(txn.get(LOST)))
        self._peppered = Counter(dict(self._state.peppered))
        self._peppers_of = self._peppered.copy()
        self._hashes = _recent(self._state, hashes)
        self._lay_over()


def _recent(state: State, hashes: dict[int, bytes]) -> deque[bytes]:
    """The hashes of the last positions without a gap; `Damaged` when the last one is not there."""
    found: deque[bytes] = deque([state.hash], maxlen=_SLOTS)
    if state.position == 0:
        return found
    if hashes.get(state.position) != state.hash:
        raise Damaged("its last hash is not there")
    while len(found) < _SLOTS and (digest := hashes.get(state.position - len(found))) is not None:
        found.appendleft(digest)
    if len(found) == state.position < _SLOTS:
        found.appendleft(GENESIS)
    return found
