"""How many keys have yet to move to a pepper: counted in small steps, each state once."""

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from keyledger.server.ids import new_id
from keyledger.server.postgres import open_pool
from services.keys.adapters.imports import PostgresImports
from tests.support.keys import as_role, migrated

NOW = 1_800_000_000_000_000
OLD, NEW = {"p1": "x"}, {"p1": "x", "p2": "y"}


def key(*secrets: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A key's state with these secrets."""
    return {"name": "k", "secrets": list(secrets), **more}


def secret(digests: dict[str, str], **more: int) -> dict[str, Any]:
    return {"version": 1, "digests": digests, **more}


LEFT = [
    key(secret(OLD)),
    key(secret({})),
    key(secret(OLD, valid_until=NOW + 1), secret(NEW)),
    key(secret(NEW, valid_until=NOW + 1), secret(OLD)),
    key(secret(OLD, dropped_at=NOW + 1)),
    key(secret(OLD), enabled=False),
    key(secret(OLD), expires_at=NOW - 1),
]
DONE = [
    key(secret(NEW)),
    key(secret({"p2": "y"})),
    key(secret(OLD, valid_until=NOW), secret(NEW)),
    key(secret(OLD, dropped_at=NOW), secret(NEW)),
    key(secret(OLD), revoked_at=NOW - 5),
]


@pytest.fixture
async def dsn(database: str) -> AsyncIterator[str]:
    """A database that holds these keys, a workspace, and the peppers' own state."""
    await migrated(database)
    admin = await asyncpg.connect(database, timeout=5)
    rows = [(new_id("key"), "key", body) for body in LEFT + DONE]
    rows += [(new_id("ws"), "workspace", {"name": "w"}), ("peppers", "peppers", {"active": "p2"})]
    await admin.executemany(
        "INSERT INTO ledger.state VALUES ($1, $2, 'ws_1', 1, 1, 1, $3)",
        [(name, kind, json.dumps(body)) for name, kind, body in rows],
    )
    await admin.close()
    yield as_role(database)


@pytest.mark.parametrize("at_once", [1, 2, 5, len(LEFT + DONE) + 2, 1000])
async def test_each_state_is_looked_at_once_however_many_a_step_takes(dsn: str, at_once: int) -> None:
    async with await open_pool(dsn, name="test") as pool:
        counts = PostgresImports(pool, counted_at_once=at_once)
        assert await counts.without_digest("p2", now=NOW) == len(LEFT)
        # without any digest, and with a second pepper's only: under the first there are these two
        assert await counts.without_digest("p1", now=NOW) == 2
        assert await counts.without_digest("p9", now=NOW) == len(LEFT + DONE) - 1
        # what was good until now is still good a moment before, and with it two that had moved
        assert await counts.without_digest("p2", now=NOW - 1) == len(LEFT) + 2


async def test_a_database_without_keys_has_none_left(database: str) -> None:
    dsn = await migrated(database)
    async with await open_pool(dsn, name="test") as pool:
        assert await PostgresImports(pool).without_digest("p2", now=NOW) == 0
