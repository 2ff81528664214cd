"""What the person who runs `keyledger up` sees: one line a step, and a spinner where there is a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.status import Status


class Console:
    """Progress and news of one run. A reader that went away never stops the run: such writes are dropped."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._began = time.monotonic()
        self._status: Status | None = None

    def waiting(self, text: str) -> None:
        """Show what is being waited for: a spinner on a terminal, nothing in a log (the next line tells)."""
        if not self._out.isatty():
            return
        with contextlib.suppress(OSError, ValueError):
            if self._status is None:
                from rich.console import Console as RichConsole  # noqa: PLC0415 - 0.1 s, only for terminals

                self._status = RichConsole(file=self._out, highlight=False).status(text)
                self._status.start()
            else:
                self._status.update(text)

    def done_waiting(self) -> None:
        """Take the spinner away."""
        if self._status is not None:
            with contextlib.suppress(OSError, ValueError):
                self._status.stop()
            self._status = None

    def say(self, text: str) -> None:
        """A line of news, with the seconds since the start."""
        self._write(f"[{time.monotonic() - self._began:5.1f} s] {text}")

    def show(self, text: str) -> None:
        """A block of text as it is."""
        self.done_waiting()
        self._write(text)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._status is not None:
                self._status.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, file=self._out, flush=True)
