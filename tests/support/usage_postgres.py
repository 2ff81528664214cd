"""A migrated database for the usage service, reached as its own run-time role."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from keyledger.server.postgres import migrate, open_pool
from services.usage.adapters import postgres as adapter
from services.usage.adapters.postgres import PostgresUsage

MIGRATIONS = Path(adapter.__file__).parent / "migrations"
PASSWORD = "usagetests"


async def prepare(admin: str) -> str:
    """Apply the usage service's migrations; return the DSN of its run-time role."""
    await migrate(admin, [MIGRATIONS], role_passwords={"keyledger_usage": PASSWORD})
    parts = urlsplit(admin)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"keyledger_usage:{PASSWORD}@{host}").geturl()


@asynccontextmanager
async def open_store(admin: str) -> AsyncGenerator[PostgresUsage]:
    """A store on this database, as the run-time role."""
    pool = await open_pool(await prepare(admin), name="test")
    try:
        yield PostgresUsage(pool)
    finally:
        await pool.close()
