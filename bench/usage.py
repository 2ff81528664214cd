"""How fast uses are: recorded, folded, and a month of them answered.

`python -m bench.usage [rounds]` prints the medians with their targets; `usage.json` and `usage.svg` go into
`bench/results`. Everything runs on servers of its own, in rounds that take turns, so that what else the
machine does hits all alike.
"""

from __future__ import annotations

import os
import sys
import time

import structlog
import uvloop

from bench import answering, granting, using
from bench.plot import Bar
from bench.report import machine, report
from bench.stage import say, stage

ROUNDS = 5


async def main(rounds: int) -> None:
    """Measure, print, write."""
    # the figures are what is wanted on this output
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    began, load = time.perf_counter(), os.getloadavg()
    async with stage() as here:
        say("recording")
        recorded = await using.recording(here, rounds)
        say("folding")
        folded = await using.folding(here, rounds)
    async with stage() as here:
        say("limits")
        granted = await granting.measure(here, rounds)
    async with stage() as here:
        say("a month of a workspace")
        answered = await answering.measure(here, rounds)
    ratios = [ours / bare for ours, bare in zip(recorded.ours, recorded.bare, strict=True)]
    added = [ours - floor for ours, floor in zip(granted.granted, granted.free, strict=True)]
    alone = [ours - floor for ours, floor in zip(granted.alone, granted.free, strict=True)]
    bars = [
        Bar("recorder, 4 verifiers, 2,000 rows a batch", "rows/s", tuple(recorded.ours), 50_000),
        Bar("the same batches by bare COPY", "rows/s", tuple(recorded.bare)),
        Bar("recorder ÷ bare COPY", "×", tuple(ratios), 0.3),
        Bar("all rows by one bare COPY", "rows/s", tuple(recorded.at_once)),
        Bar("fold, feed page to commit", "rows/s", tuple(folded), 20_000),
        *answered.bars(),
        Bar("limits add to a check, tokens held", "µs", tuple(added), 1, more_is_better=False),
        Bar("the same, counted in one process alone", "µs", tuple(alone)),
        Bar(
            "messages of a cell of 1000, 4 verifiers, 5 × load",
            "",
            tuple(granted.messages),
            100,
            more_is_better=False,
        ),
        Bar("admitted of that cell", "of the limit", tuple(granted.admitted), 0.95),
    ]
    facts = {
        "rounds": rounds,
        "seconds": round(time.perf_counter() - began),
        "machine": machine(),
        "load before and after": [round(load[0], 1), round(os.getloadavg()[0], 1)],
        "behind a month": answered.behind,
    }
    report("usage", bars, facts)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
