"""Asking a server by `wrk`, as fast as it answers or at a pace; what it counted and used meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import time
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from msgspec import Struct

from bench.stage import on_core
from tests.support.debian import from_debian

SCRIPT = Path(__file__).with_name("drive.lua")
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]
PAUSE = 4
"""Milliseconds between an answer and the next question of a connection, when the pace is set."""
NEAR, TRIES = 0.07, 4
LONGEST = 600
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


class Load(Struct):
    """How many requests a second the verifier answered while it lasted; known at its end."""

    rate: float = 0.0


async def drive(
    target: Target, connections: int, seconds: float, *, pause: float = 0, core: int | None = CLIENT_CORE
) -> Asked:
    """Ask over so many connections for so long; `pause` ms between an answer and the next question."""
    before = cpu_seconds(target.pid)
    async with _wrk(target, connections, seconds, pause=pause, core=core) as process:
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


async def pace(target: Target, rate: float) -> int:
    """Over how many connections, each of which rests between its questions, this many a second are asked."""
    connections = max(1, round(rate * (PAUSE + 1) / 1000))
    for _ in range(TRIES):
        told = await drive(target, connections, 1, pause=PAUSE, core=None)
        if abs(told.rate / rate - 1) < NEAR:
            break
        connections = max(1, round(connections * rate / max(told.rate, 1)))
    return connections


@asynccontextmanager
async def loaded(target: Target, connections: int) -> AsyncGenerator[Load]:
    """Ask a verifier over so many connections, at their pace, while the block runs; not at all over none."""
    load = Load()
    async with contextlib.AsyncExitStack() as stack:
        if connections:
            await stack.enter_async_context(_wrk(target, connections, LONGEST, pause=PAUSE, core=None))
        verdicts, began = sum(given(target.port).values()), time.perf_counter()
        yield load
        load.rate = (sum(given(target.port).values()) - verdicts) / (time.perf_counter() - began)


@asynccontextmanager
async def _wrk(
    target: Target, connections: int, seconds: float, *, pause: float, core: int | None
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """It runs; at the end it is gone, also before its time."""
    process = await asyncio.create_subprocess_exec(
        *on_core(core), from_debian("wrk", "wrk"), "-t1", f"-c{connections}", f"-d{seconds:g}s",
        "-s", str(SCRIPT), f"http://127.0.0.1:{target.port}", "--", target.path, str(target.bodies),
        f"{pause:g}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


# -- what a server did meanwhile


def counted(port: int) -> dict[str, float]:
    """What the verifier at this port shows under `/metrics`, by name and labels. Blocks."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def given(port: int) -> dict[str, float]:
    """How many verdicts of each code the verifier at this port has given."""
    start, end = 'keyledger_verify_total{code="', '"}'
    return {
        name.removeprefix(start).removesuffix(end): count
        for name, count in counted(port).items()
        if name.startswith(start)
    }


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of all below it, in user mode and in the kernel, seconds."""
    total = 0.0
    for each in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def family(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += family(int(child))
    return found


@contextmanager
def confined(core: int, *, but: Iterable[int]) -> Generator[None]:
    """This process and all below it run on one core, `but` those servers and theirs, which have another."""
    spared = {pid for server in but for pid in family(server)}
    move(set(family(os.getpid())) - spared, {core})
    try:
        yield
    finally:
        move(set(family(os.getpid())) - spared, CORES)


def move(pids: Iterable[int], cores: Iterable[int]) -> None:
    """Have these processes run on these cores from now on."""
    for pid in pids:
        # one that ends just now needs no core
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), cores)
