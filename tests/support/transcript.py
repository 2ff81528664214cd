"""The README's transcript: its commands, run again in one shell, and what they print, made comparable.

`python -m tests.support.transcript` writes the transcript anew from a system running on the default ports.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
_MARK = "--end-of-command--"
_TOKEN = re.compile(r"(cvtk_(?:live|test)_[0-9A-Za-z]{22})[0-9A-Za-z]{38}")
_VARYING = [
    (re.compile(r"cvtk_(live|test)_[0-9A-Za-z]{22}(?:[0-9A-Za-z]{38}|…)"), "cvtk_…"),
    (re.compile(r"\b(ws|key|req)_[0-9A-Za-z]{22}"), r"\1_…"),
    (re.compile(r"…[0-9A-Za-z]{4}\""), '…"'),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "TIME"),
    (re.compile(r'"(position|age_ms|ms|reset)":\d+'), r'"\1":N'),
    (re.compile(r'"epoch":"[^"]+"'), '"epoch":"…"'),
    (re.compile(r"verifier-[0-9a-f]+"), "verifier-…"),
    # others run beside the tests' one
    (re.compile(r'(\{"verifier":"verifier-…","ms":N\})(?:,\1)+'), r"\1"),
    (re.compile(r"(?im)^(date|x-ratelimit-reset|ratelimit):.*$"), r"\1: …"),
]


def commands() -> list[str]:
    """The commands of the transcript, continued lines joined as a shell reads them."""
    block = _BLOCK.search(README.read_text())
    assert block is not None
    found: list[str] = []
    lines = iter(block.group(1).splitlines())
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\"):
                command += "\n" + next(lines)
            found.append(command)
    return found


def printed() -> list[str]:
    """What the README says each command prints."""
    block = _BLOCK.search(README.read_text())
    assert block is not None
    parts = re.split(r"(?m)^\$ (?:.*\\\n)*.*\n?", block.group(1))
    return [part.strip() for part in parts[1:]]


def run(script: list[str], *, folder: Path) -> list[str]:
    """Run the commands in one shell; what each printed."""
    text = "".join(f"{command}\necho; echo {_MARK}\n" for command in script)
    done = subprocess.run(
        ["bash"], input=text, capture_output=True, text=True, cwd=folder, timeout=60, check=True
    )
    return [part.strip() for part in done.stdout.replace("\r", "").split(_MARK)[:-1]]


def comparable(output: str) -> str:
    """`output` without what differs from run to run."""
    for pattern, replacement in _VARYING:
        output = pattern.sub(replacement, output)
    return output


def rewrite() -> None:
    """Run the commands against the default ports and put what they print into the README."""
    script = commands()
    # a token has no place in a README, though this one has ended already
    outputs = [_TOKEN.sub(r"\1…", output) for output in run(script, folder=README.parent)]
    body = "".join(f"$ {c}\n{o}\n" if o else f"$ {c}\n" for c, o in zip(script, outputs, strict=True))
    README.write_text(_BLOCK.sub(lambda _: f"```console\n{body}```", README.read_text(), count=1))


if __name__ == "__main__":
    rewrite()
