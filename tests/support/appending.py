"""Appends of a test's own: as the adapter makes them, or as a bare call inside a transaction."""

import secrets
from typing import Any
from uuid import UUID

import asyncpg

from keyledger.server.ids import new_id
from services.keys.ports import Command, NewEvent

APPEND = "SELECT * FROM ledger.append($1, $2)"
WORKSPACE = new_id("ws")
NOW = 1_800_000_000_000_000


def command(stream: str = "", expected: int = 0, *, workspace: str = WORKSPACE, **fields: Any) -> Command:
    """A command with one event on a key's stream, a new one unless it is named."""
    name = secrets.token_hex(8)
    given: dict[str, Any] = {
        "kind": "key",
        "now": NOW,
        "events": (NewEvent("key_changed", 1, "key_actor", name, b'{"enabled":true}'),),
        "body": b'{"name":"k","environment":"live"}',
        **fields,
    }
    return Command(
        UUID(bytes=secrets.token_bytes(16)),
        stream or new_id("key"),
        workspace_id=workspace,
        expected_version=expected,
        **given,
    )


async def append(connection: asyncpg.Connection, *commands: Command) -> list[asyncpg.Record]:
    """Call the function on this connection, inside whatever transaction it has open; one row a command."""
    rows = [
        (
            ordinal,
            each.command_id,
            each.stream_id,
            each.kind,
            each.workspace_id,
            each.expected_version,
            each.now,
            each.body.decode(),
            [".".join(stamp) for stamp in each.stamps],
            each.data_key,
            None,
            None,
            None,
            None,
        )
        for ordinal, each in enumerate(commands, 1)
    ]
    events = [
        (ordinal, event.type, event.schema_version, event.actor, event.request_id, event.data)
        for ordinal, each in enumerate(commands, 1)
        for event in each.events
    ]
    return await connection.fetch(APPEND, rows, events)


async def blocked(watcher: asyncpg.Connection, pid: int | None = None) -> bool:
    """Whether some backend of this database, or this one, waits for a lock."""
    found: bool | None = await watcher.fetchval(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event_type = 'Lock' AND ($1::int IS NULL OR pid = $1))",
        pid,
    )
    return bool(found)
