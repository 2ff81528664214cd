"""F15: a usage service that stands still holds up nobody, and catches up with exact counts."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from pathlib import Path

import asyncpg
import msgspec
import pytest

from keyledger.verification.bus import NatsBus
from keyledger.verification.ports import USES_SUBJECT
from keyledger.wire import Use, UseBatch
from tests.faults import aftermath
from tests.faults.conftest import Figures
from tests.faults.rig import Rig, rig
from tests.support.waiting import until

RATE, ROWS = 1000, 50
"""Use rows a second, in batches of so many."""
MINUTE = 60_000_000
CODES = ("VALID", "RATE_LIMITED", "EXPIRED", "DISABLED", "REVOKED")


def batch(boot: str, seq: int, workspace: str, key: str, counted: Counter[str]) -> UseBatch:
    """Uses of one key in the last ten minutes, under several outcomes; they are counted, too."""
    now = time.time_ns() // 1000
    rows: list[Use] = []
    for row in range(ROWS):
        minute = now // MINUTE * MINUTE - row // len(CODES) * MINUTE
        code, count = CODES[row % len(CODES)], row % 7 + 1
        rows.append(Use(workspace, key, "live", minute, code, count, count, minute))
        counted[code] += count
    return UseBatch(boot, seq, tuple(rows))


async def folded(made: Rig) -> tuple[int, int]:
    """How many batches were recorded, and up to which they are counted."""
    connection = await asyncpg.connect(made.admin_dsn, timeout=5)
    try:
        recorded = await connection.fetchval("SELECT position FROM ledger.use_head")
        counted = await connection.fetchval("SELECT position FROM usage.progress")
        return recorded or 0, counted or 0
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(5, id="short"),
        pytest.param(60, id="long", marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)
async def test_a_usage_service_that_stood_still_catches_up_and_counts_exactly(
    database: str, nats_url: str, folder: Path, figures: Figures, seconds: int
) -> None:
    counted, boot = Counter[str](), secrets.token_hex(16)
    recorded_in: list[float] = []
    checked_in: list[float] = []
    bus = await NatsBus.connect(nats_url, name="reports uses")
    try:
        async with rig(database, nats_url, folder, usage=True) as made:
            assert made.usage is not None
            workspace = await made.workspace()
            key = await made.key(workspace)
            await made.caught_up(key["position"])
            assert (await made.verify(key["key"], cost=0)).json()["valid"]
            loop, first = asyncio.get_running_loop(), (await folded(made))[0]
            made.usage.freeze()
            began, seq = loop.time(), 0
            while loop.time() < began + seconds:
                body = msgspec.msgpack.encode(batch(boot, seq, workspace, key["id"], counted))
                sent = loop.time()
                answer = await bus.request(USES_SUBJECT, body, timeout=5)
                assert msgspec.msgpack.decode(answer.body, type=int) == seq + 1
                recorded_in.append(loop.time() - sent)
                asked = loop.time()
                assert (await made.verify(key["key"], cost=0)).json()["code"] == "VALID"
                checked_in.append(loop.time() - asked)
                seq += 1
                await asyncio.sleep(max(0.0, began + seq * ROWS / RATE - loop.time()))
            stood = loop.time() - began
            behind = (await folded(made))[0] - (await folded(made))[1]
            thawed = loop.time()
            made.usage.thaw()

            async def caught_up() -> bool:
                recorded, position = await folded(made)
                return recorded >= first + seq and position >= recorded

            await until(caught_up, within=2 + seconds / 5, describe="everything recorded is counted")
            took = loop.time() - thawed

            async def exact() -> bool:
                return await aftermath.uses_by_code(made, workspace) == counted

            await until(exact, within=5, describe="the counts are those that were sent")
    finally:
        await bus.close()
    figures(
        stood_s=stood,
        rows=seq * ROWS,
        batches_behind=behind,
        caught_up_after_s=took,
        times_the_live_rate=stood / took,
        slowest_record_ms=1000 * max(recorded_in),
        slowest_check_ms=1000 * max(checked_in),
    )
    assert behind >= seq * 0.9
    assert stood / took >= 5
