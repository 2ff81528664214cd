"""`Followers` over Postgres: a small table, written every few seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keyledger.clock import SECOND
from keyledger.server.postgres import AWAY, Pool, fetch, postgres_away
from services.keys.ports import Follower

_FORGET_AFTER = 60 * SECOND
_ALL = "SELECT name, seen, max_staleness FROM ledger.follower"
_NOTE = "SELECT ledger.note_followers($1, $2, $3, $4)"
_FORGET = "SELECT ledger.forget_follower($1)"


class PostgresFollowers:
    """The verifiers that any key service has answered lately."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def all(self) -> Sequence[Follower]:
        return [Follower(**row) for row in await self._fetch(_ALL)]

    async def note(self, heard: Sequence[Follower], *, now: int) -> None:
        names = [each.name for each in heard]
        seen, stale = [each.seen for each in heard], [each.max_staleness for each in heard]
        await self._fetch(_NOTE, names, seen, stale, now - _FORGET_AFTER)

    async def forget(self, name: str) -> None:
        await self._fetch(_FORGET, name)

    async def _fetch(self, statement: str, *arguments: Any) -> Sequence[Any]:
        try:
            return await fetch(self._pool, statement, *arguments)
        except AWAY:
            raise postgres_away() from None
