"""Where a verifier counts: numbers in memory that all of its workers share, a row for each.

Only its own worker writes a row. The one that takes the place of one that died goes on in its row, so nothing
that was counted is lost and nothing is counted twice. What one worker adds up is what all of them counted.
"""

from __future__ import annotations

import gc
import math
import mmap
import os
from bisect import bisect_left
from collections.abc import Iterator

from keyledger.verification.verdict import CODES

BUCKETS = (5e-6, 1e-5, 1.5e-5, 2e-5, 3e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 2.5e-2)
"""Upper bounds in seconds; a check takes some 5 to 10 µs."""
GENERATIONS = 3
_WIDTH = len(BUCKETS) + 1
_SECONDS = len(CODES) * _WIDTH
_DROPPED = _SECONDS + 1
_GARBAGE = _DROPPED + 1
_CELL = 8
_ROW = 256
"""Cells of a row: 2 KiB, so that no two workers write to the same line of a processor's cache."""
if _GARBAGE + 3 * GENERATIONS > _ROW:
    raise AssertionError("a row is too short")


class Counts:
    """The rows; `row` is the one that this process counts in."""

    def __init__(self, memory: mmap.mmap | bytearray, row: int = 0) -> None:
        view = memoryview(memory)
        self._all = view.cast("Q")
        self._all_floats = view.cast("d")
        own = slice(row * _ROW, (row + 1) * _ROW)
        self._cells, self._floats = self._all[own], self._all_floats[own]
        self._of = {code: at * _WIDTH for at, code in enumerate(CODES)}

    @classmethod
    def private(cls) -> Counts:
        """For a verifier that is one process."""
        return cls(bytearray(_ROW * _CELL))

    @classmethod
    def shared(cls, descriptor: int, row: int) -> Counts:
        """One row of what `shared_memory` made."""
        counts = cls(mmap.mmap(descriptor, os.fstat(descriptor).st_size), row)
        gc.callbacks.append(counts.collected)
        return counts

    def count(self, code: str, seconds: float) -> None:
        """One verdict, which took so long."""
        self._cells[self._of[code] + bisect_left(BUCKETS, seconds)] += 1
        self._floats[_SECONDS] += seconds

    def drop(self, uses: int) -> None:
        """So many uses found no room."""
        self._cells[_DROPPED] += uses

    def collected(self, phase: str, info: dict[str, int]) -> None:
        """What Python's collector calls back with."""
        if phase == "stop":
            at = _GARBAGE + 3 * info["generation"]
            self._cells[at] += 1
            self._cells[at + 1] += info["collected"]
            self._cells[at + 2] += info["uncollectable"]

    # -- of all rows together

    def codes(self) -> Iterator[tuple[str, int]]:
        """How many verdicts had each code."""
        for code, at in self._of.items():
            yield code, sum(self._sum(cell) for cell in range(at, at + _WIDTH))

    def durations(self) -> tuple[list[tuple[float, int]], float]:
        """How many verdicts took no longer than each bound, and the seconds of all."""
        total, found = 0, list[tuple[float, int]]()
        for at, bound in enumerate((*BUCKETS, math.inf)):
            total += sum(self._sum(row + at) for row in self._of.values())
            found.append((bound, total))
        return found, sum(self._all_floats[_SECONDS::_ROW])

    def dropped(self) -> int:
        """How many uses found no room."""
        return self._sum(_DROPPED)

    def garbage(self) -> Iterator[tuple[int, int, int, int]]:
        """Of each generation how often it was collected, and the objects that went and that could not."""
        for generation in range(GENERATIONS):
            at = _GARBAGE + 3 * generation
            yield generation, self._sum(at), self._sum(at + 1), self._sum(at + 2)

    def _sum(self, cell: int) -> int:
        return sum(self._all[cell::_ROW])


def shared_memory(rows: int) -> int:
    """The file descriptor of memory for so many rows; it is gone when the last one who has it is."""
    # no file: what the kernel writes back to a disk would hold up who counts meanwhile
    descriptor = os.memfd_create("verifier counts", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, rows * _ROW * _CELL)
    return descriptor
