"""One LMDB file: how it is opened, what is believed of it, and what its errors mean.

LMDB has no checksums, and what it reads beyond the end of a file kills the process; so the length and the two
pages that say where everything is are compared with what was noted outside after the last commit. It is never
synced: another boot of the machine drops it, and a process that is killed leaves whole what it committed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TypeAlias

import lmdb

from keyledger.verification.store import Damaged, StoreUnavailable

MAP_SIZE = 16 << 30
"""Bytes of address space; the file is as long as what is in it."""
_PAGE = min(os.sysconf("SC_PAGE_SIZE"), 32768)
_LOCK_SIZE = 64 << 10
_META = 152
_TXN_ID = slice(144, 152)
_GROWTH = 2
_LOCK_SUFFIX = "-lock"

Row: TypeAlias = tuple[bytes, bytes | None]
"""A key and its value; None takes the row away."""


class Foreign(Exception):
    """A file that is not to be believed; the message says why."""


class StoreFile:
    """One open file. One process may write; reading transactions last for one look-up each."""

    def __init__(self, path: Path, *, writing: bool, new: bool = False, map_size: int = MAP_SIZE) -> None:
        """Raises `Foreign` for what is no whole LMDB file, `OSError` where none can be."""
        self.path = path
        self._writing = writing
        self._map_size = map_size
        self._users = 1
        if new:
            _reserve_lock(path)
        elif not path.is_file():
            raise Foreign("the file is missing")
        self._env = self._open(create=new)
        self._data = path.open("rb", buffering=0)

    def _open(self, *, create: bool) -> lmdb.Environment:
        try:
            env = lmdb.open(
                str(self.path),
                map_size=self._map_size,
                subdir=False,
                readonly=not self._writing,
                create=create,
                mode=0o600,
                sync=False,
                metasync=False,
                writemap=False,
                readahead=False,
            )
        except lmdb.Error as error:
            raise Foreign(f"LMDB cannot open it: {error}") from None
        self.begin = env.begin
        if env.info()["last_pgno"] >= self.path.stat().st_size // _PAGE and not create:
            env.close()
            raise Foreign("the file is shorter than it was")
        env.reader_check()
        return env

    def get(self, key: bytes) -> bytes | None:
        """The value, from what is committed now; `Damaged` when the file is not what it was."""
        try:
            txn = self.begin()
        except lmdb.MapResizedError:
            txn = self._resized()
        except lmdb.Error as error:
            raise StoreUnavailable(f"the store cannot be read: {error}") from None
        try:
            return txn.get(key)
        except lmdb.Error as error:
            raise Damaged(f"the store cannot be read: {error}") from None
        finally:
            txn.abort()

    @contextmanager
    def reading(self) -> Generator[lmdb.Transaction[bytes]]:
        """What is committed now, for as long as the context lasts."""
        try:
            txn = self.begin()
        except lmdb.MapResizedError:
            txn = self._resized()
        self._users += 1
        try:
            yield txn
        except lmdb.Error as error:
            raise Damaged(f"the store cannot be read: {error}") from None
        finally:
            txn.abort()
            self.close()

    def write(self, rows: Sequence[Row]) -> None:
        """Commit all of these, sorted by key; `StoreUnavailable`, and none of them, when that cannot be."""
        while True:
            try:
                with self.begin(write=True) as txn:
                    _put(txn, rows)
                return
            except lmdb.MapFullError:
                self._grow()
            except lmdb.MapResizedError:
                self._env.set_mapsize(0)
            except (lmdb.Error, OSError) as error:
                self._reopen()
                raise StoreUnavailable(f"the store cannot be written: {error}") from None

    def _grow(self) -> None:
        self._map_size = max(self._map_size, self._env.info()["map_size"]) * _GROWTH
        try:
            self._env.set_mapsize(self._map_size)
        except (lmdb.Error, OSError) as error:
            raise StoreUnavailable(f"the map cannot grow: {error}") from None

    def _resized(self) -> lmdb.Transaction[bytes]:
        try:
            self._env.set_mapsize(0)
            return self.begin()
        except (lmdb.Error, OSError) as error:
            raise StoreUnavailable(f"the map cannot be resized: {error}") from None

    def _reopen(self) -> None:
        """Some failures leave LMDB unable to write until it is opened again."""
        if self._users > 1:
            # somebody is reading; they keep what they have, and the next failure tries again
            return
        self._env.close()
        try:
            self._env = self._open(create=False)
        except (Foreign, OSError) as error:
            raise StoreUnavailable(f"the store cannot be opened again: {error}") from None

    def tend(self) -> None:
        """Free the slots of readers that are dead, so that their pages can be used again."""
        with suppress(lmdb.Error):
            self._env.reader_check()

    def metas(self) -> tuple[int, int]:
        """Checksums of the two pages that say where everything is, the older one's first."""
        older, newer = _meta_pages(self._data.fileno())
        return zlib.crc32(older), zlib.crc32(newer)

    def close(self) -> None:
        """Close once nobody reads any more."""
        self._users -= 1
        if self._users > 0:
            return
        self._env.close()
        if os.fstat(self._data.fileno()).st_nlink:
            self._data.close()
        else:
            # it was taken away, and whoever closes it last waits until all of it is free
            Thread(target=self._data.close, name="free a store's file").start()

    def remove(self) -> None:
        """Take the file away; whoever has it open goes on reading it."""
        remove(self.path)


def remove(path: Path) -> None:
    """Take a store's file and its table of readers away."""
    for each in (path, Path(f"{path}{_LOCK_SUFFIX}")):
        with suppress(OSError):
            each.unlink(missing_ok=True)


def check_metas(path: Path, noted: tuple[int, int]) -> None:
    """Raise `Foreign` unless the file's two pages are the noted ones, or one commit further.

    A process that is killed after a commit and before its note leaves the noted newer one as the older.
    """
    try:
        with path.open("rb") as file:
            pages = _meta_pages(file.fileno())
    except OSError as error:
        raise Foreign(f"the file cannot be read: {error.strerror}") from None
    older, newer = (zlib.crc32(page) for page in pages)
    if (older, newer) != noted and older != noted[1]:
        raise Foreign("its first pages are not what was written")


def _meta_pages(descriptor: int) -> tuple[bytes, bytes]:
    """The two pages by which LMDB's commits take turns, the older first."""
    both = os.pread(descriptor, _PAGE + _META, 0)
    first, second = both[:_META], both[_PAGE:]
    return (first, second) if _txn_id(first) <= _txn_id(second) else (second, first)


def _txn_id(page: bytes) -> int:
    return int.from_bytes(page[_TXN_ID], "little")


def _reserve_lock(path: Path) -> None:
    """Give the table of readers its blocks, so that a full disk does not show as a fault of the memory.

    Before LMDB opens it: whoever closes a file gives up the locks that this process has on it.
    """
    descriptor = os.open(f"{path}{_LOCK_SUFFIX}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _LOCK_SIZE)
    finally:
        os.close(descriptor)


def _put(txn: lmdb.Transaction[bytes], rows: Sequence[Row]) -> None:
    """What is behind the last row goes there whole pages at a time, and leaves no page half empty."""
    with txn.cursor() as cursor:
        last = cursor.key() if cursor.last() else b""
        behind: list[tuple[bytes, bytes]] = []
        for key, value in rows:
            if value is None:
                txn.delete(key)
            elif key > last:
                behind.append((key, value))
            else:
                cursor.put(key, value)
        if behind:
            cursor.putmulti(behind, append=True)
