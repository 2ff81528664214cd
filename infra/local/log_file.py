"""A child's log: never much longer than a bound, with the part before it kept beside as `.1`."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

LOG_BYTES = 10 * 1024 * 1024


def begin_anew(log: Path, *, longest: int = LOG_BYTES) -> None:
    """Put a log that is too long aside, while nobody writes to it."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > longest:
            log.replace(_aside(log))


def shorten(log: Path, *, longest: int = LOG_BYTES) -> None:
    """Copy a log that is too long aside and empty it, while a process appends to it.

    Its file stays the one that the process has open. What is written between the copy and the emptying is
    lost; so is the copy when the disk has no room for it, since a log must not fill the disk.
    """
    try:
        if log.stat().st_size <= longest:
            return
    except OSError:
        return
    fresh = log.with_name(log.name + ".new")
    try:
        with log.open("rb") as source, os.fdopen(_create(fresh), "wb") as copy:
            shutil.copyfileobj(source, copy)
        fresh.replace(_aside(log))
    except OSError:
        fresh.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.truncate(log, 0)


def _create(path: Path) -> int:
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def _aside(log: Path) -> Path:
    return log.with_name(log.name + ".1")
