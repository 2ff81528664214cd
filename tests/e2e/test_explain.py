"""`keyledger explain` beside a running system: what an operator types, and what is told."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

from tests.support.system import System


async def explain(system: System, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in the system's home."""
    env = {
        "PATH": os.environ["PATH"],
        "KEYLEDGER_HOME": str(system.home),
        "KEYLEDGER_PORT_BASE": str(system.base),
    }
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "services.cli", "explain", *words],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )


async def test_an_operator_is_told_each_step_and_the_event_behind_a_refusal(system: System) -> None:
    ws = await system.workspace()
    key = await system.key(ws, scopes=["read"])
    place = f"/v1/workspaces/{ws}/keys/{key['id']}"
    changed = (await system.call("PATCH", place, {"scopes": ["write"]})).json()
    await system.verify(key["key"], min_position=changed["position"], cost=0)

    refused = await explain(system, key["id"], "--scopes", "read,write", "--environment", "live")
    assert refused.returncode == 0, refused.stderr
    first, *steps, verdict, cause = refused.stdout.splitlines()
    assert first.startswith(f"{key['id']} of {ws}, at position ")
    assert verdict == "INSUFFICIENT_PERMISSIONS"
    assert cause.startswith(f"  by key_changed at position {changed['position']}, ")
    assert [line.split()[:2] for line in steps] == [
        ["token", "skipped"],
        ["key", "passed"],
        ["revoked", "passed"],
        ["secret", "passed"],
        ["enabled", "passed"],
        ["expiry", "passed"],
        ["workspace", "passed"],
        ["environment", "passed"],
        ["ip", "passed"],
        ["scopes", "INSUFFICIENT_PERMISSIONS"],
        ["rate_limit", "skipped"],
        ["quota", "skipped"],
    ]
    then = await explain(system, key["id"], "--scopes", "read", "--as-of", str(key["position"]))
    assert then.stdout.splitlines()[-1] == "VALID"


async def test_what_cannot_be_explained_is_a_sentence(system: System) -> None:
    unknown = await explain(system, "key_" + "0" * 22)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr == "keyledger: 404 not_found: There is nothing here.\n"
    wrong = await explain(system, "key_" + "0" * 22, "--ip", "nowhere")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("keyledger: 400 invalid_request (ip): ")
    away = await explain(system, "key_" + "0" * 22, "--verifier", "http://127.0.0.1:1")
    assert "the verifier does not answer at http://127.0.0.1:1" in away.stderr
