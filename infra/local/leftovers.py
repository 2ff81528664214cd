"""What a supervisor that was killed may have left running, found by the pid files in the home's run folder.

On Linux the kernel asks such children to stop (see child.py); this ends those that did not. A pid alone
proves nothing, since pids are used again: a pid file also holds the kernel's start time of its process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from infra.local.probe import POLL_SECONDS


def pid_line(pid: int) -> str:
    """The content of a pid file."""
    return f"{pid} {_started_at(pid)}\n"


async def end_left_over(run: Path, *, patience: float) -> None:
    """Give the processes named in pid files so many seconds to end, then kill them with their groups."""
    deadline = asyncio.get_running_loop().time() + patience
    files = list(run.glob("*.pid"))
    while any(_running(file) for file in files) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(POLL_SECONDS)
    for file in files:
        if pid := _running(file):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        file.unlink(missing_ok=True)


def _running(file: Path) -> int:
    """The pid in the file while that same process runs, else 0. Without /proc nothing can be told: 0."""
    pid, _, began = file.read_text().strip().partition(" ")
    return int(pid) if pid.isdigit() and began and _started_at(int(pid)) == began else 0


def _started_at(pid: int) -> str:
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state == "Z" else rest[18]
