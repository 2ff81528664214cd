"""Imported tokens over Postgres: a name for each, and all of a call's keys in one transaction or none.

After a connection lost at COMMIT they are tried again, and looked up by their commands' ids when an earlier
try has won.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from keyledger.errors import unavailable
from keyledger.events import Epoch
from keyledger.server.postgres import AWAY, UNDONE, Pool, fetch, postgres_away
from services.keys.adapters.log import PAUSE, TRIES, command_row, outcome_of, refused_by_database
from services.keys.ports import (
    AlreadyAnswered,
    AnswerInProgress,
    Appended,
    Command,
    TokensTaken,
    VersionConflict,
)

AT_ONCE = 50
"""Commands in one call of `ledger.append`, whose cost grows with their square."""
STATEMENT_SECONDS = 10.0
COUNTED_AT_ONCE = 20_000
"""States in one statement of a count: fifty milliseconds, where a million at once come near the limit."""
_KEY_OF = "SELECT key_id FROM ledger.foreign_token WHERE name = $1"
_TAKEN = """
    SELECT asked.ordinal FROM unnest($1::bytea[]) WITH ORDINALITY AS asked (name, ordinal)
      JOIN ledger.foreign_token f ON f.name = asked.name ORDER BY asked.ordinal
"""
_CLAIM = "SELECT * FROM ledger.claim_tokens($1, $2, $3)"
_APPEND = "SELECT * FROM ledger.append($1, $2)"
_BY_COMMANDS = """
    SELECT e.command_id, e.version, e.position, e.at, h.epoch_number, h.epoch_line
      FROM ledger.event e, ledger.log_head h WHERE e.command_id = ANY ($1::uuid[])
"""
#: Of the states behind an id: how many are keys, not revoked, with a secret that may still be presented and
#: has no digest under this pepper; and the last id.
_WITHOUT_DIGEST = """
    SELECT count(*) FILTER (WHERE left_over) AS left_over, max(stream_id) AS last FROM (
        SELECT s.stream_id, s.kind = 'key' AND NOT s.body ? 'revoked_at' AND EXISTS (
                   SELECT FROM jsonb_array_elements(s.body -> 'secrets') AS secret
                    WHERE NOT secret -> 'digests' ? $1
                      AND coalesce((secret ->> 'valid_until')::bigint > $2, true)
                      AND coalesce((secret ->> 'dropped_at')::bigint > $2, true)) AS left_over
          FROM ledger.state s WHERE s.stream_id > $3 ORDER BY s.stream_id LIMIT $4) page
"""
#: What an append that comes second to itself may be told.
_SECOND = (asyncpg.UniqueViolationError, TokensTaken, VersionConflict, AlreadyAnswered, AnswerInProgress)


class _LostAtCommit(Exception):
    """Everything was sent, and no answer came to the commit."""


class PostgresImports:
    """`ImportedTokens` and `DigestCounts` on a pool. `on_commit` is called after each commit."""

    def __init__(
        self,
        pool: Pool,
        *,
        on_commit: Callable[[], None] = lambda: None,
        counted_at_once: int = COUNTED_AT_ONCE,
    ) -> None:
        self._pool = pool
        self._on_commit = on_commit
        self._counted_at_once = counted_at_once

    async def key_of(self, name: bytes) -> str | None:
        """The id of the key that was imported with this token."""
        rows = await self._fetch(_KEY_OF, name)
        return rows[0][0] if rows else None

    async def taken(self, names: Sequence[bytes]) -> Sequence[int]:
        """The places in the list, from 0, of the tokens that some key has."""
        return [row[0] - 1 for row in await self._fetch(_TAKEN, list(names))]

    async def without_digest(self, pepper: str, *, now: int) -> int:
        """How many keys have a good secret without a digest under this pepper.

        Counted in small steps, each of them a snapshot of its own.
        """
        found, last = 0, ""
        while last is not None:
            ((here, last),) = await self._fetch(_WITHOUT_DIGEST, pepper, now, last, self._counted_at_once)
            found += here
        return found

    async def append(self, names: Sequence[bytes], commands: Sequence[Command]) -> Sequence[Appended]:
        """Commit all of these creations or none; see `ImportedTokens`."""
        try:
            try:
                done = await self._once(names, commands)
            except _LostAtCommit:
                done = await self._found_out(names, commands)
        except asyncpg.UniqueViolationError:
            # another import was first with one of the names
            raise TokensTaken(await self.taken(names)) from None
        except (*AWAY, *UNDONE):
            raise postgres_away() from None
        except asyncpg.PostgresError as error:
            raise refused_by_database(error) from None
        self._on_commit()
        return done

    async def _once(self, names: Sequence[bytes], commands: Sequence[Command]) -> Sequence[Appended]:
        sent: list[Appended] = []
        try:
            async with self._pool.acquire(timeout=2) as connection, connection.transaction():
                await self._claim(connection, names, commands)
                for at in range(0, len(commands), AT_ONCE):
                    sent += await _appended(connection, commands[at : at + AT_ONCE])
        except UNDONE:
            raise
        except AWAY:
            if len(sent) == len(commands):
                raise _LostAtCommit from None
            raise
        return sent

    async def _found_out(self, names: Sequence[bytes], commands: Sequence[Command]) -> Sequence[Appended]:
        """What became of them, by trying again: whoever kills one connection kills the pool's others, too.

        A try waits for the names of an earlier one that still runs, and finds them taken if that has won.
        """
        for _ in range(TRIES):
            with contextlib.suppress(_LostAtCommit, *AWAY, *UNDONE):
                try:
                    return await self._once(names, commands)
                except _SECOND:
                    if found := await self._committed(commands):
                        return found
                    raise
            await asyncio.sleep(PAUSE * random.uniform(0.5, 1.0))  # noqa: S311 (spread, not secrecy)
        raise unavailable("outcome_unknown", "The database went away; look before you retry.")

    async def _committed(self, commands: Sequence[Command]) -> Sequence[Appended]:
        """What is recorded of them: of all, or of none."""
        rows = await fetch(self._pool, _BY_COMMANDS, [command.command_id for command in commands])
        found = {row["command_id"]: row for row in rows}
        return [
            Appended(
                row["version"], row["position"], row["at"], Epoch(row["epoch_number"], row["epoch_line"])
            )
            for command in commands
            if (row := found.get(command.command_id)) is not None
        ]

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
