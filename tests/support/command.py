"""The `keyledger` command as a user runs it, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

SECONDS = 60.0


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    def good(self) -> str:
        """What it printed; it must have ended well."""
        assert self.code == 0, (self.code, self.out, self.err)
        return self.out

    def failed(self) -> str:
        """The line it failed with; it must have ended with 1, in a sentence."""
        assert self.code == 1, (self.code, self.out, self.err)
        assert "Traceback" not in self.err, self.err
        return self.err.splitlines()[-1]


async def keyledger(*words: str | Path, home: Path, **environment: str | Path) -> Done:
    """Run it to its end, beside the test's own event loop."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.cli",
        *map(str, words),
        env={
            "PATH": os.environ["PATH"],
            "COLUMNS": "200",
            "KEYLEDGER_HOME": str(home),
            **{name: str(value) for name, value in environment.items()},
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Done(process.returncode or 0, out.decode(), err.decode())
