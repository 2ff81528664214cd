"""`python -m bench.watched`: the verifier's process, watched from within; `BENCH_WATCH` names the file.

`BENCH_WATCH_AS=pause`: a timer of the event loop tells how late it is, and how much CPU time went by
between two of its turns. The latter bounds what held the loop: it does not count when the machine gave the
core to others. `BENCH_WATCH_AS=profile`: every 2 ms of CPU time, which function is at work.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import uvloop

from services.verifier.__main__ import main

TURN = 0.001
SAMPLE = 0.002
_new_event_loop = uvloop.new_event_loop


class Pauses:
    """The turns of a timer: lateness and CPU time, in milliseconds, the longest of each second."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.late: list[float] = []
        self.held: list[float] = []
        self._loop = loop
        self._due = self._cpu = 0.0

    def begin(self) -> None:
        """Begin to measure: SIGUSR1 asks for it, once it is ready."""
        self.late, self.held = [], []
        self._cpu, self._due = time.thread_time(), time.perf_counter() + TURN
        self._loop.call_later(TURN, self._turn)

    def _turn(self) -> None:
        now, cpu = time.perf_counter(), time.thread_time()
        self.late.append((now - self._due) * 1000)
        self.held.append((cpu - self._cpu) * 1000)
        self._due, self._cpu = now + TURN, cpu
        self._loop.call_later(TURN, self._turn)

    def told(self) -> dict[str, object]:
        """The longest and the 99.9th percentile of both."""
        return {
            name: {
                "longest": max(values),
                "p999": sorted(values)[int(len(values) * 0.999)],
                "turns": len(values),
            }
            for name, values in (("late", self.late), ("held", self.held))
        }


class Profile:
    """Where the CPU time is spent: samples of the innermost function."""

    def __init__(self) -> None:
        self.samples: Counter[str] = Counter()
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, SAMPLE, SAMPLE)

    def _sample(self, number: int, frame: FrameType | None) -> None:
        del number
        if frame is not None:
            self.samples[f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}"] += 1

    def told(self) -> dict[str, int]:
        """Samples by function."""
        return dict(self.samples.most_common(40))


def watched() -> int:
    """Run the service; write what was seen when it ends."""
    place = Path(os.environ.pop("BENCH_WATCH"))
    if os.environ.pop("BENCH_WATCH_AS") == "profile":
        profile = Profile()
        atexit.register(lambda: place.write_text(json.dumps(profile.told())))
        return main()

    def loop() -> asyncio.AbstractEventLoop:
        made = _new_event_loop()
        pauses = Pauses(made)
        made.add_signal_handler(signal.SIGUSR1, pauses.begin)
        atexit.register(lambda: place.write_text(json.dumps(pauses.told())))
        return made

    uvloop.new_event_loop = loop
    return main()


if __name__ == "__main__":
    sys.exit(watched())
