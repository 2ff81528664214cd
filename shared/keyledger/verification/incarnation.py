"""Which verifier this is, and which one it certainly is not any more.

A lock in the verifier's folder, which only a living process holds, names the process that has it. Whoever
gets the lock knows that the one named there is dead, so that the granter need not hold its share for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from pathlib import Path

_NAME = re.compile(r"[0-9a-z-]{1,64}")


class Incarnation:
    """`name` is this process's for ever, `replaces` that of its dead predecessor, if that is known."""

    def __init__(self, folder: Path, name: str, *, index: int = 0) -> None:
        """`index` tells processes that share a folder apart. Without a usable folder nothing is known."""
        self.name = name
        self.replaces = ""
        self._descriptor: int | None = None
        path = folder / f"limits-{index}.lock"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(path, flags, 0o600)
            self._take(self._descriptor)

    def __del__(self) -> None:
        self.release()

    def release(self) -> None:
        """Let go: this verifier has said goodbye, or never began."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _take(self, descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        before = os.pread(descriptor, 64, 0).decode("ascii", "replace")
        # named before anything is leased to it; a torn name is nobody's
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, self.name.encode(), 0)
        if _NAME.fullmatch(before) and before != self.name:
            self.replaces = before
