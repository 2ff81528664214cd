"""One child process: started, kept alive, asked whether it is ready, and stopped with all it started itself.

A child leads its own session, so a terminal's Ctrl-C reaches the supervisor alone, which stops children in
order. On Linux the kernel signals it when the supervisor dies, however it dies. That signal is set after the
change of user, which would clear it, and belongs to the thread that starts the child: the main one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from infra.local.backoff import Backoff
from infra.local.errors import LocalRunError
from infra.local.leftovers import pid_line
from infra.local.log_file import begin_anew
from infra.local.probe import POLL_SECONDS, Probe, http_get

DEATHS_BEFORE_GIVING_UP = 4
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run and how to tell that it is ready: `ready`, or by default a 200 from `ready_path`."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    port: int
    host: str = "127.0.0.1"
    ready_path: str = "/readyz"
    ready: Probe | None = None
    cwd: Path = Path("/")
    user: str | int | None = None
    group: str | int | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    before_start: Callable[[], None] | None = None

    async def is_ready(self) -> bool:
        """Ask once; never raises."""
        if self.ready is not None:
            return await self.ready(self.host, self.port)
        status, _ = await http_get(self.host, self.port, self.ready_path)
        return status == 200


class Child:
    """A child that is started again when it dies, until it is stopped."""

    def __init__(
        self,
        spec: ChildSpec,
        *,
        log: Path,
        pid_file: Path,
        say: Callable[[str], None],
        backoff: Backoff | None = None,
    ) -> None:
        self.spec = spec
        self.log = log
        self.deaths = 0
        self._pid_file = pid_file
        self._say = say
        self._backoff = backoff or Backoff()
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._keeper: asyncio.Task[None] | None = None
        self._has_been_ready = False
        self._log_began = log.stat().st_size if log.exists() else 0

    @property
    def pid(self) -> int | None:
        """The process that runs now, if any."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the process and keep it alive from now on. Raises LocalRunError if it cannot start."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.spec.name}")

    async def until_ready(self, seconds: float) -> None:
        """Wait until it is ready. Raises LocalRunError, with its log's end, if it is late or keeps dying."""
        deadline = time.monotonic() + seconds
        while not await self.spec.is_ready():
            if self.deaths >= DEATHS_BEFORE_GIVING_UP:
                raise LocalRunError(
                    f"{self.spec.name} keeps dying; its log is {self.log}", details=self.log_tail()
                )
            if time.monotonic() >= deadline:
                raise LocalRunError(
                    f"{self.spec.name} is not ready after {seconds:.0f} s; its log is {self.log}",
                    details=self.log_tail(),
                )
            await asyncio.sleep(POLL_SECONDS)
        self._has_been_ready = True

    def ask_to_stop(self) -> None:
        """Send the stop signal, and start it no more."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(self.spec.stop_signal)

    async def gone(self, seconds: float) -> bool:
        """Whether it ended within the time. What it started itself is killed once it has."""
        if self._process is not None:
            try:
                async with asyncio.timeout(seconds):
                    await self._process.wait()
            except TimeoutError:
                return False
        self.kill()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._pid_file.unlink(missing_ok=True)
        return True

    def kill(self) -> None:
        """SIGKILL to the process and its group, if there is any of it left."""
        self._stopping = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def log_tail(self, lines: int = 15) -> tuple[str, ...]:
        """The last lines it wrote since this supervisor began."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_began if self._log_began < end else 0, end - 8192))
            return tuple(file.read().decode(errors="replace").splitlines()[-lines:])
        return ()

    async def _keep(self) -> None:
        while self._process is not None:
            began = time.monotonic()
            code = await self._process.wait()
            if self._stopping:
                return
            # Workers that outlive their leader would hold its port.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self.deaths += 1
            delay = self._backoff.after(time.monotonic() - began)
            self._say(
                f"{self.spec.name} died ({_how(code)}); starting it again in {delay:.1f} s, log: {self.log}"
            )
            await asyncio.sleep(delay)
            try:
                await self._spawn()
            except LocalRunError as error:
                self._say(str(error))
                continue
            if self._has_been_ready:
                await self._announce_return()

    async def _announce_return(self) -> None:
        """Say when it is ready again, unless it dies first: then the loop says that."""
        process = self._process
        while process is not None and process.returncode is None:
            if await self.spec.is_ready():
                self._say(f"{self.spec.name} is ready again")
                return
            await asyncio.sleep(POLL_SECONDS * 3)

    async def _spawn(self) -> None:
        begin_anew(self.log)
        if self.spec.before_start is not None:
            self.spec.before_start()
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.spec.env),
                cwd=self.spec.cwd,
                start_new_session=True,
                preexec_fn=die_with_parent(self.spec.stop_signal),
                user=self.spec.user,
                group=self.spec.group,
                extra_groups=None if self.spec.user is None else [],
            )
        except OSError as error:
            raise LocalRunError(f"{self.spec.name} cannot be started: {error}") from None
        finally:
            os.close(log)
        self._pid_file.write_text(pid_line(self._process.pid))


def die_with_parent(by: signal.Signals) -> Callable[[], None] | None:
    """What a child runs before exec to get the signal when this process dies; None where unsupported."""
    return None if _LIBC is None else partial(_leash, _LIBC, int(by), os.getpid())


def _leash(libc: ctypes.CDLL, by: int, parent: int) -> None:
    libc.prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call above
        os._exit(1)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
