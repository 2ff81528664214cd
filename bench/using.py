"""How fast uses are recorded and folded, and a month of them is answered."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
from msgspec import Struct

from bench.stage import Stage, say
from keyledger.clock import SECOND, SystemClock
from keyledger.events import Epoch
from keyledger.server.postgres import Pool, open_pool
from keyledger.wire import Use, UseBatch
from services.keys.adapters.feed import UseLogSource
from services.keys.adapters.uses import PostgresUseLog
from services.usage.adapters.postgres import PostgresUsage
from services.usage.consumer import BATCHES
from services.usage.domain.period import MINUTE, SIZES
from services.usage.domain.tally import tally
from tests.support.keys import as_role

ROWS = 2_000
"""Use rows of one batch: what a verifier with so many busy keys sends each second."""
SENDERS = 4
SECONDS = 4.0
KEYS = 10_000
OUTCOMES = ("VALID", "VALID", "VALID", "RATE_LIMITED")
_COLUMNS = (
    "day", "position", "workspace_id", "key_id", "environment", "minute", "outcome", "count", "cost",
    "last_at", "external_id",
)  # fmt: skip
_BARE = """
    DROP TABLE IF EXISTS public.bare_use;
    CREATE TABLE public.bare_use (LIKE ledger.use_record);
    GRANT ALL ON public.bare_use TO keyledger_keys;
"""
_START = SystemClock().now() // SIZES["day"] * SIZES["day"]


class Recorded(Struct):
    """Use rows a second, by round."""

    ours: list[float]
    bare: list[float]
    at_once: list[float]


def batches(boot: str, count: int, *, first: int = 0) -> list[UseBatch]:
    """A verifier's batches: every second other keys of ten workspaces, now and then with an external id."""
    workspaces = [f"ws_{number:022d}" for number in range(10)]
    found: list[UseBatch] = []
    for seq in range(first, first + count):
        minute = _START + seq // 60 * MINUTE
        uses = tuple(
            Use(
                workspaces[key % 10],
                f"key_{key:022d}",
                "live",
                minute,
                OUTCOMES[(row + seq) % 4],
                row % 7 + 1,
                row % 7 + 1,
                minute + seq % 60 * SECOND,
                f"customer-{key}" if key % 3 else "",
            )
            for row in range(ROWS)
            for key in ((seq * 37 + row * 5) % KEYS,)
        )
        found.append(UseBatch(boot, seq, uses))
    return found


async def recording(here: Stage, rounds: int) -> Recorded:
    """The recorder, a COPY of the same batches by as many at once, and one COPY of them all, in turns."""
    pool = await open_pool(here.postgres, name="bench")
    admin = await asyncpg.connect(here.admin, timeout=5)
    found, log, clock = Recorded([], [], []), PostgresUseLog(pool), SystemClock()
    sent = [batches(secrets.token_hex(16), 150) for _ in range(SENDERS)]
    rows = [[_rows(batch) for batch in each] for each in sent]
    try:
        for number in range(rounds):
            await admin.execute(_BARE)
            # the same uses under new numbers: what is recorded already would be told apart at once
            again = [[UseBatch(f"{b.boot}-{number}", b.seq, b.uses) for b in each] for each in sent]
            ours = await _for_a_while(again, lambda batch: log.record(batch, now=clock.now()))
            bare = await _for_a_while(rows, lambda batch: _copy(pool, batch))
            began, every = time.perf_counter(), [row for each in rows for batch in each for row in batch]
            await _copy(pool, every)
            at_once = len(every) / (time.perf_counter() - began)
            say(f"recorded {ours:,.0f}/s, bare COPY {bare:,.0f}/s, one COPY {at_once:,.0f}/s")
            found.ours.append(ours)
            found.bare.append(bare)
            found.at_once.append(at_once)
    finally:
        await admin.close()
        await pool.close()
    return found


async def folding(here: Stage, rounds: int) -> list[float]:
    """Use rows a second, from a page of the feed to the commit of the counters, page after page."""
    keys = await open_pool(here.postgres, name="bench")
    usage = await open_pool(as_role(here.admin, "keyledger_usage"), name="bench")
    store, source = PostgresUsage(usage), UseLogSource(keys)
    found: list[float] = []
    epoch: Epoch = (await source.head()).epoch
    try:
        position = await store.begin(epoch, (await source.head()).position)
        for _ in range(rounds):
            rows, began = 0, time.perf_counter()
            while time.perf_counter() - began < SECONDS:
                page = await source.batches(position, BATCHES)
                if not page:
                    break
                uses = [use for batch in page for use in batch.uses]
                assert await store.fold(epoch, position, page[-1].position, tally(uses))
                position, rows = page[-1].position, rows + len(uses)
            found.append(rows / (time.perf_counter() - began))
            say(f"folded {found[-1]:,.0f}/s")
    finally:
        await keys.close()
        await usage.close()
    return found


def _rows(batch: UseBatch) -> list[tuple[Any, ...]]:
    # fields of the wire stand in another order
    return [
        (20_000, batch.seq, u.workspace_id, u.key_id, u.environment, u.minute, u.outcome, u.count, u.cost,
         u.last_at, u.external_id)
        for u in batch.uses
    ]  # fmt: skip


async def _copy(pool: Pool, rows: Sequence[tuple[Any, ...]]) -> None:
    async with pool.acquire() as connection:
        await connection.copy_records_to_table(
            "bare_use", schema_name="public", columns=_COLUMNS, records=rows, timeout=60
        )


async def _for_a_while(senders: Sequence[Sequence[Any]], send: Callable[[Any], Any]) -> float:
    """Rows a second of several senders, each one batch after the other."""
    until, began = time.perf_counter() + SECONDS, time.perf_counter()

    async def run(batches: Sequence[Any]) -> int:
        done = 0
        for batch in batches:
            if time.perf_counter() >= until:
                break
            await send(batch)
            done += 1
        return done * ROWS

    rows = await asyncio.gather(*map(run, senders))
    return sum(rows) / (time.perf_counter() - began)
