"""The grouped append against inserts one by one with a bare sequence, and what the order buys.

Both are called by 16 at once, each as fast as it is answered. Two rivals: the event alone, and the same
effect without order (event, stream and state in one statement). Their tables have the log's columns and
indexes; nothing of theirs is chained, checked or told from another's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from uuid import UUID

import asyncpg
from msgspec import Struct

from bench.seeding import key_command, new_workspace
from bench.stage import Stage, say
from keyledger.server.postgres import open_pool
from services.keys.adapters.log import PostgresLog
from services.keys.ports import Command

CALLERS = 16
SECONDS = 1.5
_SETUP = """
    CREATE TABLE public.bare_event (LIKE ledger.event INCLUDING INDEXES);
    CREATE SEQUENCE public.bare_position;
    ALTER TABLE public.bare_event ALTER position SET DEFAULT nextval('public.bare_position');
    CREATE TABLE public.bare_stream (LIKE ledger.stream INCLUDING INDEXES);
    CREATE TABLE public.bare_state (LIKE ledger.state INCLUDING INDEXES);
    GRANT ALL ON ALL TABLES IN SCHEMA public TO keyledger_keys;
    GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO keyledger_keys;
"""
_EVENT = """
    INSERT INTO public.bare_event (stream_id, version, type, schema_version, workspace_id, actor, request_id,
                                   at, command_id, data, hash)
    VALUES ($1, 1, $2, $3, $4, $5, $6, $7, $8, $9, sha256($9))
"""
_ALL = f"""
    WITH stream AS (INSERT INTO public.bare_stream VALUES ($1, $4, 1)), event AS ({_EVENT} RETURNING position)
    INSERT INTO public.bare_state SELECT $1, 'key', $4, 1, position, position, $10::text::jsonb FROM event
"""
_TAIL = "SELECT position FROM {} WHERE position > $1 ORDER BY position LIMIT 5000"
_COUNT = "SELECT count(*) FROM {} WHERE position > $1"
_MADE = 30_000
Call = Callable[[int, Command], Awaitable[object]]
Make = Callable[[int], list[Command]]


class Rate(Struct, frozen=True):
    """What came of one run: appends a second, and latencies in ms."""

    rate: float
    p50: float
    p99: float


class Appended(Struct, frozen=True):
    """All rounds, by what was called; and what a tailing reader missed, as (missed, all) a round."""

    rates: dict[str, list[Rate]]
    missed: dict[str, list[tuple[int, int]]]


async def measure(stage: Stage, rounds: int) -> Appended:
    """Run everything `rounds` times, in turn."""
    administrator = await asyncpg.connect(stage.admin)
    await administrator.execute(_SETUP)
    workspace, data_key = await new_workspace(stage.sealer, administrator)
    pool = await open_pool(stage.postgres, name="bench")
    connections = [await asyncpg.connect(stage.postgres) for _ in range(CALLERS)]
    found = Appended({}, {})
    async with PostgresLog(pool) as log:

        def make(count: int) -> list[Command]:
            return [key_command(workspace, data_key, number) for number in range(count)]

        async def bare(caller: int, command: Command) -> None:
            await connections[caller].execute(_EVENT, *_columns(command))

        async def whole(caller: int, command: Command) -> None:
            await connections[caller].execute(_ALL, *_columns(command), command.body.decode())

        async def ours(_: int, command: Command) -> None:
            await log.append(command)

        calls: dict[str, Call] = {"ours": ours, "event alone": bare, "same effect": whole}
        for call in calls.values():
            await _run(call, make(_MADE // 4), 0.5)
        for number in range(rounds):
            for name, call in calls.items():
                found.rates.setdefault(name, []).append(await _run(call, make(_MADE), SECONDS))
            for name, table in (("ours", "ledger.event"), ("event alone", "public.bare_event")):
                writing = _run(calls[name], make(_MADE), SECONDS)
                found.missed.setdefault(name, []).append(await _tailed(administrator, writing, table))
            say(f"  append: round {number + 1} of {rounds}")
    for connection in (*connections, administrator):
        await connection.close()
    await pool.close()
    return found


def _columns(command: Command) -> tuple[str, str, int, str, str, str, int, UUID, bytes]:
    (event,) = command.events
    return (
        command.stream_id, event.type, event.schema_version, command.workspace_id, event.actor,
        event.request_id, command.now, command.command_id, event.data,
    )  # fmt: skip


async def _run(call: Call, commands: list[Command], seconds: float) -> Rate:
    """As many of the commands as are done in that time; what they are made of was made before."""
    latencies: list[float] = []
    until = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        while commands and (began := time.perf_counter()) < until:
            await call(number, commands.pop())
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*map(caller, range(CALLERS)))
    spent = time.perf_counter() - began
    latencies.sort()
    p50, p99 = (latencies[int(len(latencies) * share)] * 1000 for share in (0.5, 0.99))
    return Rate(len(latencies) / spent, p50, p99)


async def _tailed(reader: asyncpg.Connection, work: Coroutine[Any, Any, Rate], table: str) -> tuple[int, int]:
    """How many of the events written meanwhile a reader never saw that goes on behind the last it saw."""
    start = last = int(await reader.fetchval(f"SELECT coalesce(max(position), 0) FROM {table}") or 0)
    seen = 0
    writing = asyncio.create_task(work)
    while True:
        over = writing.done()
        rows = await reader.fetch(_TAIL.format(table), last)
        seen += len(rows)
        last = rows[-1][0] if rows else last
        if over and not rows:
            break
    await writing
    written = int(await reader.fetchval(_COUNT.format(table), start) or 0)
    return written - seen, written
