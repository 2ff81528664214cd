"""Verifications a second over HTTP beside floors and rivals; what the process holds, how it starts."""

from __future__ import annotations

import re
import time
from pathlib import Path

from msgspec import Struct

from bench.driving import Asked, Target, drive
from bench.peers import peers
from bench.stage import Stage, say
from tests.support.processes import Process

OURS = "keyledger verifier"
CONNECTIONS, SECONDS = 64, 3.0
READY_WITHIN = 120.0


class Served(Struct):
    """For each server its rounds with 64 connections and with one."""

    busy: dict[str, list[Asked]]
    alone: dict[str, list[Asked]]


async def measure(verifier: Target, rounds: int, *, rivals: bool) -> Served:
    """All servers in turn, round by round."""
    served = Served({}, {})
    async with peers(verifier.bodies, rivals=rivals) as others:
        targets = [verifier, *others]
        for target in targets:
            # what is done once is not measured
            await drive(target, CONNECTIONS, 1)
        for number in range(rounds):
            for target in targets:
                told = await drive(target, CONNECTIONS, SECONDS)
                served.busy.setdefault(target.name, []).append(told)
                if told.failed:
                    say(f"  {target.name}: {told.failed} of {told.requests} failed")
            for target in targets[:4]:
                served.alone.setdefault(target.name, []).append(await drive(target, 1, 2))
            say(f"  over HTTP: round {number + 1} of {rounds}")
    return served


async def measure_workers(one: Target, two: Target, rounds: int) -> list[tuple[Asked, Asked]]:
    """One worker and two in turn, on whatever cores they get."""
    for target in (one, two):
        await drive(target, CONNECTIONS, 1, core=None)
    return [
        (
            await drive(one, CONNECTIONS, SECONDS, core=None),
            await drive(two, CONNECTIONS, SECONDS, core=None),
        )
        for _ in range(rounds)
    ]


async def measure_restarts(stage: Stage, folder: str, rounds: int) -> list[float]:
    """Seconds from the start of a verifier's process on its store until it is ready."""
    found: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        with stage.verifier(folder) as process:
            await ready(process, stage.verifier_url)
            found.append(time.perf_counter() - began)
    return found


async def ready(process: Process, url: str) -> None:
    """Return when it can give verdicts."""
    await process.wait_ready(f"{url}/readyz", within=READY_WITHIN)


def private_bytes(pid: int, store: Path) -> int:
    """What a process has in memory for itself alone; pages of the store's file are not its own."""
    total, counted = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counted = str(store) not in line
        elif counted and line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1]) * 1024
    return total


def store_bytes(store: Path) -> int:
    """What the store's files take on the disk."""
    return sum(each.stat().st_blocks * 512 for each in store.rglob("*") if each.is_file())
