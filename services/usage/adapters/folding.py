"""The statements that add a tally to the counters, to those in use or to those that are built beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import asyncpg

from services.usage.domain.parking import Parked
from services.usage.domain.period import SIZES
from services.usage.domain.tally import Bucket, Count, Tally

OF_KEYS: Mapping[str, str] = {
    "workspace_id": "text",
    "bucket": "bigint",
    "key_id": "text",
    "outcome": "text",
    "environment": "text",
    "external_id": "text",
}
"""What a key's counters are told apart by, with the types."""
OF_WORKSPACES = {column: kind for column, kind in OF_KEYS.items() if column not in {"key_id", "external_id"}}
"""What a workspace's counters are told apart by."""
COUNTERS = (
    *(f"use_{granularity}" for granularity in SIZES),
    *(f"all_{granularity}" for granularity in SIZES),
    "key_last_used",
)
"""Every table of counters, in the order in which a fold writes them."""
MOST = 2**63 - 1
"""What a counter stays at, rather than stop the counting of everything else."""
REFUSES = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
"""What the database says of rows that it can never take."""
_FIELDS: Mapping[str, Callable[[Bucket], str | int]] = {
    "workspace_id": lambda bucket: bucket.workspace_id,
    "bucket": lambda bucket: bucket.start,
    "key_id": lambda bucket: bucket.key_id,
    "outcome": lambda bucket: bucket.outcome,
    "environment": lambda bucket: bucket.environment,
    "external_id": lambda bucket: bucket.external_id,
}

# The rows come sorted, so two writers never wait for each other in a circle.
_ADD = """
INSERT INTO usage.{table} AS kept ({columns}, count, cost) SELECT * FROM unnest({arrays})
ON CONFLICT ({columns}) DO UPDATE SET
    count = kept.count + least(excluded.count, {most} - greatest(kept.count, 0)),
    cost = kept.cost + least(excluded.cost, {most} - greatest(kept.cost, 0))
"""
_TOUCH = """
INSERT INTO usage.key_last_used{beside} AS kept (workspace_id, key_id, last_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])
ON CONFLICT (workspace_id, key_id) DO UPDATE SET last_at = excluded.last_at
WHERE kept.last_at < excluded.last_at
"""
_PARK = """
INSERT INTO usage.parked{beside} (position, uses, why)
SELECT * FROM unnest($1::bigint[], $2::integer[], $3::text[])
ON CONFLICT (position) DO UPDATE SET uses = excluded.uses, why = excluded.why
"""


async def park(connection: Any, parked: Sequence[Parked], *, beside: str = "") -> None:
    """Note these batches as passed over, in the connection's transaction."""
    columns = (
        [each.position for each in parked],
        [each.uses for each in parked],
        [each.why for each in parked],
    )
    await connection.execute(_PARK.format(beside=beside), *columns)


async def add(connection: Any, tally: Tally, *, beside: str = "") -> None:
    """Add the tally to every counter, in the connection's transaction; `beside` ends the tables' names."""
    for granularity in SIZES:
        rows = tally.sorted_buckets(granularity)
        await _add(connection, f"use_{granularity}{beside}", OF_KEYS, rows)
    for granularity in SIZES:
        rows = tally.sorted_totals(granularity)
        await _add(connection, f"all_{granularity}{beside}", OF_WORKSPACES, rows)
    last = tally.sorted_last_used()
    columns = [key[0] for key, _ in last], [key[1] for key, _ in last], [at for _, at in last]
    await connection.execute(_TOUCH.format(beside=beside), *columns)


async def _add(
    connection: Any, table: str, told_apart: Mapping[str, str], rows: Sequence[tuple[Bucket, Count]]
) -> None:
    if not rows:
        return
    kinds = (*told_apart.values(), "bigint", "bigint")
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(kinds, 1))
    statement = _ADD.format(table=table, columns=", ".join(told_apart), arrays=arrays, most=MOST)
    await connection.execute(
        statement,
        *([_FIELDS[column](bucket) for bucket, _ in rows] for column in told_apart),
        [added.count for _, added in rows],
        [added.cost for _, added in rows],
    )
