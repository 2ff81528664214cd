"""The use log over Postgres: each batch once for ever, however often it is sent."""

from __future__ import annotations

from collections.abc import Callable

from keyledger.server.postgres import AWAY, Pool, postgres_away
from keyledger.wire import UseBatch

_RECORD = "SELECT next_seq FROM ledger.record_uses($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"


class PostgresUseLog:
    """`UseLog` on a pool. `on_commit` is called after each commit, to wake the relay."""

    def __init__(self, pool: Pool, *, on_commit: Callable[[], None] = lambda: None) -> None:
        self._pool = pool
        self._on_commit = on_commit

    async def record(self, batch: UseBatch, *, now: int) -> int:
        """Record a batch once; answers, after the commit, the seq expected next from its source."""
        uses = batch.uses
        try:
            async with self._pool.acquire(timeout=2) as connection:
                next_seq: int = await connection.fetchval(
                    _RECORD,
                    batch.boot,
                    batch.seq,
                    now,
                    [use.workspace_id for use in uses],
                    [use.key_id for use in uses],
                    [use.environment for use in uses],
                    [use.minute for use in uses],
                    [use.outcome for use in uses],
                    [use.count for use in uses],
                    [use.cost for use in uses],
                    [use.last_at for use in uses],
                )
        except AWAY:
            raise postgres_away() from None
        self._on_commit()
        return next_seq
