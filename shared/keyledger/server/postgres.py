"""Postgres: the pool every service uses, and the runner that brings a database up to date.

Migrations are plain SQL files. They run under one advisory lock, each in a transaction of its own, and a
file that was applied and has changed since is an error.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import structlog

from keyledger.errors import Refusal, unavailable

CONNECT_TIMEOUT = 3
STATEMENT_TIMEOUT = 5.0
READ_TIMEOUT = 2.0
ROLES = (
    "keyledger_owner",
    "keyledger_keys",
    "keyledger_usage",
    "keyledger_dashboard",
    "keyledger_reader",
    "keyledger_operator",
)
_MIGRATION_LOCK = 0x6B65796C
_log = structlog.get_logger("keyledger.postgres")

Pool = asyncpg.Pool
#: What the pool raises when Postgres is away or too slow; an adapter turns it into a refusal.
AWAY: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # a backend was killed while its connection was idle, and the word of it comes in the middle of a call
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
)
#: What it raises when it has undone a transaction that may well succeed later.
UNDONE: tuple[type[BaseException], ...] = (
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
)


class MigrationError(Exception):
    """The database cannot be brought up to date; the message names the file."""


def postgres_away() -> Refusal:
    """What a caller is told when Postgres does not answer."""
    return unavailable("unavailable", "The database does not answer just now.")


async def open_pool(dsn: str, *, name: str, least: int = 1, most: int = 10) -> Pool:
    """A pool with bounded size, connect and statement timeouts; raises what `AWAY` lists if unreachable."""
    return await asyncpg.create_pool(
        dsn,
        min_size=least,
        max_size=most,
        timeout=CONNECT_TIMEOUT,
        command_timeout=STATEMENT_TIMEOUT,
        reset=_keep,
        server_settings={
            "application_name": f"keyledger-{name}",
            "statement_timeout": str(int(STATEMENT_TIMEOUT * 1000)),
            "lock_timeout": "2000",
            "idle_in_transaction_session_timeout": "10000",
        },
    )


async def _keep(connection: asyncpg.Connection) -> None:
    """No reset when a connection comes back, a round trip saved: nothing here changes a session's state."""


async def fetch(
    pool: Pool, statement: str, *arguments: Any, within: float = READ_TIMEOUT
) -> Sequence[asyncpg.Record]:
    """The rows of one statement; raises one of `AWAY` when they have not come within so many seconds."""
    async with asyncio.timeout(within):
        connection = await pool.acquire()
        try:
            return await connection.fetch(statement, *arguments)
        except (TimeoutError, asyncio.CancelledError, asyncpg.InternalClientError):
            # the pool would ask the silent server to stop, and wait for its answer
            connection.terminate()
            raise
        finally:
            await pool.release(connection)


async def close_pool(pool: Pool) -> None:
    """Close the pool, waiting a moment for what runs; a Postgres that hangs does not keep us."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await pool.close()
    except TimeoutError:
        pool.terminate()


async def migrate(
    dsn: str, folders: Sequence[Path], *, role_passwords: Mapping[str, str] | None = None
) -> list[str]:
    """Create the roles and apply what is missing of `folders`, in order; answers the names applied.

    `dsn` is an administrator's. With `role_passwords` (role → password) the run-time roles may log in with
    them; without, they are created NOLOGIN when missing, for the operator to grant. A second migrator waits.
    """
    connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT, command_timeout=60)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _MIGRATION_LOCK)
        await _create_roles(connection, role_passwords or {})
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS public.keyledger_migration ("
            "name text PRIMARY KEY, sha256 bytea NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        done: dict[str, bytes] = {
            row["name"]: row["sha256"]
            for row in await connection.fetch("SELECT name, sha256 FROM public.keyledger_migration")
        }
        applied: list[str] = []
        for path in (path for folder in folders for path in sorted(folder.glob("*.sql"))):
            name = f"{path.parent.parent.parent.name}/{path.name}"
            text = path.read_bytes()
            if name not in done:
                await _apply(connection, name, text)
                applied.append(name)
            elif done[name] != hashlib.sha256(text).digest():
                raise MigrationError(f"{name} was applied before and has been changed since")
        return applied
    finally:
        await connection.close()


async def _apply(connection: asyncpg.Connection, name: str, text: bytes) -> None:
    try:
        async with connection.transaction():
            await connection.execute(text.decode())
            await connection.execute("RESET ROLE")
            await connection.execute(
                "INSERT INTO public.keyledger_migration (name, sha256) VALUES ($1, $2)",
                name,
                hashlib.sha256(text).digest(),
            )
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{name}: {error}") from error
    _log.info("migrated", migration=name)


async def _create_roles(connection: asyncpg.Connection, passwords: Mapping[str, str]) -> None:
    for role in ROLES:
        # roles belong to the whole cluster: another database's migrator may be creating the same one
        await connection.execute(
            f"DO $$ BEGIN CREATE ROLE {role} NOLOGIN; "
            "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        )
    await connection.execute("GRANT keyledger_owner TO CURRENT_USER")
    for role, password in passwords.items():
        if role not in ROLES or not password.isalnum():
            raise MigrationError(f"the password of {role} is not alphanumeric")
        await connection.execute(f"ALTER ROLE {role} LOGIN PASSWORD '{password}'")
