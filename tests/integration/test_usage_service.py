"""The usage service as it runs: its own process, a real Postgres and NATS, and a played key service."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import nats
import pytest

from keyledger.clock import SystemClock
from keyledger.events import Epoch
from keyledger.wire import RecordedUses, Use
from services.usage.domain.period import MINUTE
from tests.support.asgi_server import free_port, serving
from tests.support.fake_keys import OWN_KEY, FakeKeys
from tests.support.processes import Process
from tests.support.servers import Servers
from tests.support.usage_postgres import prepare
from tests.support.waiting import until

WS, OTHER, KEY = "ws_" + "1" * 22, "ws_" + "2" * 22, "key_" + "3" * 22
CALLER = "cvtk_live_caller"


class House:
    """One service with what it depends on."""

    def __init__(self, keys: FakeKeys, nats_url: str, env: dict[str, str], log: Path) -> None:
        self.keys = keys
        self.nats_url = nats_url
        self.env = env
        self.log = log
        self.url = f"http://127.0.0.1:{env['KEYLEDGER_PORT']}"
        self.http = httpx2.AsyncClient(base_url=self.url, headers={"X-API-Key": CALLER}, trust_env=False)

    def process(self) -> Process:
        """Start it."""
        return Process([sys.executable, "-m", "services.usage"], log=self.log, env=self.env)

    def record(self, count: int) -> list[RecordedUses]:
        """Record batches of one use each, a minute ago."""
        now = SystemClock().now()
        use = Use(WS, KEY, "live", now - now % MINUTE - MINUTE, "VALID", 1, 1, now)
        first = len(self.keys.batches) + 1
        made = [RecordedUses(position, now, (use,)) for position in range(first, first + count)]
        self.keys.batches += made
        return made

    async def say(self, batches: list[RecordedUses]) -> None:
        """Publish them as the stream does."""
        client = await nats.connect(self.nats_url, connect_timeout=5, allow_reconnect=False)
        for batch in batches:
            subject = f"kl.uselive.{self.keys.epoch.line.hex()}"
            await client.publish(subject, msgspec.msgpack.encode(batch))
        await client.flush(5)
        await client.close()

    async def totals(self) -> Any:
        """What the workspace's usage counts."""
        return (await self.http.get(f"/v1/workspaces/{WS}/usage")).json()["totals"]["count"]

    async def counts(self, expected: int) -> None:
        """Wait until exactly this many uses are counted."""

        async def counted() -> bool:
            return await self.totals() == expected

        await until(counted, describe=f"{expected} uses", within=10)


@pytest.fixture
async def house(database: str, servers: Servers, tmp_path: Path) -> AsyncIterator[House]:
    key = tmp_path / "usage-key"
    key.write_text(OWN_KEY)
    keys = FakeKeys(Epoch(1, bytes.fromhex(f"{time.time_ns() % 2**64:016x}")))
    keys.allowed = {(CALLER, WS)}
    async with serving(keys) as keys_url:
        env = {
            "KEYLEDGER_PORT": str(free_port()),
            "KEYLEDGER_POSTGRES": await prepare(database),
            "KEYLEDGER_NATS": servers.nats,
            "KEYLEDGER_KEYS_URL": keys_url,
            "KEYLEDGER_SERVICE_KEY_FILE": str(key),
        }
        house = House(keys, servers.nats, env, tmp_path / "log")
        async with house.http:
            yield house


async def test_uses_are_counted_once_across_a_gap_a_kill_and_a_restart(house: House) -> None:
    house.record(250)
    with house.process() as process:
        await process.wait_ready(f"{house.url}/readyz")
        await house.counts(250)
        await house.say(house.record(10))
        await house.counts(260)
        await house.say(house.record(10)[9:])
        await house.counts(270)
        process.send(signal.SIGKILL)
        await asyncio.to_thread(process.kill)
    house.record(30)
    with house.process() as process:
        await process.wait_ready(f"{house.url}/readyz")
        await house.counts(300)
        body = (await house.http.get("/readyz")).json()
        assert (body["status"], body["position"], body["head"]) == ("ready", 300, 300)
        assert body["epoch"] == house.keys.epoch.text


async def test_without_a_bus_the_feed_is_enough(house: House) -> None:
    house.env["KEYLEDGER_NATS"] = f"nats://127.0.0.1:{free_port()}"
    house.record(20)
    with house.process() as process:
        await process.wait_ready(f"{house.url}/readyz")
        await house.counts(20)
        house.record(5)
        await house.counts(25)
        assert (await house.http.get("/readyz")).json()["status"] == "degraded"


async def test_who_may_not_read_is_told_so(house: House) -> None:
    with house.process() as process:
        await process.wait_ready(f"{house.url}/readyz")
        answer = await house.http.get(f"/v1/workspaces/{OTHER}/usage")
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found")
        answer = await house.http.get(f"/v1/workspaces/{WS}/usage", headers={"X-API-Key": "other"})
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_api_key")
        assert answer.headers["WWW-Authenticate"]
        answer = await house.http.get(f"/v1/workspaces/{WS}/usage", headers={"X-Request-Id": "mine"})
        assert answer.headers["X-Request-Id"] == "mine"
        log = house.log.read_text()
        assert CALLER not in log
        assert OWN_KEY not in log


async def test_it_is_up_fast_and_ends_in_time(house: House) -> None:
    began = time.monotonic()
    with house.process() as process:
        await process.wait_ready(f"{house.url}/readyz")
        assert time.monotonic() - began < 5
        began = time.monotonic()
        assert await asyncio.to_thread(process.terminate) in (0, -signal.SIGTERM)
        assert time.monotonic() - began < 5


async def test_bad_settings_are_a_sentence(house: House) -> None:
    del house.env["KEYLEDGER_NATS"], house.env["KEYLEDGER_POSTGRES"]
    with house.process() as process:

        async def ended() -> bool:
            return process.returncode is not None

        await until(ended)
        assert process.returncode == 2
    assert house.log.read_text() == "usage: KEYLEDGER_POSTGRES is missing; KEYLEDGER_NATS is missing\n"


async def test_the_run_time_role_owns_nothing_and_forgets_no_progress(house: House, database: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(house.env["KEYLEDGER_POSTGRES"])
    try:
        for statement in ("DELETE FROM usage.progress", "TRUNCATE usage.progress", "CREATE TABLE usage.x ()"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        owned = await connection.fetchval(
            "SELECT count(*) FROM pg_class WHERE relowner = 'keyledger_usage'::regrole"
        )
        assert owned == 0
    finally:
        await connection.close()
