"""Start processes that have a store, and talk to them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ANSWER_WITHIN = 30.0


class StoreProcess:
    """One of `tests.support.store_process`, started and up."""

    def __init__(self, kind: str, folder: Path, *more: str) -> None:
        command = [sys.executable, "-m", "tests.support.store_process", kind, str(folder), *more]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.answer() == "up"

    def ask(self, what: Any, *arguments: Any) -> Any:
        """Its answer to one line."""
        self.tell(what, *arguments)
        return self.answer()

    def tell(self, what: Any, *arguments: Any) -> None:
        """One line, whose answer is not waited for."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([what, *arguments]).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """The next line."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_WITHIN)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            self.process.kill()
            raise AssertionError(f"no answer; it said: {self.said()}")
        return json.loads(line)

    def said(self) -> str:
        """What it wrote to its standard error, once it has ended."""
        return self.process.communicate()[1].decode(errors="replace")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; after SIGKILL it is gone when this returns."""
        os.kill(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait(10)

    def end(self) -> None:
        """Be gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class Processes:
    """Those of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[StoreProcess] = []

    def start(self, kind: str, *more: str) -> StoreProcess:
        """One more of this kind, over the same folder."""
        self.started.append(StoreProcess(kind, self.folder, *more))
        return self.started[-1]


@contextmanager
def store_processes(folder: Path) -> Generator[Processes]:
    """Starts processes over one folder, and ends them all."""
    processes = Processes(folder)
    try:
        yield processes
    finally:
        for each in processes.started:
            each.end()
