"""Asking a server as fast as it answers, or at a pace, by `wrk` on a core of its own; its CPU time beside."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from msgspec import Struct

from bench.stage import on_core

SCRIPT = Path(__file__).with_name("drive.lua")
SERVER_CORE, CLIENT_CORE = 0, 1
_TICKS = os.sysconf("SC_CLK_TCK")


class Asked(Struct, frozen=True):
    """What one run of `wrk` met: requests a second, milliseconds, CPU seconds of the server."""

    requests: int
    rate: float
    p50: float
    p99: float
    most: float
    failed: int
    cpu: float

    @property
    def per_cpu_second(self) -> float:
        """Requests for each second of the server's CPU time."""
        return self.requests / max(self.cpu, 1 / _TICKS)


class Target(Struct, frozen=True):
    """Where to ask, and with what: a file of bodies, one a line. `pid` is the server's first process."""

    name: str
    port: int
    path: str
    bodies: Path
    pid: int


async def drive(
    target: Target, connections: int, seconds: float, *, pause: float = 0, core: int | None = CLIENT_CORE
) -> Asked:
    """Ask over so many connections for so long; `pause` ms between an answer and the next question."""
    before = cpu_seconds(target.pid)
    process = await asyncio.create_subprocess_exec(
        *on_core(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(SCRIPT),
        f"http://127.0.0.1:{target.port}", "--", target.path, str(target.bodies), f"{pause:g}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), seconds + 30)
    spent = cpu_seconds(target.pid) - before
    line = next((one for one in output.decode().splitlines() if one.startswith("JSON ")), None)
    if line is None:
        raise RuntimeError(f"wrk said nothing of {target.name}: {output.decode()[-500:]}")
    told = json.loads(line.removeprefix("JSON "))
    return Asked(
        told["requests"],
        told["requests"] / told["micros"] * 1e6,
        told["p50"] / 1000,
        told["p99"] / 1000,
        told["max"] / 1000,
        told["failed"],
        spent,
    )


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of all below it, in user mode and in the kernel, seconds."""
    total = 0.0
    for each in family(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def family(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += family(int(child))
    return found
