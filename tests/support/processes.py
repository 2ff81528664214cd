"""Child processes of the tests: started with a log file, stopped with a deadline, always reaped.

Each child leads a process group of its own, so that Ctrl-C in the terminal reaches only the tests and
what a child started dies with it. On Linux a child that was started from the main thread is also
stopped by the kernel when the tests themselves are killed.
"""

import asyncio
import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.support.waiting import until

PR_SET_PDEATHSIG = 1
TAIL = 2_000
"""Characters of a child's log that are shown when it fails."""


class Process:
    """One child process; as a context manager it is dead and reaped at the end of the block."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        """Start it at once. `env` is its whole environment (None: ours); output is appended to `log`.

        `user` (root only) is whom it runs as, with that user's own group and no other.
        """
        self.argv = [str(part) for part in argv]
        self.log = log
        self._stop_signal = stop_signal
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
                user=user,
                group=pwd.getpwnam(user).pw_gid if user else None,
                extra_groups=[] if user else None,
                preexec_fn=_stopped_with_us(stop_signal),  # noqa: PLW1509 (one call into a loaded library)
            )

    @property
    def pid(self) -> int:
        """The child's process id, valid until it is reaped."""
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; else its exit code, negative for the signal that ended it."""
        return self._child.poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the child alone (not to its group); nothing happens when it is gone."""
        self._child.send_signal(number)

    async def wait_ready(self, url: str, *, within: float = 10.0) -> None:
        """Return when a GET of `url` (http, a port of this machine) answers 200.

        An `AssertionError` with the end of the log is raised after `within` seconds, and at once when
        the child has ended.
        """

        async def ready() -> bool:
            self.check_running()
            return await _status(url) == 200

        try:
            await until(ready, within=within, describe=f"200 from {url}")
        except AssertionError as error:
            error.add_note(self.tail())
            raise

    def check_running(self) -> None:
        """Raise an `AssertionError` that says how it ended when the child no longer runs."""
        if self.returncode is not None:
            message = f"{self.argv[0]} ended with {self.returncode}"
            raise AssertionError(message)

    def tail(self) -> str:
        """The end of the log, for a failure's message."""
        return f"{self.log.name}: …{self.log.read_text(errors='replace')[-TAIL:]}"

    def terminate(self, *, within: float = 10.0) -> int:
        """Ask it to stop and return its exit code; it is killed when it is not gone in time (seconds).

        Blocks: call it by `asyncio.to_thread` where the test's own event loop must go on meanwhile.
        """
        if self.returncode is None:
            self.send(self._stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(within)
        return self.kill()

    def kill(self) -> int:
        """Kill it and its group by SIGKILL, reap it, return its exit code; safe to repeat."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        return self._child.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()


async def _status(url: str) -> int | None:
    """The status a GET is answered with; None when nobody answers. No proxy, no redirect, one second."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    request = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
            with contextlib.closing(writer):
                writer.write(request.encode())
                line = await reader.readline()
    except (OSError, TimeoutError):
        return None
    words = line.split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None


def _stopped_with_us(number: signal.Signals) -> Callable[[], None] | None:
    """What the child runs before exec so that the kernel signals it when its parent dies.

    Linux ties this to the *thread* that started the child: from any other than the main one it would
    be stopped too early, so it is left out there.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)

    return ask
