"""The README's transcript is what its commands print."""

from __future__ import annotations

import asyncio

import pytest

from infra.local.settings import DEFAULT_PORT_BASE
from tests.support import transcript
from tests.support.system import System


@pytest.mark.timeout(90)
async def test_the_readmes_transcript_is_what_its_commands_print(system: System) -> None:
    script = [command.replace(".keyledger/", f"{system.home}/") for command in transcript.commands()]
    for offset in range(5):
        mine, default = system.base + offset, DEFAULT_PORT_BASE + offset
        script = [command.replace(f"localhost:{default}", f"localhost:{mine}") for command in script]
    outputs = await asyncio.to_thread(transcript.run, script, folder=transcript.README.parent)
    printed = [transcript.comparable(output) for output in outputs]
    told = [transcript.comparable(output) for output in transcript.printed()]
    assert printed == told
    assert any("VALID" in output for output in printed)
