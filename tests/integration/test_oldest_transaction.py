"""How long the oldest transaction has been open, as the run-time role learns it."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
import structlog
from structlog.testing import LogCapture

from keyledger.server.postgres import Pool, close_pool, open_pool
from services.keys.adapters.oldest_transaction import SAY_EVERY, OldestTransaction
from tests.support.followed_log import HandClock
from tests.support.keys import migrated
from tests.support.servers_wheels import restorable_postgres
from tests.support.waiting import until

LONGEST = 0.05


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    pool = await open_pool(await migrated(database), name="watch")
    yield pool
    await close_pool(pool)


@pytest.fixture
def said() -> Iterator[LogCapture]:
    capture, before = LogCapture(), structlog.get_config()
    structlog.configure(processors=[capture], cache_logger_on_first_use=False)
    yield capture
    structlog.configure(**before)


async def opened(dsn: str, name: str) -> asyncpg.Connection:
    """A connection that has begun a transaction and sits on it."""
    connection = await asyncpg.connect(dsn, timeout=5, server_settings={"application_name": name})
    await connection.execute("BEGIN; SELECT 1")
    return connection


async def late(oldest: OldestTransaction) -> bool:
    await oldest.look()
    return oldest.late


async def test_a_transaction_that_is_left_open_is_told_of_once_a_minute(
    database: str, pool: Pool, said: LogCapture
) -> None:
    clock = HandClock()
    oldest = OldestTransaction(pool, clock, longest=LONGEST)
    await oldest.look()
    assert (oldest.seconds, oldest.late, said.entries) == (0, False, [])

    forgotten = await opened(database, "a forgotten shell")
    try:
        await until(lambda: late(oldest))
        assert oldest.seconds > LONGEST
        (entry,) = said.entries
        expected = ("warning", "transaction_open", "transaction", "a forgotten shell")
        assert (entry["log_level"], entry["event"], entry["type"], entry["name"]) == expected
        assert entry["pid"] == forgotten.get_server_pid()
        await oldest.look()
        assert len(said.entries) == 1
        clock.advance(SAY_EVERY)
        await oldest.look()
        assert len(said.entries) == 2
    finally:
        await forgotten.close()

    async def over() -> bool:
        return not await late(oldest)

    await until(over)
    assert oldest.seconds == 0


async def test_it_goes_on_looking_by_itself(database: str, pool: Pool) -> None:
    oldest, stop = OldestTransaction(pool, HandClock(), longest=LONGEST), asyncio.Event()
    forgotten = await opened(database, "forgotten")
    running = asyncio.create_task(oldest.run(stop))
    try:

        async def seen() -> bool:
            return oldest.late

        await until(seen)
    finally:
        stop.set()
        await asyncio.wait_for(running, 5)
        await forgotten.close()


async def test_who_may_not_see_others_transactions_says_so_once(
    database: str, pool: Pool, said: LogCapture
) -> None:
    oldest = OldestTransaction(pool, HandClock(), longest=LONGEST)
    forgotten = await opened(database, "forgotten")
    admin = await asyncpg.connect(database, timeout=5)
    await admin.execute("REVOKE pg_read_all_stats FROM keyledger_owner")
    try:
        for _ in range(2):
            await oldest.look()
            assert oldest.seconds != oldest.seconds
            assert not oldest.late
        assert [entry["event"] for entry in said.entries] == ["transactions_unseen"]
    finally:
        await admin.execute("GRANT pg_read_all_stats TO keyledger_owner")
        await admin.close()
        await forgotten.close()


async def test_prepared_transactions_and_abandoned_slots_count_too() -> None:
    async with restorable_postgres() as server:
        admin = await asyncpg.connect(server.dsn, timeout=5)
        await admin.execute("ALTER SYSTEM SET max_prepared_transactions = 2")
        await admin.execute("ALTER SYSTEM SET wal_level = logical")
        await admin.close()
        server.stop()
        await server.start()
        pool = await open_pool(await migrated(server.dsn), name="watch")
        admin = await asyncpg.connect(server.dsn, timeout=5)
        try:
            oldest = OldestTransaction(pool, HandClock(), longest=LONGEST)
            await admin.execute("BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'forgotten'")
            await until(lambda: late(oldest))
            await admin.execute("ROLLBACK PREPARED 'forgotten'")
            await oldest.look()
            assert oldest.seconds == 0
            await admin.execute("SELECT pg_create_logical_replication_slot('abandoned', 'pgoutput')")
            await until(lambda: late(oldest))
            await admin.execute("SELECT pg_drop_replication_slot('abandoned')")
            await oldest.look()
            assert oldest.seconds == 0
        finally:
            await admin.close()
            await close_pool(pool)
