"""A secret that was presented, minted or mistyped appears nowhere: not in a log, the database or the bus."""

from __future__ import annotations

import json
import os
import signal

import asyncpg

from tests.support.system import System, running, temporary_home
from tests.support.waiting import until

SPARED = {"bootstrap.json", "secrets", "peppers", "seal.secret", "postgres.json", "nats.json", "nats.conf"}
"""Where secrets are meant to lie, readable by their owner only."""


async def _everything_that_takes_a_token(system: System) -> list[str]:
    """Use, mistype and misplace tokens in every way; answers what must be found nowhere."""
    ws = await system.workspace()
    created = await system.key(ws)
    token = created["key"]
    place = f"/v1/workspaces/{ws}/keys/{created['id']}"
    kept = await system.call(
        "POST", f"/v1/workspaces/{ws}/keys", {"name": "kept", "environment": "test"}, Idempotency_Key="once"
    )
    rotated = (await system.call("POST", f"{place}/rotate", {"overlap_seconds": 60})).json()["key"]
    mistyped = token[:-1] + ("0" if token[-1] != "0" else "1")
    foreign = "sk_foreign_0123456789abcdefghijklmnopqrstuvwxyzCANARY"
    canaries = [token, kept.json()["key"], rotated, mistyped, foreign, system.bootstrap["management_key"]]
    verifier = system.url("verifier")
    for canary in canaries:
        await system.verify(canary, scopes=["a"], ip="203.0.113.9")
        await system.call("GET", f"/v1/workspaces/{ws}", key=canary)
        await system.contacts(canary)
        for headers in (
            {"Authorization": f"Bearer {canary}"},
            {"X-API-Key": canary, "Authorization": f"Bearer {token}"},
            {"X-API-Key": canary, "X-Request-Id": "ok", "X-Required-Scopes": "no such scope!"},
        ):
            await system.http.get(f"{verifier}/v1/gateway", headers=headers)
            await system.http.get(system.url("keys", f"/v1/workspaces/{ws}"), headers=headers)
            await system.http.get(system.url("usage", f"/v1/workspaces/{ws}/usage"), headers=headers)
        for body in (f'{{"key": "{canary}", "x": 1}}', f'{{"key": ["{canary}"]}}', f'{{"key": "{canary}"'):
            json_type = {"Content-Type": "application/json"}
            await system.http.post(f"{verifier}/v1/verify", content=body, headers=json_type)
            sent = {**json_type, "X-API-Key": canary}
            await system.http.post(system.url("keys", "/v1/workspaces"), content=body, headers=sent)
    await system.call("POST", f"{place}/revoke")
    return canaries


async def test_canary_tokens_are_found_nowhere_but_where_they_are_kept() -> None:
    with temporary_home() as home:
        async with running(home) as system:
            canaries = await _everything_that_takes_a_token(system)
            dump = await _dump(system)
            # a service that is killed and started again writes lines of its own
            os.kill(system.pid("verifier"), signal.SIGKILL)

            async def back() -> bool:
                return "verifier" in system.output.rsplit("is running", 1)[1]

            await until(back, within=15, describe="the supervisor speaks of the verifier's death")
        looked_at = {"the database": dump, "the console": system.process.log.read_bytes()}
        for path in home.rglob("*"):
            if path.is_file() and not SPARED & set(path.relative_to(home).parts):
                looked_at[str(path.relative_to(home))] = path.read_bytes()
    needles = [canary.encode() for canary in canaries] + [canary[-38:-6].encode() for canary in canaries]
    found = [name for name, content in looked_at.items() if any(needle in content for needle in needles)]
    assert found == []
    assert len(dump) > 10_000
    for folder in ("logs/", "nats/", "postgres/"):
        assert any(name.startswith(folder) for name in looked_at)


async def _dump(system: System) -> bytes:
    """Every row of every table of ours, as text, and every byte string in it."""
    password = json.loads((system.home / "postgres.json").read_text())["keyledger"]
    connection = await asyncpg.connect(
        host="127.0.0.1", port=system.base + 32, user="keyledger", password=password, database="postgres"
    )
    parts: list[bytes] = []
    try:
        tables = await connection.fetch(
            "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables "
            "WHERE schemaname IN ('ledger', 'usage', 'public')"
        )
        for table in tables:
            for row in await connection.fetch(f"SELECT t.* FROM {table['name']} t"):
                parts += [
                    value if isinstance(value, bytes) else str(value).encode() for value in row.values()
                ]
    finally:
        await connection.close()
    return b"\n".join(parts)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
