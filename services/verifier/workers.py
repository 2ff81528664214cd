"""Several processes of one verifier: one follows, the others serve what it keeps, a parent looks after all.

Every serving process has a socket of its own on the one address, and the kernel spreads connections over
them. The parent has all of them open as well: what waits before a process that died is answered by the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence

import structlog

from keyledger.clock import SystemClock
from keyledger.server.settings import read_environment
from keyledger.verification.board import Board
from keyledger.verification.board_follower import SILENT
from keyledger.verification.opening import open_board
from keyledger.verification.store_folder import STORE
from services.verifier.handlers.counts import shared_memory
from services.verifier.settings import WORKER, Settings, Worker, worker_setting

LOOK = 0.5
"""Seconds between two looks for signs of life."""
STARTING = 10.0
"""Seconds that a projector has besides until its first sign of life."""
SOUND = 10.0
"""Seconds after which a process that dies is started again at once."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
STOP_WITHIN = 15.0
"""Seconds that a process has to end, besides those for which it drains."""
_BACKLOG = 2048
_log = structlog.get_logger("keyledger.verifier")


class Stops:
    """The wishes to stop: the first, and that it be now."""

    def __init__(self, worker: Worker | None = None) -> None:
        """A worker stops at once when its parent is gone."""
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for wanted in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(wanted, self._wish)
        if worker is not None:
            loop.add_reader(worker.lifeline, self._orphaned, worker.lifeline)

    def _wish(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    def _orphaned(self, lifeline: int) -> None:
        asyncio.get_running_loop().remove_reader(lifeline)
        self.first.set()
        self.second.set()


class _Child:
    """One process, started again whenever it dies."""

    def __init__(self, name: str, worker: Worker, clock: SystemClock) -> None:
        self.name = name
        self.started = 0.0
        self._worker = worker
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self.task = asyncio.create_task(self._keep(), name=name)

    def stop(self) -> None:
        """Tell it to end, once more if it was told before; it is not started again."""
        self._stopping.set()
        self.send(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _keep(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            self.started = self._clock.steady()
            self._process = await self._start()
            if self._stopping.is_set():
                self.send(signal.SIGTERM)
            code = await self._process.wait()
            if self._stopping.is_set():
                return
            failures = 0 if self._clock.steady() - self.started > SOUND else failures + 1
            pause = min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** min(failures, 10))
            _log.warning("a process died and is started again", where=self.name, status=code, delay=pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "services.verifier",
            env={**read_environment(), WORKER: worker_setting(self._worker)},
            pass_fds=(*self._worker.sockets, self._worker.lifeline, self._worker.counts),
            # a Ctrl-C in the terminal is for the parent, which tells the others in good order
            start_new_session=True,
        )


async def look_after(settings: Settings, sockets: Sequence[socket.socket]) -> int:
    """Run the workers until told to stop; `FolderUnusable` when they could not share a store."""
    board, clock, stops = open_board(settings.folder / STORE), SystemClock(), Stops()
    lifeline, ours = os.pipe()
    counts = shared_memory(settings.workers)
    each = len(sockets) // settings.workers
    for one in sockets:
        # whoever connects before the workers are up waits for them
        one.listen(_BACKLOG)
    projector = _Child("projector", Worker(None, (), lifeline, counts), clock)
    serving = [
        _Child(
            f"worker {index}",
            Worker(
                index,
                tuple(one.fileno() for one in sockets[index * each : (index + 1) * each]),
                lifeline,
                counts,
            ),
            clock,
        )
        for index in range(settings.workers)
    ]
    watching = asyncio.create_task(_watch(board, projector, clock), name="watch the projector")
    _log.info("looking after workers", count=settings.workers)
    await stops.first.wait()
    _log.info("stopping")
    for one in sockets:
        # the workers have them too; once they accept no more, nobody must be let in to wait in vain
        one.close()
    await _end(serving, settings.drain_seconds + STOP_WITHIN, stops.second)
    watching.cancel()
    await _end([projector], STOP_WITHIN, stops.second)
    os.close(ours)
    os.close(lifeline)
    os.close(counts)
    return 0


async def _watch(board: Board, projector: _Child, clock: SystemClock) -> None:
    """Kill a projector that gives no sign of life: it may be stopped, and then it hears nothing else."""
    while True:
        await asyncio.sleep(LOOK)
        heard = max(board.standing.beat, projector.started + STARTING)
        if clock.steady() - heard > SILENT:
            _log.warning("the projector is silent and will be replaced", seconds=SILENT)
            projector.started = clock.steady()
            projector.send(signal.SIGKILL)


async def _end(children: Sequence[_Child], within: float, now: asyncio.Event) -> None:
    """Tell them to stop, and again when it is to be now; whoever has not ended in time is killed."""
    for child in children:
        child.stop()
    hurrying = asyncio.create_task(now.wait())
    tasks = [child.task for child in children]
    ended = asyncio.gather(*tasks, return_exceptions=True)
    try:
        async with asyncio.timeout(within):
            await asyncio.wait([hurrying, ended], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                for child in children:
                    child.stop()
            await ended
    except TimeoutError:
        for child in children:
            _log.warning("a process does not end and is killed", where=child.name)
            child.send(signal.SIGKILL)
        await asyncio.wait(tasks, timeout=STOP_WITHIN)
    finally:
        hurrying.cancel()
