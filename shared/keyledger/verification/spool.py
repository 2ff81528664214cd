"""A folder of use batches that were not yet acknowledged: one file each, complete or not there at all.

A file is named by its verifier's boot and its number, so the batches of a boot that died are found and sent
by the next one, under their own identity.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from msgspec import Struct

MAX_FILES = 10_000
MAX_BYTES = 64 * 1024 * 1024
_NAME = re.compile(r"([0-9a-f]{1,64})-(\d{1,19})\.uses")


def spool_of(folder: Path, index: int) -> Path:
    """The folder of one of several processes that share a spool's: each sends what its predecessors left."""
    return folder if index == 0 else folder / f"worker-{index}"


def gather(folder: Path, count: int) -> None:
    """Give the first of `count` processes what those left that are no more; `OSError` when that cannot be."""
    for path in folder.glob("worker-*/*.uses"):
        if path.parent.name not in {f"worker-{index}" for index in range(1, count)}:
            path.replace(folder / path.name)


class Batch(Struct, frozen=True, order=True):
    """The identity of a batch, which is also its file's name."""

    boot: str
    seq: int

    @property
    def file(self) -> str:
        """The file's name; names of one boot sort by number."""
        return f"{self.boot}-{self.seq:012d}.uses"


class Spool:
    """The folder; every call blocks on the disk. Bounded in files and in bytes."""

    def __init__(self, folder: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
        """Make the folder and remove what a killed write left behind; `OSError` when that cannot be."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for rest in folder.glob("*.part"):
            rest.unlink(missing_ok=True)
        self._folder = folder
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._sizes: dict[Batch, int] = {}
        for path in folder.iterdir():
            if (named := _NAME.fullmatch(path.name)) is not None:
                self._sizes[Batch(named.group(1), int(named.group(2)))] = path.stat().st_size

    def batches(self, own: str) -> list[Batch]:
        """Everything to be sent: dead boots first, each in its order, then `own`."""
        return sorted(self._sizes, key=lambda batch: (batch.boot == own, batch))

    def room(self, size: int) -> bool:
        """Whether `size` more bytes may be written."""
        # a copy made in one step: another thread may be removing a batch
        kept = tuple(self._sizes.values())
        return len(kept) < self._max_files and sum(kept) + size <= self._max_bytes

    def write(self, batch: Batch, body: bytes) -> None:
        """Keep this batch; when it returns, a power cut does not lose it. `OSError` when it cannot."""
        part = self._folder / f"{batch.file}.part"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._folder / batch.file)
        self._sync_folder()
        self._sizes[batch] = len(body)

    def read(self, batch: Batch) -> bytes | None:
        """The batch's body, or None when the file is gone or cannot be read."""
        try:
            return (self._folder / batch.file).read_bytes()
        except OSError:
            return None

    def remove(self, batch: Batch) -> None:
        """Forget a batch that was acknowledged; one that stays by accident is only sent again."""
        self._sizes.pop(batch, None)
        with contextlib.suppress(OSError):
            (self._folder / batch.file).unlink(missing_ok=True)

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
