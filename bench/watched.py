"""`python -m bench.watched`: the verifier's process, watched from within; `BENCH_WATCH` names the file.

`BENCH_WATCH_AS=pause`: between a first and a second SIGUSR1 a timer of the event loop tells how late it is.
While the loop is held, by computing or by waiting for a file, the timer cannot come. How long the kernel let
the process wait for a core, which is nothing of ours, is told apart. `BENCH_WATCH_AS=profile`: every 2 ms of
CPU time, what is at work.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
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
    """The turns of a timer: by how many milliseconds each was late, and without the waits for a core."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.late: list[float] = []
        self.held: list[float] = []
        self._loop = loop
        self._due = self._waited = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._schedule: int | None = None
        with contextlib.suppress(OSError):
            self._schedule = os.open("/proc/thread-self/schedstat", os.O_RDONLY)

    def begin_or_end(self) -> None:
        """Begin to measure, or end it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            return
        self.late, self.held = [], []
        self._waited = self._waits()
        self._again()

    def _turn(self) -> None:
        late, waits = time.perf_counter() - self._due, self._waits()
        self.late.append(late * 1000)
        self.held.append(max(0.0, late - (waits - self._waited)) * 1000)
        self._waited = waits
        self._again()

    def _again(self) -> None:
        self._due = time.perf_counter() + TURN
        self._timer = self._loop.call_later(TURN, self._turn)

    def _waits(self) -> float:
        """Seconds for which this thread could have run and had no core; 0 where the kernel does not tell."""
        if self._schedule is None:
            return 0.0
        return int(os.pread(self._schedule, 128, 0).split()[1]) / 1e9

    def told(self) -> dict[str, dict[str, float]]:
        """The longest and the 99.9th percentile of both."""
        return {
            name: {
                "longest": max(values, default=0.0),
                "p999": sorted(values)[int(len(values) * 0.999)] if values else 0.0,
                "turns": len(values),
            }
            for name, values in (("late", self.late), ("held", self.held))
        }


class Profile:
    """Where the CPU time is spent: samples of the stack, the outermost call first, as py-spy writes them.

    What the loop does in C between two calls counts with the call that comes next.
    """

    def __init__(self) -> None:
        self.samples: Counter[str] = Counter()
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, SAMPLE, SAMPLE)

    def _sample(self, number: int, frame: FrameType | None) -> None:
        del number
        stack: list[str] = []
        while frame is not None:
            stack.append(f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})")
            frame = frame.f_back
        self.samples[";".join(reversed(stack))] += 1

    def told(self) -> str:
        """A line for each stack, with its samples behind."""
        return "".join(f"{stack} {count}\n" for stack, count in self.samples.items())


def watched() -> int:
    """Run the service; write what was seen when it ends."""
    place = Path(os.environ.pop("BENCH_WATCH"))
    if os.environ.pop("BENCH_WATCH_AS") == "profile":
        profile = Profile()
        atexit.register(lambda: place.write_text(profile.told()))
        return main()

    def loop() -> asyncio.AbstractEventLoop:
        made = _new_event_loop()
        pauses = Pauses(made)
        made.add_signal_handler(signal.SIGUSR1, pauses.begin_or_end)
        atexit.register(lambda: place.write_text(json.dumps(pauses.told())))
        return made

    uvloop.new_event_loop = loop
    return main()


if __name__ == "__main__":
    sys.exit(watched())
