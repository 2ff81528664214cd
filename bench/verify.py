"""How fast verifiers are: over HTTP beside floors and rivals, in process, after changes, and after a restart.

`python -m bench.verify` prints the medians with their targets; `verify.json`, `verify.svg` and
`verify-http.svg` go into `bench/results`. The service is the real one on servers of its own, with its store,
scopes checked, limits held and uses reported. `wrk` has one core and the server the other; all servers take
turns. `--quick` tries everything with few keys and without the rivals, and writes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import structlog
import uvloop

from bench import checking, pausing, profiling, refusing, serving, targets
from bench.driving import CORES, SERVER_CORE, Target, family, loaded, pace
from bench.figures import figure, printed
from bench.plot import Bar, chart
from bench.seeding import seed
from bench.stage import Stage, say, stage

RESULTS = Path(__file__).parent / "results"
ROUNDS, KEYS = 5, 1_000_000
QUICK_ROUNDS, QUICK_KEYS = 2, 10_000
KNOWN, ASKED = 50_000, 10_000
"""Keys whose tokens are known, and those of them that are asked for over HTTP."""
IDLE, BUSY = 200, 100
"""Changes of each kind."""
LIMIT = 10**9


async def main(rounds: int, keys: int, *, rivals: bool, kept: bool) -> None:
    """Measure, print, and keep it if so wished."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    began, load = time.perf_counter(), os.getloadavg()[0]
    async with stage() as here:
        say(f"recording {keys:,} keys")
        tokens = (await seed(here, keys, known=min(KNOWN, keys // 2), limit=LIMIT)).tokens
        async with here.key_service():
            servers, bars, facts = await _measured(here, tokens, rounds, keys, rivals=rivals)
    facts = {
        "rounds": rounds,
        "keys": keys,
        "seconds": round(time.perf_counter() - began),
        "machine": f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "load before and after": [round(load, 1), round(os.getloadavg()[0], 1)],
        **facts,
    }
    printed([*servers, *bars], facts)
    if not kept:
        return
    RESULTS.mkdir(exist_ok=True)
    figures = {bar.name: figure(bar) for bar in (*bars, *servers)}
    (RESULTS / "verify.json").write_text(
        json.dumps({**facts, "figures": figures}, indent=2, ensure_ascii=False) + "\n"
    )
    (RESULTS / "verify.svg").write_text(chart("Verifiers, measured by bench/verify.py", bars))
    (RESULTS / "verify-http.svg").write_text(
        chart("Servers on one core, 64 connections and one, measured by bench/verify.py", servers)
    )


async def _measured(
    here: Stage, tokens: Sequence[str], rounds: int, keys: int, *, rivals: bool
) -> tuple[list[Bar], list[Bar], dict[str, Any]]:
    mixed = random.sample(tokens, len(tokens))
    changes = (IDLE + BUSY) * len(refusing.CHANGES)
    changing, staying = iter(mixed[:changes]), mixed[changes:]
    folder, bodies = here.home.folder, here.home.folder / "bodies"
    asked = [json.dumps({"key": token, "scopes": checking.SCOPES}) for token in staying[:ASKED]]
    bodies.write_text("\n".join(asked) + "\n")

    def target(pid: int, port: int = 2) -> Target:
        return Target(serving.OURS, here.base + port, "/v1/verify", bodies, pid)

    say("over HTTP, beside floors and rivals")
    with here.verifier("one", core=SERVER_CORE) as process:
        await serving.ready(process, here.verifier_url)
        served = await serving.measure(target(process.pid), rounds, rivals=rivals)
        store = folder / "one" / "store"
        private, rollup = serving.private_bytes(process.pid, store), serving.private_rollup(process.pid)
        size = serving.store_bytes(store)
    say("after a restart")
    restarts = await serving.measure_restarts(here, "one", rounds)
    say("in process")
    checked = await checking.measure(here, "one", staying, rounds)
    half = median(each.rate for each in served.busy[serving.OURS]) / 2
    say("from a change to the first refusal")
    with here.verifier("one") as process:
        await serving.ready(process, here.verifier_url)
        connections = await pace(target(process.pid), half)
        idle, _ = await _lags(here, target(process.pid), 0, IDLE, changing)
        busy, rate = await _lags(here, target(process.pid), connections, BUSY, changing)
    say("the loop's longest pause")
    pauses = await pausing.measure(here, target, connections, rounds)
    say("a profile")
    profile = await profiling.measure(here, target)
    say("one worker, two workers")
    with (
        here.verifier("one", core=SERVER_CORE) as one,
        here.verifier("two", core=SERVER_CORE, port=5, workers=2) as two,
    ):
        await serving.ready(one, here.verifier_url)
        await serving.ready(two, f"http://127.0.0.1:{here.base + 5}")
        close, free = await serving.measure_workers(target(one.pid), target(two.pid, 5), rounds)
        workers = family(two.pid)
        of_two = max(serving.private_bytes(pid, folder / "two" / "store") for pid in workers)
        rollups = {"one process": rollup, "two workers'": max(map(serving.private_rollup, workers))}
    bars = [
        *targets.of_http(served),
        *targets.of_checks(checked),
        *targets.of_lags(idle, busy),
        *targets.of_pauses(pauses),
        *targets.of_memory(size / keys, private, of_two),
        *targets.of_restarts(restarts),
        *targets.of_workers(close, free),
    ]
    facts = {
        "not measured": served.missing or "nothing" if rivals else "the rivals, by choice",
        "failed requests": served.failed or 0,
        "verdicts of the verifier over HTTP": served.verdicts,
        "uses dropped": served.dropped,
        # the kernel counts the pages of the store that nobody else has open as a process's own
        "private with pages of the store, MB": {name: round(each / 1e6) for name, each in rollups.items()},
        "requests/s while busy": {"half of the peak": round(half), "answered": round(rate)},
        "profile at the peak, % of samples": profile,
    }
    return targets.of_servers(served), bars, facts


async def _lags(
    here: Stage, target: Target, connections: int, count: int, tokens: Iterator[str]
) -> tuple[dict[str, list[float]], float]:
    """The lags of so many changes of each kind, and how many requests a second were answered meanwhile."""
    found: dict[str, list[float]] = {}
    async with loaded(target, connections) as load:
        for what in refusing.CHANGES:
            some = [next(tokens) for _ in range(count)]
            found[what] = await asyncio.to_thread(refusing.lags, here, what, some)
            say(f"  {what}: {count} times{' under load' if connections else ''}")
    return found, load.rate


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.verify")
    parser.add_argument("--quick", action="store_true", help="a few keys and rounds, no rivals, nothing kept")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS} unless said")
    parser.add_argument("--keys", type=int, help=f"{KEYS:,} unless said")
    parser.add_argument("--no-rivals", action="store_true", help="without keyshield and better-auth")
    said = parser.parse_args()
    if len(CORES) < 2:
        parser.error("two cores are needed, one for the servers and one for who asks them")
    uvloop.run(
        main(
            said.rounds or (QUICK_ROUNDS if said.quick else ROUNDS),
            said.keys or (QUICK_KEYS if said.quick else KEYS),
            rivals=not (said.quick or said.no_rivals),
            kept=not said.quick,
        )
    )
