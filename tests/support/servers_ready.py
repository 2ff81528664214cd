"""Whether a Postgres or a NATS answers: a real answer, since a container's proxy accepts for a dead one."""

import asyncio
import contextlib
from typing import Any

import asyncpg

PATIENCE = 30.0
"""Seconds a server has from its start to its first answer; a loaded machine needs some of them."""


async def query_row(dsn: str, query: str) -> Any:
    """Return the first row of one query on a connection of its own; the driver's errors are passed on."""
    connection = await asyncpg.connect(dsn, timeout=5, command_timeout=30)
    try:
        return await connection.fetchrow(query)
    finally:
        await connection.close(timeout=5)


async def postgres_answers(dsn: str) -> bool:
    """Say whether a query is answered now; a wrong password or name is an error, not a no."""
    try:
        return bool(await query_row(dsn, "SELECT 1"))
    except (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
        return False


async def nats_answers(host: str, port: int) -> bool:
    """Say whether a nats-server greets at this port now.

    nats-py sleeps two seconds after a refused connection, so this comes first.
    """
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(host, port)
            with contextlib.closing(writer):
                return (await reader.readline()).startswith(b"INFO")
    except (OSError, TimeoutError):
        return False
