"""The vital signs of a verifier of several processes, as one process would show its own.

Processor time does not go back when one of them dies: what it had used counts with its parent from then on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.verifier.handlers.counts import Counts

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# fields of /proc/<pid>/stat behind the name, which ends in the last bracket
_UTIME, _STIME, _CUTIME, _CSTIME, _START, _VSIZE = 11, 12, 13, 14, 19, 20
_BOOTED = "btime "


class Vitals(Collector):
    """Processor time, memory and open files of a process and its children, and what their garbage was."""

    def __init__(self, parent: int, counts: Counts, proc: Path = Path("/proc")) -> None:
        self._parent = parent
        self._counts = counts
        self._proc = proc

    def collect(self) -> Iterator[Metric]:
        """Everything as it is now; without a /proc only the garbage."""
        with suppress(OSError, ValueError, IndexError):
            yield from self._processes()
        kinds = [
            CounterMetricFamily(f"python_gc_{name}", text, labels=["generation"])
            for name, text in (
                ("collections", "Number of times this generation was collected"),
                ("objects_collected", "Objects collected during gc"),
                ("objects_uncollectable", "Uncollectable objects found during GC"),
            )
        ]
        for generation, *numbers in self._counts.garbage():
            for kind, number in zip(kinds, numbers, strict=True):
                kind.add_metric([str(generation)], number)
        yield from kinds

    def _processes(self) -> list[Metric]:
        parent = self._stat(self._parent)
        ticks = sum(int(parent[at]) for at in (_UTIME, _STIME, _CUTIME, _CSTIME))
        virtual, own, shared, files = (
            int(parent[_VSIZE]),
            *self._memory(self._parent),
            self._files(self._parent),
        )
        for pid in self._children():
            # one that ends just now counts with its parent the next time
            with suppress(OSError, ValueError, IndexError):
                stat, (private, common), opened = self._stat(pid), self._memory(pid), self._files(pid)
                ticks += int(stat[_UTIME]) + int(stat[_STIME])
                virtual += int(stat[_VSIZE])
                own += private
                shared = max(shared, common)
                files += opened
        gauges = (
            ("process_virtual_memory_bytes", "Virtual memory size in bytes.", virtual),
            ("process_resident_memory_bytes", "Resident memory size in bytes.", own + shared),
            ("process_start_time_seconds", "Start time since unix epoch in seconds.", self._started(parent)),
            ("process_open_fds", "Number of open file descriptors.", files),
        )
        cpu = CounterMetricFamily("process_cpu_seconds", "User and system CPU time.", ticks / _TICKS)
        return [*(GaugeMetricFamily(*each) for each in gauges), cpu]

    def _children(self) -> list[int]:
        listed = (self._proc / f"{self._parent}/task/{self._parent}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def _stat(self, pid: int) -> Sequence[str]:
        return (self._proc / f"{pid}/stat").read_text().rpartition(")")[2].split()

    def _memory(self, pid: int) -> tuple[int, int]:
        """Resident bytes: its own, and what it may share with the others, which count once."""
        _, resident, shared, *_ = map(int, (self._proc / f"{pid}/statm").read_text().split())
        return (resident - shared) * _PAGE, shared * _PAGE

    def _files(self, pid: int) -> int:
        return sum(1 for _ in (self._proc / f"{pid}/fd").iterdir())

    def _started(self, stat: Sequence[str]) -> float:
        lines = (self._proc / "stat").read_text().splitlines()
        booted = next(line for line in lines if line.startswith(_BOOTED))
        return int(booted.removeprefix(_BOOTED)) + int(stat[_START]) / _TICKS
