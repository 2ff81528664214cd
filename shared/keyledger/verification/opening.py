"""Open a verifier's store where its folder is: to write it, or only to read it beside the one who writes.

What was left behind is believed when it is of this boot of the machine, follows the same key service, and is
whole; else it is dropped, with one line in the log, and the projection is built anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from keyledger.verification.board import Board, Current, boot_id, owner_id
from keyledger.verification.lmdb_records import LmdbRecords
from keyledger.verification.lmdb_store import LmdbStore
from keyledger.verification.store import Damaged, StoreUnavailable
from keyledger.verification.store_file import MAP_SIZE, Foreign, check_metas
from keyledger.verification.store_folder import FolderUnusable, StoreFolder

MOST_STARTS = 5
"""Starts in a row after which a store under which no process came to work is dropped."""
_log = logging.getLogger(__name__)


class WritingPlace:
    """The store that this process writes; `close` lets another one write."""

    def __init__(self, folder: StoreFolder, board: Board, store: LmdbStore) -> None:
        self.board = board
        self.store = store
        self.folder = folder

    def close(self) -> None:
        """Close in good order: what is here will be believed."""
        self.board.starts = 0
        self.store.close()
        self.folder.unlock()


def open_board(folder: Path) -> Board:
    """The page of a folder, made where there is none; `FolderUnusable` when it cannot be."""
    place = StoreFolder(folder)
    try:
        return Board.open(place.board)
    except OSError as error:
        raise FolderUnusable(f"the store's page {place.board} cannot be used: {error.strerror}") from None


def open_store(
    folder: Path,
    *,
    follows: str,
    steady: Callable[[], float],
    boot: bytes | None = None,
    map_size: int = MAP_SIZE,
) -> WritingPlace:
    """The store in this folder, to be written; `follows` is the key service whose log it holds.

    `boot` names this start of the machine. Raises `FolderUnusable`, also while another process writes.
    """
    place = StoreFolder(folder)
    place.lock()
    try:
        board = open_board(folder)
        make = partial(LmdbStore, board, place, steady, map_size=map_size)
        boot, owner = boot_id() if boot is None else boot, owner_id(follows)
        store = _believed(board, place, boot, owner, make)
        if store is None:
            board.claim(boot, owner)
            store = make(place.fresh(), new=True)
        board.starts += 1
        board.broken = False
        store.publish()
        place.clear(keep=board.current.serial)
    except BaseException as error:
        place.unlock()
        if isinstance(error, OSError | StoreUnavailable | Foreign):
            words = error.strerror if isinstance(error, OSError) else error
            raise FolderUnusable(f"the store in {folder} cannot be made: {words}") from None
        raise
    return WritingPlace(place, board, store)


def open_records(folder: Path, *, steady: Callable[[], float]) -> LmdbRecords:
    """The store in this folder, only to be read, by a process beside the one who writes."""
    return LmdbRecords(open_board(folder), StoreFolder(folder), steady)


def _believed(
    board: Board, place: StoreFolder, boot: bytes, owner: bytes, make: Callable[..., LmdbStore]
) -> LmdbStore | None:
    """The store that is there, or None and a line in the log that says why it is dropped."""
    try:
        why = board.belongs(boot, owner)
        if why is None and board.broken:
            why = "a row was not what was written"
        if why is None and board.starts >= MOST_STARTS:
            why = "no process came to work with it"
        if why is None:
            return _whole(board.current, place, make)
    except (Foreign, Damaged, StoreUnavailable, OSError) as error:
        why = str(error)
    if why != "there was none":
        _log.warning("the store in %s is dropped and built anew: %s", place.folder, why)
    return None


def _whole(current: Current, place: StoreFolder, make: Callable[..., LmdbStore]) -> LmdbStore:
    check_metas(place.path(current.serial), current.metas)
    return make(current.serial, new=False)
