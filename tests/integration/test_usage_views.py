"""The views for people who ask in SQL: a stretch of time is found by an index, running limits are there."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from keyledger.events import Epoch
from keyledger.server.postgres import close_pool, migrate, open_pool
from keyledger.wire import Use
from services.usage.adapters.grants import PostgresGrants
from services.usage.adapters.postgres import PostgresUsage
from services.usage.domain.period import MINUTE, SIZES
from services.usage.domain.pool import Holding, Pool
from services.usage.domain.tally import tally
from tests.support import servers_fresh as fresh
from tests.support.keys import ROLE_PASSWORDS, as_role, migrated
from tests.support.usage_postgres import MIGRATIONS

HOURS, WORKSPACES, KEYS = 400, 20, 10
WS = "ws_0000000000000000000003"
_FILL = """
    INSERT INTO usage.{table} ({columns}, count, cost)
    SELECT 'ws_' || lpad(w::text, 22, '0'), (480000 + h) * 3600000000, {key} 'VALID', 'live', {owner} 1, 1
      FROM generate_series(1, $1::bigint) h, generate_series(1, $2) w {keys} ORDER BY 2
"""
VIEWS = [
    *((f"by_{size}", f"use_{size}") for size in SIZES),
    *((f"of_workspace_by_{size}", f"all_{size}") for size in SIZES),
]


@pytest.fixture(scope="module")
async def filled(postgres_server: str) -> AsyncIterator[asyncpg.Connection]:
    """A database with uses of many hours in every table, in the order in which they came."""
    async with fresh.database(postgres_server) as dsn:
        await migrated(dsn)
        connection = await asyncpg.connect(dsn, timeout=5, command_timeout=60)
        for _, table in VIEWS:
            keys = table.startswith("use")
            columns = "workspace_id, bucket, outcome, environment"
            if keys:
                columns = "workspace_id, bucket, key_id, outcome, environment, external_id"
            words = {
                "columns": columns,
                "key": "'key_' || k," if keys else "",
                "owner": "''," if keys else "",
                "keys": f", generate_series(1, {KEYS}) k" if keys else "",
            }
            fill = _FILL.format(table=table, **words)
            await connection.execute(fill, hours_of(table), WORKSPACES)
            await connection.execute(f"VACUUM ANALYZE usage.{table}")
        yield connection
        await connection.close()


def hours_of(table: str) -> int:
    """As many rows of whole workspaces as of keys: a table of few pages needs no index."""
    return HOURS * (1 if table.startswith("use") else KEYS)


def last_day(table: str) -> tuple[str, str]:
    """The last day of the rows as a range of start, and as one of buckets."""
    moment = f"to_timestamp({480_000 + hours_of(table) - 23} * 3600::bigint)"
    return f"start >= {moment}", f"bucket >= usage.micros({moment})"


async def plan(connection: asyncpg.Connection, role: str, view: str, asked: str) -> str:
    """How a sum is found by this role, whose workspace is named."""
    async with connection.transaction():
        await connection.execute(f"SET LOCAL ROLE {role}")
        await connection.execute(f"SET LOCAL keyledger.workspace_id = '{WS}'")
        rows = await connection.fetch(f"EXPLAIN SELECT sum(count) FROM usage.{view} WHERE {asked}")
    return "\n".join(row[0] for row in rows)


@pytest.mark.parametrize(("view", "table"), VIEWS)
async def test_a_range_of_start_is_found_by_the_index(
    filled: asyncpg.Connection, view: str, table: str
) -> None:
    found = await plan(filled, "keyledger_operator", view, last_day(table)[0])
    assert f"Bitmap Index Scan on {table}_by_start" in found
    assert "Index Cond: (to_timestamp" in found
    assert "Seq Scan" not in found


@pytest.mark.parametrize(("view", "table"), VIEWS)
@pytest.mark.parametrize("role", ["keyledger_operator", "keyledger_reader"])
async def test_a_range_of_buckets_of_a_workspace_is_found_by_the_index(
    filled: asyncpg.Connection, role: str, view: str, table: str
) -> None:
    found = await plan(filled, role, view, f"workspace_id = '{WS}' AND {last_day(table)[1]}")
    conditions = [line for line in found.splitlines() if "Index Cond" in line]
    assert any("bucket >= " in line for line in conditions), found
    assert table in found


async def test_start_and_bucket_are_one_moment(filled: asyncpg.Connection) -> None:
    for view, table in VIEWS:
        start, bucket = last_day(table)
        sums = [
            await filled.fetchval(f"SELECT sum(count) FROM usage.{view} WHERE {asked}")
            for asked in (start, bucket, f"{start} AND {bucket}", "usage.micros(start) = bucket")
        ]
        assert sums[0]
        assert sums[0] == sums[1] == sums[2]
        assert await filled.fetchval("SELECT usage.micros('1970-01-02Z')") == 86_400_000_000
        assert sums[3] == await filled.fetchval(f"SELECT sum(count) FROM usage.{view}")


async def test_limits_whose_cells_run_are_shown_to_an_operator(database: str) -> None:
    dsn = as_role(await _migrated(database), "keyledger_usage")
    pool = await open_pool(dsn, name="test")
    admin = await asyncpg.connect(database, timeout=5)
    try:
        now = await admin.fetchval("SELECT extract(epoch FROM now())::bigint")
        grants = PostgresGrants(pool)
        assert await grants.take(None, 1, "granter", now) is not None
        running = Pool(WS, "day", now - 10, now + 1000, 100, {"v": Holding(40, 25), "w": Holding(5, 5)})
        over = Pool(WS, "day", now - 1000, now - 10, 100, {})
        later = Pool(WS, 3600, now + 900, now + 4500, 100, {})
        assert await grants.commit(1, [running, over, later])
        async with admin.transaction():
            await admin.execute("SET LOCAL ROLE keyledger_operator")
            (row,) = await admin.fetch("SELECT * FROM usage.limits")
        assert (row["holder"], row["window"], row["limit"]) == (WS, "day", 100)
        assert (row["admitted"], row["granted"], row["remaining"]) == (30, 45, 70)
        assert (row["start"].timestamp(), row["reset"].timestamp()) == (now - 10, now + 1000)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with admin.transaction():
                await admin.execute("SET LOCAL ROLE keyledger_reader")
                await admin.fetch("SELECT * FROM usage.limits")
    finally:
        await admin.close()
        await close_pool(pool)


async def test_what_somebody_made_of_a_view_outlives_the_migration(database: str, tmp_path: Path) -> None:
    before = tmp_path / "usage" / "adapters" / "migrations"
    shutil.copytree(MIGRATIONS, before)
    (before / "0007_views.sql").unlink()
    await migrate(database, [before], role_passwords=ROLE_PASSWORDS)
    admin = await asyncpg.connect(database, timeout=5)
    try:
        await admin.execute(
            "CREATE VIEW public.mine AS SELECT start, sum(count) FROM usage.by_minute GROUP BY 1"
        )
        await admin.execute("GRANT SELECT ON public.mine TO keyledger_operator")
        await migrate(database, [MIGRATIONS], role_passwords=ROLE_PASSWORDS)
        pool = await open_pool(as_role(database, "keyledger_usage"), name="test")
        store, epoch = PostgresUsage(pool), Epoch(1, b"line-one")
        await store.begin(epoch, 0)
        await store.fold(epoch, 0, 1, tally([Use(WS, "key", "live", MINUTE, "VALID", 3, 5, MINUTE)]))
        await close_pool(pool)
        for role in ("keyledger_operator", "keyledger_reader"):
            async with admin.transaction():
                await admin.execute(f"SET LOCAL ROLE {role}")
                await admin.execute(f"SET LOCAL keyledger.workspace_id = '{WS}'")
                assert [row["count"] for row in await admin.fetch("SELECT * FROM usage.by_minute")] == [3]
        ((start, count),) = await admin.fetch("SELECT * FROM public.mine")
        assert (start.timestamp(), count) == (60, 3)
    finally:
        await admin.close()


async def _migrated(database: str) -> str:
    await migrated(database)
    return database
