"""The folder of a verifier's store: its page, its files by serial, and the lock of the process that writes.

board                 the page that all processes share
writer.lock           held by the one process that projects
records-<serial>.lmdb the store, and while another is built, that one; the page says which is current
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from keyledger.verification.store_file import remove

STORE = "store"
"""The folder of the projection, in the verifier's own."""
_FILE = re.compile(r"records-(\d{1,18})\.lmdb(?:-lock)?")


class FolderUnusable(OSError):
    """The folder cannot hold a store, or another process writes there; the message says which."""


class StoreFolder:
    """The paths. Making it makes the folder, 0700; `FolderUnusable` when that cannot be."""

    def __init__(self, folder: Path) -> None:
        self._lock: int | None = None
        self.folder = folder
        self.board = folder / "board"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise FolderUnusable(f"the store's folder {folder} cannot be made: {error.strerror}") from None
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise FolderUnusable(f"the store's folder {folder} cannot be written")

    def __del__(self) -> None:
        # one that was made and never used must not keep the next from writing
        self.unlock()

    def path(self, serial: int) -> Path:
        """The file of this serial."""
        return self.folder / f"records-{serial}.lmdb"

    def fresh(self) -> int:
        """A serial that nothing in the folder has."""
        return 1 + max((serial for _, serial in self._files()), default=0)

    def clear(self, keep: int) -> None:
        """Remove what other serials left behind."""
        for path, serial in self._files():
            if serial != keep and not path.name.endswith("-lock") and not path.is_dir():
                remove(path)

    def lock(self) -> None:
        """Become the one that writes, until `unlock` or the end of the process."""
        try:
            descriptor = os.open(
                self.folder / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise FolderUnusable(f"the store's folder {self.folder} has no lock: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise FolderUnusable(f"another verifier writes the store in {self.folder}") from None
        self._lock = descriptor

    def unlock(self) -> None:
        """Let another process write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _files(self) -> list[tuple[Path, int]]:
        return [
            (path, int(found.group(1)))
            for path in self.folder.iterdir()
            if (found := _FILE.fullmatch(path.name)) is not None
        ]
