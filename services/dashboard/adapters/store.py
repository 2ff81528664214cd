"""Postgres behind the dashboard's stores: one statement or one transaction each call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import structlog

from keyledger.server.postgres import AWAY, UNDONE, Pool, close_pool, open_pool
from services.dashboard.ports import StoreUnavailable

CONNECT_SECONDS = 30.0
_log = structlog.get_logger("keyledger.dashboard")


class Database:
    """The dashboard's database; the stores hold it before it is open."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._pool: Pool | None = None

    def __repr__(self) -> str:
        return "Database(***)"

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Open for as long as the block runs, once Postgres answers; `TimeoutError` after half a minute."""
        async with asyncio.timeout(CONNECT_SECONDS):
            while self._pool is None:
                try:
                    self._pool = await open_pool(self._dsn, name="dashboard")
                except AWAY as error:
                    _log.warning("postgres_away", error=type(error).__name__)
                    await asyncio.sleep(0.2)
        try:
            yield
        finally:
            pool, self._pool = self._pool, None
            await close_pool(pool)

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Any]:
        """A connection in a transaction; `StoreUnavailable` when there is none, or it was undone."""
        async with self.reading() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[Any]:
        """A connection for one statement; `StoreUnavailable` when there is none."""
        if self._pool is None:
            raise StoreUnavailable("not open")
        try:
            async with self._pool.acquire() as connection:
                yield connection
        except (*AWAY, *UNDONE) as error:
            raise StoreUnavailable(type(error).__name__) from None
