"""What an attacker who owns the database can do to it, triggers and all."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

_RECHAIN = """
DO $$
DECLARE
    e record;
    previous bytea := decode(repeat('00', 32), 'hex');
BEGIN
    FOR e IN SELECT * FROM ledger.event ORDER BY position LOOP
        previous := ledger.chain_hash(
            previous,
            (SELECT line FROM ledger.epoch WHERE base_position < e.position ORDER BY number DESC LIMIT 1),
            e.position, e.stream_id, e.version, e.type, e.schema_version,
            e.workspace_id, e.actor, e.request_id, e.at, e.data);
        UPDATE ledger.event SET hash = previous WHERE position = e.position;
    END LOOP;
    UPDATE ledger.log_head SET hash = previous;
END $$
"""


@asynccontextmanager
async def superuser(admin_dsn: str) -> AsyncGenerator[asyncpg.Connection]:
    """A connection for which no trigger fires."""
    connection = await asyncpg.connect(admin_dsn, timeout=5, command_timeout=30)
    try:
        await connection.execute("SET session_replication_role = replica")
        yield connection
    finally:
        await connection.close()


async def tamper(admin_dsn: str, statement: str, *arguments: Any) -> None:
    """Change something that must never change, and check that something did."""
    async with superuser(admin_dsn) as connection:
        done = await connection.execute(statement, *arguments)
        assert int(done.rsplit(" ", 1)[-1]) > 0, f"nothing was changed: {done}"


async def rechain(admin_dsn: str) -> None:
    """Recompute every hash, so that the chain hides what was done."""
    async with superuser(admin_dsn) as connection:
        await connection.execute(_RECHAIN)
