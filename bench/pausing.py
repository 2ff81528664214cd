"""What holds the verifier's event loop, and what its CPU time is spent on, while it serves and follows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench import serving
from bench.driving import SERVER_CORE, Asked, Target, drive
from bench.stage import Stage
from tests.support.processes import Process

REST = 0.4
"""About how many milliseconds a connection waits for its answer, when the pace is set."""
APPENDS, SECONDS = 200, 6
TOLD = 12
Targeted = Callable[[int], Target]


@asynccontextmanager
async def loaded(target: Target, rate: float) -> AsyncGenerator[None]:
    """About so many requests a second while the block runs; none for 0."""
    asking = asyncio.create_task(_load(target, rate)) if rate else None
    try:
        if asking is not None:
            await asyncio.sleep(1)
        yield
    finally:
        if asking is not None:
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking


async def _load(target: Target, rate: float) -> None:
    while True:
        await paced(target, rate, 5)


async def paced(target: Target, rate: float, seconds: float) -> Asked:
    """Ask about so often a second: each connection rests between its questions."""
    pause = max(1, round(1000 * serving.CONNECTIONS / rate - REST))
    return await drive(target, serving.CONNECTIONS, seconds, pause=pause, core=None)


async def measure_pauses(stage: Stage, target: Targeted, rate: float, rounds: int) -> dict[str, list[float]]:
    """The longest pause of each round, in ms: CPU time between two turns of a timer, and its lateness."""
    found: dict[str, list[float]] = {"held": [], "late": []}
    for number in range(rounds):
        place = stage.home.folder / f"pauses-{number}"
        with stage.verifier(
            "one", module="bench.watched", BENCH_WATCH=str(place), BENCH_WATCH_AS="pause"
        ) as process:
            await serving.ready(process, stage.verifier_url)
            async with _appending(stage):
                process.send(signal.SIGUSR1)
                await paced(target(process.pid), rate, SECONDS)
        told = _told(process, place)
        for name, values in found.items():
            values.append(told[name]["longest"])
    return found


async def measure_profile(stage: Stage, target: Targeted) -> dict[str, float]:
    """Which functions the CPU samples met, per cent, at the peak."""
    place = stage.home.folder / "profile"
    with stage.verifier(
        "one", core=SERVER_CORE, module="bench.watched", BENCH_WATCH=str(place), BENCH_WATCH_AS="profile"
    ) as process:
        await serving.ready(process, stage.verifier_url)
        await drive(target(process.pid), serving.CONNECTIONS, SECONDS)
    samples = _told(process, place)
    total = sum(samples.values())
    shares = sorted(samples.items(), key=lambda each: -each[1])
    return {name: round(100 * count / total, 1) for name, count in shares[:TOLD]}


def _told(process: Process, place: Path) -> dict[str, Any]:
    if not place.exists():
        raise RuntimeError(f"the watched verifier told nothing: {process.tail()}")
    return json.loads(place.read_text())


@asynccontextmanager
async def _appending(stage: Stage) -> AsyncGenerator[None]:
    """Keys are made meanwhile, at an even pace."""
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.writer", str(APPENDS), str(SECONDS),
        stdout=asyncio.subprocess.DEVNULL,
        env={
            "PATH": os.environ["PATH"],
            "BENCH_POSTGRES": stage.postgres,
            "BENCH_NATS": stage.nats,
            "BENCH_SEAL": stage.home.seal.read_text().strip(),
        },
    )  # fmt: skip
    try:
        yield
    finally:
        await asyncio.wait_for(writer.wait(), 60)
