"""What one test gets on servers that all tests share: a database of its own, no streams left behind."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import nats
from nats.aio.client import Client


@asynccontextmanager
async def database(admin_dsn: str) -> AsyncGenerator[str]:
    """Yield the DSN, for the same user, of a new and empty database.

    It is dropped at the end whoever is still connected to it.
    """
    name = f"keyledger_test_{secrets.token_hex(8)}"
    admin = await asyncpg.connect(admin_dsn, timeout=10, command_timeout=30)
    try:
        # template0 is empty on every server; a given server's template1 may not be.
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        try:
            yield urlsplit(admin_dsn)._replace(path=f"/{name}").geturl()
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close(timeout=10)


@asynccontextmanager
async def streams(url: str) -> AsyncGenerator[None]:
    """Delete at the end every JetStream stream that came into being meanwhile, and no other.

    A given NATS may hold streams of somebody's; they stay.
    """
    client = await nats.connect(url, connect_timeout=5, allow_reconnect=False)
    try:
        before = await stream_names(client)
        yield
        for name in await stream_names(client) - before:
            await client.jetstream(timeout=5).delete_stream(name)
    finally:
        await client.close()


async def stream_names(client: Client) -> set[str]:
    """Return the names of all streams of the client's account."""
    manager = client.jetstream(timeout=5)
    names: set[str] = set()
    while page := await manager.streams_info(offset=len(names)):
        names.update(stream.config.name or "" for stream in page)
    return names
