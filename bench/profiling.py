"""What the verifier's CPU time is spent on at its peak: samples of its stack, by the part they belong to.

py-spy looks from outside; where it cannot, the process samples itself. A sample belongs to the part whose
call its innermost line makes, else to the first part of which a function is in its stack.
"""

from __future__ import annotations

import asyncio
import linecache
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bench import installing, serving
from bench.driving import SERVER_CORE, Target, drive
from bench.installing import NotInstalled
from bench.stage import Stage, say

SECONDS, A_SECOND = 6, 400
PARTS: dict[str, tuple[str, ...]] = {
    "check: parse the token": ("/token.py",),
    "check: digest": ("/digest.py", "_proven (verification/verdict.py"),
    "check: find the key": ("/lmdb_records.py", "/store_file.py", "/packing.py", "/board.py"),
    "check: limits": ("/limits.py", "demands (verification/verdict.py"),
    "check: count the use": ("/uses.py", "_report (verification/judge.py"),
    "check: the rest": ("verification/",),
    "read the request": ("_asked (", "_well_formed (", "_needs (", "/heads.py", "/fields.py"),
    "write the answer": ("_told (", "_limit (", "verdict (listener/shared.py", "/writing.py"),
    "count and time the verdict": ("/counts.py", "/tally.py", "judge (handlers/verify.py"),
    "connection and route": ("listener/", "routes/", "handlers/"),
}
"""Functions with the last two parts of their paths."""
LINES = {"transport.write(": "write to the socket", "_encode(": "write the answer"}
"""What is called by the innermost line of ours, in C."""
LOOP, BESIDE = "event loop, and reading from the sockets", "following, reporting uses, timers"
_FRAME = re.compile(r"(?P<name>.+) \((?P<file>.+):(?P<line>\d+)\)")


async def measure(stage: Stage, target: Callable[[int], Target]) -> dict[str, float]:
    """The share of each part in per cent, the greatest first."""
    place = stage.home.folder / "profile"
    try:
        program = await asyncio.to_thread(installing.profiler)
        with stage.verifier("one", core=SERVER_CORE) as process:
            await serving.ready(process, stage.verifier_url)
            await _from_outside(program, target(process.pid), place)
    except NotInstalled as error:
        say(f"  the process samples itself: {error}")
        with stage.verifier(
            "one", core=SERVER_CORE, module="bench.watched", BENCH_WATCH=str(place), BENCH_WATCH_AS="profile"
        ) as process:
            await serving.ready(process, stage.verifier_url)
            await drive(target(process.pid), serving.CONNECTIONS, SECONDS)
    return shares(place.read_text())


async def _from_outside(program: Path, target: Target, place: Path) -> None:
    driving = asyncio.create_task(drive(target, serving.CONNECTIONS, SECONDS + 2))
    try:
        spying = await asyncio.create_subprocess_exec(
            program, "record", "--pid", str(target.pid), "--duration", str(SECONDS), "--rate", str(A_SECOND),
            "--nonblocking", "--format", "raw", "--full-filenames", "--output", place,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, said = await asyncio.wait_for(spying.communicate(), SECONDS + 30)
        if spying.returncode:
            raise NotInstalled(f"py-spy: {said.decode().strip()[-200:]}")
    finally:
        await driving


def shares(stacks: str) -> dict[str, float]:
    """Of stacks with their samples, a line each, how many per cent of the loop's thread each part has."""
    found: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_known(frame) for frame in stack.split(";")]
        runs = [at for at, (frame, _) in enumerate(frames) if frame.endswith("(asyncio/runners.py)")]
        if runs:
            found[_part(frames[runs[-1] + 1 :])] += int(count)
    return {name: round(100 * count / found.total(), 1) for name, count in found.most_common()}


def _part(stack: list[tuple[str, str]]) -> str:
    """The part of what the loop called."""
    if not stack:
        return LOOP
    frames = [frame for frame, _ in stack]
    if not any("listener/connection.py" in frame for frame in frames):
        return BESIDE
    for call, name in LINES.items():
        if call in stack[-1][1]:
            return name
    # "connection and route" is in all of these
    return next(
        name for name, marks in PARTS.items() if any(mark in frame for frame in frames for mark in marks)
    )


def _known(frame: str) -> tuple[str, str]:
    """The frame as function (path), and the text of its line."""
    match = _FRAME.fullmatch(frame)
    if match is None:
        return frame, ""
    path = Path(match["file"])
    return f"{match['name']} ({path.parent.name}/{path.name})", linecache.getline(
        str(path), int(match["line"])
    )
