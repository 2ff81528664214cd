"""Commit order is position order: whoever tails the log by position misses nothing, whatever is in flight."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from keyledger.server.ids import new_id
from keyledger.server.postgres import open_pool
from services.keys.adapters.log import PostgresLog
from tests.faults.checker import log_violations
from tests.faults.history import read_log
from tests.support.appending import append, blocked, command
from tests.support.keys import migrated
from tests.support.waiting import until

Write = Callable[[asyncpg.Connection], Awaitable[Any]]
LOG = "SELECT position FROM ledger.event WHERE position > $1 ORDER BY position"
PLAIN = "SELECT position FROM plain WHERE position > $1 ORDER BY position"


@pytest.fixture
async def role(database: str) -> str:
    """The DSN of the run-time role in a migrated database."""
    return await migrated(database)


@asynccontextmanager
async def connected(dsn: str, count: int) -> AsyncGenerator[list[asyncpg.Connection]]:
    connections = [await asyncpg.connect(dsn, timeout=5) for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.terminate()


class Tail:
    """A reader that remembers the last position it saw, as every follower does."""

    def __init__(self, connection: asyncpg.Connection, statement: str) -> None:
        self.seen: list[int] = []
        self._connection = connection
        self._statement = statement

    async def look(self) -> None:
        """Read on."""
        last = self.seen[-1] if self.seen else 0
        self.seen += [row["position"] for row in await self._connection.fetch(self._statement, last)]


async def overtaking(dsn: str, admin_dsn: str, write: Write, read: str) -> tuple[bool, set[int]]:
    """A writes and stays open, B writes, the reader looks, A commits: did B wait, and what was missed?"""
    async with connected(dsn, 2) as (first, second), connected(admin_dsn, 1) as (reader,):
        tail = Tail(reader, read)
        opened = first.transaction()
        await opened.start()
        await write(first)
        writing = asyncio.create_task(_awaited(write(second)))

        async def settled() -> bool:
            return writing.done() or await blocked(reader, second.get_server_pid())

        await until(settled)
        waited = not writing.done()
        await tail.look()
        await opened.commit()
        await writing
        await tail.look()
        every = {row["position"] for row in await reader.fetch(read, 0)}
        return waited, every - set(tail.seen)


async def _awaited(work: Awaitable[Any]) -> None:
    await work


async def test_an_append_that_is_not_committed_holds_back_the_one_behind_it(role: str, database: str) -> None:
    """The same interleaving on a plain sequence loses the event that was committed late."""

    async def appending(connection: asyncpg.Connection) -> None:
        await append(connection, command())

    assert await overtaking(role, database, appending, LOG) == (True, set())

    async with connected(database, 1) as (admin,):
        await admin.execute("CREATE TABLE plain (position bigserial PRIMARY KEY)")

    async def inserting(connection: asyncpg.Connection) -> None:
        await connection.execute("INSERT INTO plain DEFAULT VALUES")

    assert await overtaking(database, database, inserting, PLAIN) == (False, {1})


async def test_an_append_that_is_rolled_back_leaves_no_hole(role: str, database: str) -> None:
    async with connected(role, 2) as (first, second):
        opened = first.transaction()
        await opened.start()
        assert [row["position"] for row in await append(first, command())] == [1]
        waiting = asyncio.create_task(append(second, command()))
        async with connected(database, 1) as (watcher,):

            async def behind() -> bool:
                return await blocked(watcher, second.get_server_pid())

            await until(behind)
        await opened.rollback()
        assert [row["position"] for row in await waiting] == [1]
    assert log_violations(await read_log(database)) == []


async def test_groups_that_share_streams_in_opposite_orders_never_deadlock(role: str, database: str) -> None:
    """Streams are locked in the order of their ids and the head last, however the commands are ordered."""
    streams = [new_id("key") for _ in range(12)]
    seed = random.randrange(2**32)
    print("seed", seed)
    dice = random.Random(seed)

    async def rounds(connection: asyncpg.Connection) -> int:
        done = 0
        for _ in range(40):
            versions = {
                row["id"]: row["version"] for row in await connection.fetch("SELECT * FROM ledger.stream")
            }
            asked = [command(stream, versions.get(stream, 0)) for stream in dice.sample(streams, 8)]
            asked += [command() for _ in range(2)]
            dice.shuffle(asked)
            done += sum(row["outcome"] == "done" for row in await append(connection, *asked))
        return done

    async with connected(role, 4) as connections:
        done = await asyncio.gather(*map(rounds, connections))
    found = await read_log(database)
    assert log_violations(found) == []
    assert found.head_position == sum(done)
    assert min(done) > 0


async def test_two_processes_append_to_one_log(role: str, database: str) -> None:
    """Two writers on two pools, each with its own groups; one in four commands names a wrong version."""
    pools = [await open_pool(role, name="test") for _ in range(2)]
    async with PostgresLog(pools[0]) as one, PostgresLog(pools[1]) as other:
        asked = [
            (one if number % 2 else other).append(command(expected=9 if number % 4 == 0 else 0))
            for number in range(200)
        ]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
    for pool in pools:
        await pool.close()
    assert sum(isinstance(outcome, BaseException) for outcome in outcomes) == 50
    found = await read_log(database)
    assert log_violations(found) == []
    assert found.head_position == 150
