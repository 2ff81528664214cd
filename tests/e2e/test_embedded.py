"""The example that judges in its own process, beside a whole running system."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from infra.local.settings import PORT_OFFSETS
from tests.support.asgi_server import free_port
from tests.support.processes import Process
from tests.support.system import System
from tests.support.waiting import until


@pytest.fixture
async def api(system: System, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    port = free_port()
    password = json.loads((system.home / "nats.json").read_text())["verifier"]
    env = {
        "PATH": os.environ["PATH"],
        "KEYLEDGER_PORT": str(port),
        "KEYLEDGER_KEYS_URL": system.url("keys"),
        "KEYLEDGER_NATS": f"nats://verifier:{password}@127.0.0.1:{system.base + PORT_OFFSETS['nats']}",
        "KEYLEDGER_SERVICE_KEY_FILE": str(system.home / "secrets" / "verifier"),
        "KEYLEDGER_PEPPERS": str(system.home / "peppers"),
        "KEYLEDGER_STATE": str(tmp_path / "state"),
    }
    with Process(
        [sys.executable, "-m", "examples.embedded"], log=tmp_path / "embedded.log", env=env
    ) as process:
        await process.wait_ready(f"http://127.0.0.1:{port}/healthz", within=20)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as client:
            yield client


async def test_it_answers_like_the_gateway_obeys_at_once_and_reports_uses(
    system: System, api: httpx2.AsyncClient
) -> None:
    ws = await system.workspace()
    key = await system.key(ws, name="greeter", scopes=["greetings:read"])
    other = await system.key(ws, scopes=["else"])

    async def known() -> bool:
        return (await api.get("/", headers={"X-API-Key": other["key"]})).status_code == 403

    await until(known, within=5, describe="the new keys arriving in the embedded verifier")
    told = await api.get("/", headers={"X-API-Key": key["key"]})
    assert (told.status_code, told.json()) == (200, {"hello": "greeter", "workspace": ws})
    assert told.headers["x-ratelimit-limit"] == "1000"
    nobody = await api.get("/")
    assert (nobody.status_code, nobody.json()) == (401, {"error": "missing_api_key"})
    revoked = (await system.call("POST", f"/v1/workspaces/{ws}/keys/{key['id']}/revoke", {"wait": 5})).json()
    # the service and the one embedded here
    assert len(revoked["receipt"]["applied"]) >= 2
    assert revoked["receipt"]["pending"] == []
    gone = await api.get("/", headers={"X-API-Key": key["key"]})
    assert (gone.status_code, gone.json()) == (401, {"error": "invalid_api_key"})

    async def counted() -> bool:
        path = f"/v1/workspaces/{ws}/keys/{key['id']}/usage?granularity=day&group_by=outcome"
        headers = {"X-API-Key": system.bootstrap["management_key"]}
        answer = await system.http.get(system.url("usage", path), headers=headers)
        series: list[Any] = answer.json()["series"]
        return {point["outcome"]: point["count"] for point in series} == {"VALID": 1, "REVOKED": 1}

    await until(counted, within=10, describe="its uses")
