"""The use log over Postgres: each batch once for ever, however often it is sent."""

from __future__ import annotations

from collections.abc import Callable

from keyledger.server.postgres import AWAY, STATEMENT_TIMEOUT, UNDONE, Pool, postgres_away
from keyledger.wire import UseBatch

_BEGIN = "SELECT next_seq, position, day, into_table, erased FROM ledger.begin_uses($1, $2, $3, $4)"
_COLUMNS = (
    "day",
    "position",
    "workspace_id",
    "key_id",
    "environment",
    "minute",
    "outcome",
    "count",
    "cost",
    "last_at",
    "external_id",
)


class PostgresUseLog:
    """`UseLog` on a pool. `on_commit` is called after each commit, to wake the relay."""

    def __init__(self, pool: Pool, *, on_commit: Callable[[], None] = lambda: None) -> None:
        self._pool = pool
        self._on_commit = on_commit

    async def record(self, batch: UseBatch, *, now: int) -> int:
        """Record a batch once; answers, after the commit, the seq expected next from its source."""
        workspaces = sorted({use.workspace_id for use in batch.uses})
        try:
            async with self._pool.acquire(timeout=2) as connection, connection.transaction():
                begun = await connection.fetchrow(_BEGIN, batch.boot, batch.seq, now, workspaces)
                next_seq, position, day, into_table, erased = begun
                if position is not None and batch.uses:
                    await connection.copy_records_to_table(
                        into_table,
                        schema_name="ledger",
                        columns=_COLUMNS,
                        records=[
                            (
                                day,
                                position,
                                use.workspace_id,
                                use.key_id,
                                use.environment,
                                use.minute,
                                use.outcome,
                                use.count,
                                use.cost,
                                use.last_at,
                                use.external_id,
                            )
                            for use in batch.uses
                            if use.workspace_id not in erased
                        ],
                        timeout=STATEMENT_TIMEOUT,
                    )
        except (*AWAY, *UNDONE):
            raise postgres_away() from None
        self._on_commit()
        return next_seq
