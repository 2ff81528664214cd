"""How long the verifier's event loop is held while it serves and follows."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable

from bench import serving
from bench.driving import Target, counted, loaded
from bench.stage import Stage, say

APPENDS, SECONDS = 200, 6
POSITION = "keyledger_position"


async def measure(
    stage: Stage, target: Callable[[int], Target], connections: int, rounds: int
) -> dict[str, list[float]]:
    """The longest pause of each round in ms: `late` as it was, `held` without the waits for a core."""
    found: dict[str, list[float]] = {"held": [], "late": []}
    for number in range(rounds):
        place = stage.home.folder / f"pauses-{number}"
        with stage.verifier(
            "one", module="bench.watched", BENCH_WATCH=str(place), BENCH_WATCH_AS="pause"
        ) as process:
            await serving.ready(process, stage.verifier_url)
            here = target(process.pid)
            async with loaded(here, connections):
                before = counted(here.port)[POSITION]
                process.send(signal.SIGUSR1)
                await _append(stage)
                process.send(signal.SIGUSR1)
                followed = counted(here.port)[POSITION] - before
        if followed < APPENDS * SECONDS:
            raise RuntimeError(f"of {APPENDS * SECONDS} events it followed {followed:.0f}")
        if not place.exists():
            raise RuntimeError(f"the watched verifier told nothing: {process.tail()}")
        told = json.loads(place.read_text())
        for name, values in found.items():
            values.append(told[name]["longest"])
        say(f"  pauses: round {number + 1} of {rounds}")
    return found


async def _append(stage: Stage) -> None:
    """Have keys made at an even pace, by a process of its own."""
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
    if await asyncio.wait_for(writer.wait(), 90):
        raise RuntimeError("bench.writer did not end well")
