"""Verifications a second over HTTP beside floors and rivals; what the process holds, how it starts."""

from __future__ import annotations

import re
import time
from pathlib import Path

from msgspec import Struct

from bench.driving import CLIENT_CORE, CORES, Asked, Target, confined, counted, drive, family, given, move
from bench.peers import FLOORS, peers
from bench.stage import Stage, say
from tests.support.processes import Process

OURS = "keyledger verifier"
CONNECTIONS, SECONDS, ALONE_SECONDS = 64, 3.0, 2.0
READY_WITHIN = 120.0
SOUND = 0.999
"""Share of the requests that must have been given the verdict VALID, for the run to count."""


Pair = tuple[Asked, Asked]


class Served(Struct):
    """For each server its rounds with 64 connections and with one; what was not measured, and why."""

    busy: dict[str, list[Asked]]
    alone: dict[str, list[Asked]]
    missing: dict[str, str]
    failed: dict[str, int]
    verdicts: dict[str, int]
    dropped: int = 0
    """Uses for which the verifier had no room."""


async def measure(verifier: Target, rounds: int, *, rivals: bool) -> Served:
    """All servers in turn, round by round. Nothing else of ours runs on the server's core meanwhile."""
    async with peers(verifier.bodies, rivals=rivals) as (others, missing):
        served = Served({}, {}, missing, {}, {})
        targets = [verifier, *others]
        with confined(CLIENT_CORE, but=[target.pid for target in targets]):
            for target in targets:
                # what is done once is not measured
                await drive(target, CONNECTIONS, 1)
            before, asked = given(verifier.port), 0
            for number in range(rounds):
                asked += await _round(served, targets)
                say(f"  over HTTP: round {number + 1} of {rounds}")
            after = counted(verifier.port)
            served.verdicts = {
                code: round(count - before.get(code, 0))
                for code, count in given(verifier.port).items()
                if count > before.get(code, 0)
            }
            served.dropped = round(after["keyledger_uses_dropped_total"])
    if served.verdicts.get("VALID", 0) < SOUND * asked:
        raise RuntimeError(f"of {asked} requests not all were valid: {served.verdicts}")
    return served


async def _round(served: Served, targets: list[Target]) -> int:
    """One round of all; how often the verifier was asked."""
    ours = 0
    for target in targets:
        told = await drive(target, CONNECTIONS, SECONDS)
        served.busy.setdefault(target.name, []).append(told)
        if told.failed:
            served.failed[target.name] = served.failed.get(target.name, 0) + told.failed
        ours += told.requests if target.name == OURS else 0
    for target in targets:
        if target.name in {OURS, *FLOORS}:
            told = await drive(target, 1, ALONE_SECONDS)
            served.alone.setdefault(target.name, []).append(told)
            ours += told.requests if target.name == OURS else 0
    return ours


async def measure_workers(one: Target, two: Target, rounds: int) -> tuple[list[Pair], list[Pair]]:
    """One worker and two in turn: all on the server's core, then on whatever cores they get.

    On one core both are asked more than they can answer; on two `wrk` needs one of the workers' cores.
    """
    with confined(CLIENT_CORE, but=[one.pid, two.pid]):
        close = await _in_turn(one, two, rounds, CLIENT_CORE)
    move([*family(one.pid), *family(two.pid)], CORES)
    return close, await _in_turn(one, two, rounds, None)


async def _in_turn(one: Target, two: Target, rounds: int, core: int | None) -> list[Pair]:
    for target in (one, two):
        await drive(target, CONNECTIONS, 1, core=core)
    return [
        (await drive(one, CONNECTIONS, SECONDS, core=core), await drive(two, CONNECTIONS, SECONDS, core=core))
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
    """What a process has in memory for itself alone.

    Linux counts pages of a shared file that just one process looks at as that one's; those of the store are
    the page cache's, and are left out.
    """
    total, is_own = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_own = str(store) not in line
        elif is_own and line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1]) * 1024
    return total


def private_rollup(pid: int) -> int:
    """The same as Linux sums it up, with the pages of the store that no other process looks at."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(
        int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:"))
    )


def store_bytes(store: Path) -> int:
    """What the store's files take on the disk."""
    return sum(each.stat().st_blocks * 512 for each in store.rglob("*") if each.is_file())
