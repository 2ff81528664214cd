"""A command's progress, on stderr, at most once a second."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from keyledger.clock import Clock, SystemClock

INTERVAL = 1.0


class Progress:
    """Tells how many of something are done and how fast; the last line comes when the block is left."""

    def __init__(self, what: str, clock: Clock | None = None) -> None:
        self._what = what
        self._clock = clock or SystemClock()
        self._began = self._told = self._clock.steady()
        self._done = 0

    def __call__(self, done: int) -> None:
        """So many are done."""
        self._done = done
        if self._clock.steady() - self._told >= INTERVAL:
            self._tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell()

    def _tell(self) -> None:
        self._told = self._clock.steady()
        seconds = max(self._told - self._began, 1e-6)
        line = f"{self._done:,} {self._what} in {seconds:.1f} s, {self._done / seconds:,.0f}/s"
        print(f"  {line}", file=sys.stderr)
