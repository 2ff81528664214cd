"""Imported tokens over Postgres: a name for each, and all of a call's keys in one transaction or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from keyledger.errors import unavailable
from keyledger.server.postgres import AWAY, UNDONE, Pool, fetch, postgres_away
from services.keys.adapters.log import command_row, outcome_of, refused_by_database
from services.keys.ports import Appended, Command, TokensTaken

AT_ONCE = 50
"""Commands in one call of `ledger.append`, whose cost grows with their square."""
STATEMENT_SECONDS = 10.0
_KEY_OF = "SELECT key_id FROM ledger.foreign_token WHERE name = $1"
_TAKEN = """
    SELECT asked.ordinal FROM unnest($1::bytea[]) WITH ORDINALITY AS asked (name, ordinal)
      JOIN ledger.foreign_token f ON f.name = asked.name ORDER BY asked.ordinal
"""
_CLAIM = "SELECT * FROM ledger.claim_tokens($1, $2, $3)"
_APPEND = "SELECT * FROM ledger.append($1, $2)"
_WITHOUT_DIGEST = "SELECT ledger.keys_without_digest($1, $2)"


class PostgresImports:
    """`ImportedTokens` and `DigestCounts` on a pool. `on_commit` is called after each commit."""

    def __init__(self, pool: Pool, *, on_commit: Callable[[], None] = lambda: None) -> None:
        self._pool = pool
        self._on_commit = on_commit

    async def key_of(self, name: bytes) -> str | None:
        """The id of the key that was imported with this token."""
        rows = await self._fetch(_KEY_OF, name)
        return rows[0][0] if rows else None

    async def taken(self, names: Sequence[bytes]) -> Sequence[int]:
        """The places in the list, from 0, of the tokens that some key has."""
        return [row[0] - 1 for row in await self._fetch(_TAKEN, list(names))]

    async def without_digest(self, pepper: str, *, now: int) -> int:
        """How many keys have a good secret without a digest under this pepper."""
        return (await self._fetch(_WITHOUT_DIGEST, pepper, now))[0][0]

    async def append(self, names: Sequence[bytes], commands: Sequence[Command]) -> Sequence[Appended]:
        """Commit all of these creations or none; see `ImportedTokens`."""
        sent: list[Appended] = []
        try:
            async with self._pool.acquire(timeout=2) as connection, connection.transaction():
                await self._claim(connection, names, commands)
                for at in range(0, len(commands), AT_ONCE):
                    sent += await _appended(connection, commands[at : at + AT_ONCE])
        except asyncpg.UniqueViolationError:
            # another import was first with one of the names
            raise TokensTaken(await self.taken(names)) from None
        except UNDONE:
            raise postgres_away() from None
        except AWAY:
            if len(sent) == len(commands):
                raise unavailable(
                    "outcome_unknown", "The database went away; look before you retry."
                ) from None
            raise postgres_away() from None
        except asyncpg.PostgresError as error:
            raise refused_by_database(error) from None
        self._on_commit()
        return sent

    async def _claim(self, connection: Any, names: Sequence[bytes], commands: Sequence[Command]) -> None:
        keys = [command.stream_id for command in commands]
        taken = await connection.fetch(_CLAIM, list(names), keys, commands[0].workspace_id)
        if taken:
            raise TokensTaken([row[0] - 1 for row in taken])

    async def _fetch(self, statement: str, *arguments: Any) -> Sequence[Any]:
        try:
            return await fetch(self._pool, statement, *arguments)
        except AWAY:
            raise postgres_away() from None


async def _appended(connection: Any, commands: Sequence[Command]) -> list[Appended]:
    """Append these; whatever keeps one of them out is raised, and with it goes the whole transaction."""
    rows = [command_row(ordinal, command) for ordinal, command in enumerate(commands, 1)]
    events = [
        (ordinal, event.type, event.schema_version, event.actor, event.request_id, event.data)
        for ordinal, command in enumerate(commands, 1)
        for event in command.events
    ]
    appended: list[Appended] = []
    for row in await connection.fetch(_APPEND, rows, events, timeout=STATEMENT_SECONDS):
        outcome = outcome_of(row)
        if isinstance(outcome, Exception):
            raise outcome
        appended.append(outcome)
    return appended
