"""Audit, rebuild and diff with the running system, as an operator uses them: nothing is named by hand."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.support.command import Done, keyledger
from tests.support.keys import migrated
from tests.support.system import System
from tests.support.waiting import until


async def command(system: System, *words: str | Path) -> Done:
    return await keyledger(*words, home=system.home, KEYLEDGER_PORT_BASE=str(system.base))


async def test_everything_holds_while_the_system_is_used(system: System, tmp_path: Path) -> None:
    ws = await system.workspace()
    first = await system.key(ws, name="before", metadata={"team": "billing"})
    assert (system.home / "audit.key").stat().st_mode & 0o777 == 0o600
    exported = tmp_path / "head.json"
    (await command(system, "audit", "export", "--with-hashes", "--out", exported)).good()
    assert json.loads(exported.read_text())["head"]["position"] >= first["position"]

    stop = asyncio.Event()
    last: dict[str, object] = first

    async def use() -> int:
        nonlocal last
        calls = 0
        while not stop.is_set():
            last = await system.key(ws, name=f"key {calls}")
            token = str(last["key"])
            verdict = await system.verify(token, min_position=last["position"], epoch=last["epoch"])
            assert verdict["code"] == "VALID"
            calls += 1
        return calls

    using = asyncio.create_task(use())
    rebuilt = (await command(system, "project", "rebuild")).good()
    stop.set()
    uses = await using
    assert "streams are what a fresh fold says" in rebuilt
    assert "the counters are what the use log adds up to" in rebuilt
    assert uses > 3

    async def counted() -> bool:
        answer = await system.http.get(
            system.url("usage", f"/v1/workspaces/{ws}/usage"),
            headers={"X-API-Key": system.bootstrap["management_key"]},
        )
        return answer.json()["totals"]["count"] == uses

    await until(counted, within=10, describe=f"{uses} uses, each once")
    assert "states:" in (await command(system, "audit", "verify")).good()
    pinned = (await command(system, "audit", "public-key")).good().strip()
    checked = await command(system, "audit", "check", exported, "--public-key", pinned, "--online")
    assert "the log still is what was signed" in checked.good()
    compared = (await command(system, "project", "diff")).good()
    assert "equal:" in compared


async def test_a_verifier_of_another_database_is_not_equal(system: System, database: str) -> None:
    seal = system.home / "seal.secret"
    done = await keyledger(
        "project",
        "diff",
        "--dsn",
        await migrated(database),
        home=system.home,
        KEYLEDGER_PORT_BASE=str(system.base),
        KEYLEDGER_SEAL_SECRET_FILE=seal,
    )
    assert "the verifier follows epoch 1-" in done.failed()


async def test_what_is_no_verifier_is_told(system: System) -> None:
    away = await command(system, "project", "diff", "--verifier", "http://127.0.0.1:1")
    assert "does not answer at http://127.0.0.1:1" in away.failed()
    wrong = await command(system, "project", "diff", "--verifier", system.url("usage"))
    assert "the verifier answers 404" in wrong.failed()
