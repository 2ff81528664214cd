"""How long a month of one workspace by hour and outcome takes, with many keys and uses behind it."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx2
from msgspec import Struct

from bench.plot import Bar
from bench.stage import Stage, say
from keyledger.clock import SystemClock, parse_rfc3339
from keyledger.events import Epoch
from keyledger.server.edge import Edge
from keyledger.server.postgres import open_pool
from keyledger.server.telemetry import new_registry
from services.usage.adapters.postgres import PostgresUsage
from services.usage.app import Parts, assemble
from services.usage.domain.period import SIZES
from tests.support.keys import as_role
from tests.support.memory_bus import MemoryBus
from tests.support.memory_grants import MemoryGrants
from tests.support.memory_usage import MemoryFeed, OpenAccess

WORKSPACE = "ws_" + "1" * 22
MONTH = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-31T00:00:00Z"}
START, END = (parse_rfc3339(moment) for moment in MONTH.values())
KEYS = 100
ASKED = 40
MOST_OF_NOTHING = 100
# Every key is used in every minute, with now and then a refusal.
_FILL = f"""
    INSERT INTO usage.use_minute (workspace_id, bucket, key_id, outcome, environment, count, cost)
    SELECT '{WORKSPACE}', {START} + minute::bigint * 60000000, 'key_' || lpad(key::text, 22, '0'),
           CASE WHEN (minute + key) % 7 > 0 THEN 'VALID' WHEN key % 3 = 0 THEN 'REVOKED'
                ELSE 'RATE_LIMITED' END, 'live', 11 + (minute + key) % 3, 11
      FROM generate_series(0, 30 * 1440 - 1) minute, generate_series(1, {KEYS}) key
"""
_ROLL_UP = """
    INSERT INTO usage.{table} ({columns}, count, cost)
    SELECT {fields}, sum(count), sum(cost) FROM usage.use_minute GROUP BY {fields}
"""


class Answered(Struct):
    """Medians in ms, by question and round, and what was behind them."""

    times: dict[str, list[float]]
    behind: str

    def bars(self) -> list[Bar]:
        """The figures; the first question is the one with a target."""
        return [
            Bar(name, "ms", tuple(values), 50 if number == 0 else None, more_is_better=False)
            for number, (name, values) in enumerate(self.times.items())
        ]


async def measure(here: Stage, rounds: int) -> Answered:
    """Fill a month, then ask the service itself, credentials aside, over and over."""
    behind = await _fill(here)
    questions: dict[str, Mapping[str, str]] = {
        "a month by hour and outcome": {"granularity": "hour", "group_by": "outcome"},
        "a month by day and key": {"granularity": "day", "group_by": "key"},
        "its first page by hour, key and outcome": {"granularity": "hour", "group_by": "key,outcome"},
        "a day by minute and outcome": {
            "granularity": "minute",
            "group_by": "outcome",
            "to": "2026-01-02T00:00:00Z",
        },
    }
    times: dict[str, list[float]] = {name: [] for name in questions}
    async with _service(here) as ask:
        for _ in range(rounds):
            for name, query in questions.items():
                times[name].append(await _median(lambda query=query: ask({**MONTH, **query})))
    for name, values in times.items():
        say(f"{name}: {statistics.median(values):.1f} ms")
    return Answered(times, behind)


async def _fill(here: Stage) -> str:
    admin = await asyncpg.connect(here.admin, timeout=5)
    try:
        await admin.execute(_FILL, timeout=600)
        for of, columns in (
            ("use", "workspace_id, {bucket}, key_id, outcome, environment, external_id"),
            ("all", "workspace_id, {bucket}, outcome, environment"),
        ):
            for granularity, size in SIZES.items():
                if (of, granularity) == ("use", "minute"):
                    continue
                await admin.execute(
                    _ROLL_UP.format(
                        table=f"{of}_{granularity}",
                        columns=columns.format(bucket="bucket"),
                        fields=columns.format(bucket=f"bucket - bucket % {size}"),
                    ),
                    timeout=600,
                )
        await admin.execute("VACUUM ANALYZE", timeout=600)
        rows, uses = await admin.fetchrow(
            "SELECT count(*), sum(count)::bigint FROM usage.use_minute", timeout=60
        )
    finally:
        await admin.close()
    behind = f"{uses:,} uses of {KEYS} keys in {rows:,} counters by the minute"
    say(behind)
    return behind


async def _median(ask: Callable[[], Awaitable[None]]) -> float:
    await ask()
    spent: list[float] = []
    for _ in range(ASKED):
        began = time.perf_counter()
        await ask()
        spent.append((time.perf_counter() - began) * 1000)
    return statistics.median(spent)


@asynccontextmanager
async def _service(here: Stage) -> AsyncGenerator[Callable[[Mapping[str, str]], Awaitable[None]]]:
    """The usage service on these counters, asked without a network between."""
    pool = await open_pool(as_role(here.admin, "keyledger_usage"), name="bench")
    epoch = Epoch(1, b"line-one")
    parts = Parts(
        PostgresUsage(pool), MemoryFeed(epoch), MemoryBus(), OpenAccess(), SystemClock(), MemoryGrants()
    )

    @asynccontextmanager
    async def opened() -> AsyncGenerator[Parts]:
        yield parts

    litestar = assemble(opened, new_registry())
    app: Any = Edge(litestar)
    http = httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app),
        base_url="http://usage.test",
        headers={"X-API-Key": "cvtk_live_bench"},
    )

    async def ask(query: Mapping[str, str]) -> None:
        answer = await http.get(f"/v1/workspaces/{WORKSPACE}/usage", params=dict(query))
        assert answer.status_code == 200, answer.text
        assert len(answer.content) > MOST_OF_NOTHING, "an answer without points"

    async with litestar.lifespan(), http:
        await asyncio.sleep(0)
        yield ask
    await pool.close()
