"""How fast verifiers are: over HTTP beside floors and rivals, in process, after changes, and after a restart.

`python -m bench.verify [rounds] [keys]` prints the medians with their targets; `verify.json`, `verify.svg`
and `verify-http.svg` go into `bench/results`. The service is the real one on servers of its own, with its
store, limits held and uses reported. `wrk` has one core and the server the other; all servers take turns.
With less than a million keys the rivals, which are installed at first, are left out.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
import uvloop

from bench import checking, pausing, refusing, serving
from bench.driving import SERVER_CORE, Target
from bench.figures import figure, printed
from bench.plot import Bar, chart
from bench.seeding import seed, seed_known
from bench.stage import Stage, say, stage

RESULTS = Path(__file__).parent / "results"
ROUNDS, KEYS = 5, 1_000_000
KNOWN, ASKED = 50_000, 10_000
"""Keys whose tokens are known, and those of them that are asked for over HTTP."""
CHANGED = {"idle": 200, "at half of the peak": 100}
WORKSPACES, LIMIT = 100, 10**9


async def main(rounds: int, keys: int) -> None:
    """Measure, print, write."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    began, load = time.perf_counter(), os.getloadavg()[0]
    async with stage() as here:
        say(f"recording {keys:,} keys")
        tokens = await seed_known(here, min(KNOWN, keys // 2), WORKSPACES, LIMIT)
        changing = await seed_known(here, len(refusing.CHANGES) * sum(CHANGED.values()), 1, LIMIT)
        await seed(here, keys - len(tokens) - len(changing))
        async with here.key_service():
            bars, facts = await _measured(here, tokens, iter(changing), rounds, keys)
    http = [bar for bar in bars if bar.unit in {"requests/s", "ms, one connection"}]
    other = [bar for bar in bars if bar not in http]
    facts = {
        "rounds": rounds,
        "keys": keys,
        "seconds": round(time.perf_counter() - began),
        "machine": f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "load before and after": [round(load, 1), round(os.getloadavg()[0], 1)],
        **facts,
    }
    printed(bars, facts)
    RESULTS.mkdir(exist_ok=True)
    figures = {bar.name: figure(bar) for bar in bars}
    (RESULTS / "verify.json").write_text(json.dumps({**facts, "figures": figures}, indent=2) + "\n")
    (RESULTS / "verify-http.svg").write_text(chart("POST /v1/verify, measured by bench/verify.py", http))
    (RESULTS / "verify.svg").write_text(chart("Verifiers, measured by bench/verify.py", other))


async def _measured(
    here: Stage, tokens: Sequence[str], changing: Any, rounds: int, keys: int
) -> tuple[list[Bar], dict[str, Any]]:
    folder = here.home.folder
    bodies = folder / "bodies"
    asked = [json.dumps({"key": token, "scopes": checking.SCOPES}) for token in tokens[:ASKED]]
    random.shuffle(asked)
    bodies.write_text("\n".join(asked) + "\n")

    def target(pid: int, port: int = 2) -> Target:
        return Target(serving.OURS, here.base + port, "/v1/verify", bodies, pid)

    say("over HTTP, beside floors and rivals")
    with here.verifier("one", core=SERVER_CORE) as process:
        await serving.ready(process, here.verifier_url)
        served = await serving.measure(target(process.pid), rounds, rivals=keys >= KEYS)
        store = folder / "one" / "store"
        private = serving.private_bytes(process.pid, store)
        size = serving.store_bytes(store)
    say("after a restart")
    restarts = await serving.measure_restarts(here, "one", rounds)
    say("in process")
    checked = await checking.measure(here, "one", tokens, rounds)
    peak = _middle([each.rate for each in served.busy[serving.OURS]])
    say("from a change to the first refusal")
    lags: dict[str, list[float]] = {}
    with here.verifier("one") as process:
        await serving.ready(process, here.verifier_url)
        for when, count in CHANGED.items():
            async with pausing.loaded(target(process.pid), peak / 2 if when != "idle" else 0):
                for what in refusing.CHANGES:
                    some = [next(changing) for _ in range(count)]
                    lags[f"{what}, {when}"] = await asyncio.to_thread(refusing.lags, here, what, some)
    say("the loop's longest pause, and a profile")
    pauses = await pausing.measure_pauses(here, target, peak / 2, rounds)
    profile = await pausing.measure_profile(here, target)
    say("one worker, two workers")
    with here.verifier("one") as one, here.verifier("two", port=5, workers=2) as two:
        await serving.ready(one, here.verifier_url)
        await serving.ready(two, f"http://127.0.0.1:{here.base + 5}")
        pairs = await serving.measure_workers(target(one.pid), target(two.pid, 5), rounds)
    bars = [
        *_http_bars(served),
        *_check_bars(checked),
        *_lag_bars(lags),
        Bar("longest pause of the loop", "ms of CPU", tuple(pauses["held"]), 5, more_is_better=False),
        Bar("the same, and what others had of the core", "ms", tuple(pauses["late"])),
        Bar("restart to ready", "s", tuple(restarts), 1, more_is_better=False),
        Bar("private memory", "MB", (private / 1e6,), 150, more_is_better=False),
        Bar("store", "bytes/key", (size / keys,), 250, more_is_better=False),
        Bar(
            "two workers ÷ one, per CPU second", "×",
            tuple(two.per_cpu_second / one.per_cpu_second for one, two in pairs), 0.9,
        ),
        Bar("two workers ÷ one, requests", "×", tuple(two.rate / one.rate for one, two in pairs)),
    ]  # fmt: skip
    return bars, {"half of the peak, asked": round(peak / 2), "profile, % of CPU samples": profile}


def _http_bars(served: serving.Served) -> list[Bar]:
    ours = served.busy[serving.OURS]
    targets = {
        "granian, bare ASGI": 2.0, "Litestar route": 6.0, "nginx, static": 0.25,
        "keyshield, cached, delay 0": 5.0, "better-auth": 20.0,
    }  # fmt: skip
    bars = [
        Bar(f"ours ÷ {name}", "×", _ratios(ours, rounds), targets.get(name))
        for name, rounds in served.busy.items()
        if name != serving.OURS
    ]
    for name, rounds in served.busy.items():
        bars.append(Bar(name, "requests/s", tuple(each.rate for each in rounds)))
    bars += [
        Bar("64 connections, p50", "ms", tuple(each.p50 for each in ours)),
        Bar("64 connections, p99", "ms", tuple(each.p99 for each in ours)),
    ]
    for name, rounds in served.alone.items():
        bound = 0.2 if name == serving.OURS else None
        p99 = tuple(each.p99 for each in rounds)
        bars += [
            Bar(f"{name}, p50", "ms, one connection", tuple(each.p50 for each in rounds)),
            Bar(f"{name}, p99", "ms, one connection", p99, bound, more_is_better=False),
        ]
    return bars


def _ratios(ours: Sequence[Any], others: Sequence[Any]) -> tuple[float, ...]:
    return tuple(one.rate / max(other.rate, 0.1) for one, other in zip(ours, others, strict=True))


def _check_bars(checked: checking.Checked) -> list[Bar]:
    bars: list[Bar] = []
    for name, rounds in checked.median.items():
        garbage = name.startswith("garbage")
        bars.append(
            Bar(f"check(), {name}, median", "µs", tuple(rounds), 2 if garbage else 6, more_is_better=False)
        )
        if not garbage:
            p99 = tuple(checked.p99[name])
            bars.append(Bar(f"check(), {name}, p99", "µs", p99, 20, more_is_better=False))
    return [*bars, Bar("check() on one core", "checks/s", tuple(checked.rate), 130_000)]


def _lag_bars(lags: dict[str, list[float]]) -> list[Bar]:
    bars: list[Bar] = []
    for name, values in lags.items():
        ordered, idle = sorted(values), name.endswith("idle")
        p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
        bars += [
            Bar(f"{name}, p50", "ms", (p50,), 2 if idle else None, more_is_better=False),
            Bar(f"{name}, p99", "ms", (p99,), 10 if idle else 50, more_is_better=False),
        ]
    return bars


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:3]]
    uvloop.run(main(*given, *(ROUNDS, KEYS)[len(given) :]))
