"""How fast the log is: append, relay, feed, snapshot, a verifier from nothing, and from commit to applied.

`python -m bench.log [rounds] [keys]` prints the medians with their targets; `log.json` and `log.svg` go into
`bench/results`. Everything runs on servers of its own, in rounds that take turns, so that what else the
machine does hits all alike.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import structlog
import uvloop

from bench import appending, following, relaying
from bench.figures import figure, printed
from bench.plot import Bar, chart
from bench.seeding import seed
from bench.stage import say, stage

RESULTS = Path(__file__).parent / "results"
ROUNDS, KEYS = 5, 1_000_000


async def main(rounds: int, keys: int) -> None:
    """Measure, print, write."""
    # the figures are what is wanted on this output
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    began = time.perf_counter()
    load = os.getloadavg()
    async with stage() as here:
        say("append: grouped, and one by one with a bare sequence")
        appended = await appending.measure(here, rounds)
    async with stage() as here:
        say(f"recording {keys:,} keys")
        seeded = keys / (await seed(here, keys)).seconds
        say("feed, snapshot, a verifier from nothing")
        followed = await following.measure(here, rounds)
        say("relay")
        relayed = await relaying.measure_relay(here, rounds)
        say("from commit to applied")
        lags = await relaying.measure_lag(here, rounds)
    bars = [*_append_bars(appended), *_follow_bars(followed, keys), *_relay_bars(relayed, lags)]
    facts = {
        "rounds": rounds,
        "keys": keys,
        "seconds": round(time.perf_counter() - began),
        "machine": f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "load before and after": [round(load[0], 1), round(os.getloadavg()[0], 1)],
        "keys recorded a second, 1000 a call": round(seeded),
        "append, events a second": {name: _rates(runs) for name, runs in appended.rates.items()},
        "missed by a tailing reader": {
            name: [f"{missed} of {written}" for missed, written in runs]
            for name, runs in appended.missed.items()
        },
    }
    printed(bars, facts)
    RESULTS.mkdir(exist_ok=True)
    figures = {bar.name: figure(bar) for bar in bars}
    (RESULTS / "log.json").write_text(json.dumps({**facts, "figures": figures}, indent=2) + "\n")
    (RESULTS / "log.svg").write_text(chart("The log, measured by bench/log.py", bars))


def _append_bars(appended: appending.Appended) -> list[Bar]:
    ours, bare, same = (appended.rates[name] for name in ("ours", "event alone", "same effect"))

    def ratios(rival: list[appending.Rate]) -> tuple[float, ...]:
        return tuple(one.rate / other.rate for one, other in zip(ours, rival, strict=True))

    return [
        Bar("append ÷ bare insert, event alone", "×", ratios(bare), 1.2),
        Bar("append ÷ bare insert, same effect", "×", ratios(same), 1.2),
        Bar("append, 16 callers", "events/s", tuple(run.rate for run in ours)),
        Bar("append, p99", "ms", tuple(run.p99 for run in ours), 5, more_is_better=False),
        Bar(
            "missed by a tail reader, ours",
            "events",
            tuple(float(missed) for missed, _ in appended.missed["ours"]),
            0,
            more_is_better=False,
        ),
        Bar(
            "missed by a tail reader, bare sequence",
            "%",
            tuple(100 * missed / written for missed, written in appended.missed["event alone"]),
        ),
    ]


def _follow_bars(followed: following.FollowerFigures, keys: int) -> list[Bar]:
    return [
        Bar("feed, received", "events/s", tuple(followed.feed), 100_000),
        Bar("feed, decoded and applied", "events/s", tuple(followed.feed_applied)),
        Bar("snapshot, received", "keys/s", tuple(followed.snapshot), 200_000),
        Bar("snapshot, decoded and put", "keys/s", tuple(followed.snapshot_applied)),
        Bar(f"{keys:,} keys from nothing to ready", "s", tuple(followed.ready), 30, more_is_better=False),
    ]


def _relay_bars(relayed: list[float], lags: list[list[float]]) -> list[Bar]:
    ordered = [sorted(one) for one in lags]

    def at(share: float) -> tuple[float, ...]:
        return tuple(one[int(len(one) * share)] for one in ordered)

    return [
        Bar("relay, sync always", "events/s", tuple(relayed), 10_000),
        Bar("commit → applied, p50 at 200/s", "ms", at(0.5), 3, more_is_better=False),
        Bar("commit → applied, p99 at 200/s", "ms", at(0.99), 20, more_is_better=False),
    ]


def _rates(runs: list[appending.Rate]) -> dict[str, float]:
    return {
        "rate": round(statistics.median(run.rate for run in runs)),
        "p50_ms": round(statistics.median(run.p50 for run in runs), 2),
        "p99_ms": round(statistics.median(run.p99 for run in runs), 2),
    }


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:3]]
    uvloop.run(main(*given, *(ROUNDS, KEYS)[len(given) :]))
