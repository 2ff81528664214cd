"""The counters as the use log adds them up, by the database itself and not by the code that folds.

What days of the log that are gone had added up to is carried on, by the hour; minutes are dropped before.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeAlias

import asyncpg

from keyledger.server.postgres import CONNECT_TIMEOUT
from services.usage.adapters.folding import COUNTERS, MOST, OF_KEYS, OF_WORKSPACES
from services.usage.domain.derivation import Compared, Derivation, Difference, LastUses
from services.usage.domain.period import SIZES, Granularity
from services.usage.domain.tally import UNPROVEN, Bucket, Count

LONGEST_STATEMENT = 300.0
"""Seconds; a comparison may count the whole use log."""
WHOLE = (None, -(2**62), 2**62)
"""Every workspace, at all times."""
Of: TypeAlias = Literal["use", "all"]
"""Counters of keys, or of whole workspaces."""

POSITION = "SELECT position FROM usage.progress ORDER BY epoch_number DESC LIMIT 1"
KEPT_FROM = "SELECT granularity, bucket FROM usage.kept_from"
# $1 the position, $2 a workspace or NULL, $3 and $4 the period. Deleted workspaces go whenever they go, and
# what is passed over is counted nowhere.
_USED = """
    SELECT workspace_id, minute AS at, key_id, outcome, environment, external_id, count, cost, last_at
      FROM ledger.use_record WHERE position <= $1 AND ($2::text IS NULL OR workspace_id = $2)
       AND minute >= $3 AND minute < $4
       AND NOT EXISTS (SELECT FROM ledger.erasure d WHERE d.workspace_id = use_record.workspace_id)
       AND NOT EXISTS (SELECT FROM usage.parked p WHERE p.position = use_record.position)
     UNION ALL
    SELECT workspace_id, hour, key_id, outcome, environment, external_id, count, cost, last_at
      FROM ledger.use_carried WHERE ($2::text IS NULL OR workspace_id = $2) AND hour >= $3 AND hour < $4
       AND NOT EXISTS (SELECT FROM ledger.erasure d WHERE d.workspace_id = use_carried.workspace_id)
"""
_DERIVED = """
    SELECT {fields}, least(sum(count), {most})::bigint AS count, least(sum(cost), {most})::bigint AS cost
      FROM (SELECT *, at - at % {size} AS bucket FROM ({used}) used) buckets
     WHERE bucket >= $5 GROUP BY {fields}
"""
_KEPT = """
    SELECT {fields}, count, cost FROM usage.{table}
     WHERE bucket >= greatest($3, $5) AND bucket < $4 AND ($2::text IS NULL OR workspace_id = $2)
       AND NOT EXISTS (SELECT FROM ledger.erasure d WHERE d.workspace_id = {table}.workspace_id)
"""
_COMPARED = """
    WITH derived AS ({derived}), kept AS ({kept}),
         differing AS (
            SELECT {fields}, d.count AS derived, d.cost AS derived_cost, k.count AS kept, k.cost AS kept_cost
              FROM derived d FULL JOIN kept k USING ({fields})
             WHERE (d.count, d.cost) IS DISTINCT FROM (k.count, k.cost))
    SELECT (SELECT count(*) FROM derived) AS counters, (SELECT count(*) FROM differing) AS differing, f.*
      FROM (SELECT) one LEFT JOIN (
            SELECT * FROM differing ORDER BY bucket, {fields} LIMIT 1) f ON true
"""
_SUMS = """
    SELECT least(coalesce(sum(count), 0), {most})::bigint,
           (SELECT least(coalesce(sum(count), 0), {most})::bigint FROM ledger.use_carried c
             WHERE workspace_id = $2 AND hour >= $3 AND hour < $4
               AND NOT EXISTS (SELECT FROM ledger.erasure d WHERE d.workspace_id = c.workspace_id))
      FROM ({used}) used
"""
_UNCOUNTED = """
    SELECT count(*) FROM ledger.use_record r JOIN usage.parked p USING (position)
     WHERE position <= $1 AND workspace_id = $2 AND minute >= $3 AND minute < $4
       AND NOT EXISTS (SELECT FROM ledger.erasure d WHERE d.workspace_id = r.workspace_id)
"""
# $5 the outcomes of those who proved nothing.
_LAST = """
    WITH derived AS (
        SELECT workspace_id, key_id, max(last_at) AS last_at FROM ({used}) used
         WHERE outcome <> ALL ($5::text[]) GROUP BY 1, 2),
    kept AS (
        SELECT * FROM usage.key_last_used l WHERE ($2::text IS NULL OR workspace_id = $2)
           AND NOT EXISTS (SELECT FROM ledger.erasure d WHERE d.workspace_id = l.workspace_id)),
    differing AS (
        SELECT workspace_id, key_id, derived.last_at AS derived, kept.last_at AS kept
          FROM derived FULL JOIN kept USING (workspace_id, key_id)
         WHERE derived.last_at IS DISTINCT FROM kept.last_at)
    SELECT (SELECT count(*) FROM derived) AS keys, (SELECT count(*) FROM differing) AS differing,
           f.key_id, f.derived, f.kept
      FROM (SELECT) one LEFT JOIN (SELECT * FROM differing ORDER BY workspace_id, key_id LIMIT 1) f ON true
"""
_KNOWN = """
    SELECT CASE
        WHEN EXISTS (SELECT FROM ledger.erasure WHERE workspace_id = $1) THEN 'deleted'
        WHEN EXISTS (SELECT FROM ledger.state WHERE stream_id = $1 AND kind = 'workspace') THEN 'there'
        ELSE 'unknown' END
"""
_HELD = "LOCK TABLE {} IN ACCESS SHARE MODE".format(
    ", ".join(
        ("ledger.use_record", "usage.progress", "usage.parked", *(f"usage.{table}" for table in COUNTERS))
    )
)
_CARRY = """
    INSERT INTO usage.{table}_beside ({fields}, count, cost)
    SELECT {fields}, least(sum(count), {most}), least(sum(cost), {most})
      FROM (SELECT *, hour - hour % {size} AS bucket FROM ledger.use_carried) carried GROUP BY {fields}
"""
_CARRY_LAST = """
    INSERT INTO usage.key_last_used_beside (workspace_id, key_id, last_at)
    SELECT workspace_id, key_id, max(last_at) FROM ledger.use_carried
     WHERE outcome <> ALL ($1::text[]) GROUP BY 1, 2
"""


async def carry(connection: Any) -> int:
    """Begin empty tables beside with what days that are gone had added up to; the position they end at."""
    for of, fields in (("use", OF_KEYS), ("all", OF_WORKSPACES)):
        for granularity in ("hour", "day"):
            table, columns = f"{of}_{granularity}", ", ".join(fields)
            await connection.execute(
                _CARRY.format(table=table, fields=columns, size=SIZES[granularity], most=MOST)
            )
    await connection.execute(_CARRY_LAST, UNPROVEN)
    return await connection.fetchval("SELECT gone_to FROM ledger.use_head")


async def differing(connection: Any) -> dict[str, int]:
    """How many rows of each table of counters are not what the use log adds up to."""
    found: dict[str, int] = {}
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        position, since = await _state(connection)
        for of in ("use", "all"):
            for granularity in SIZES:
                row = await _compared(connection, of, granularity, (position, *WHOLE), since)
                found[f"{of}_{granularity}"] = row["differing"]
        found["key_last_used"] = (await _last_uses(connection, position, None)).differing
    return found


@asynccontextmanager
async def reading(dsn: str) -> AsyncGenerator[Any]:
    """A connection of its own whose statements may take as long as a comparison does."""
    connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT, command_timeout=LONGEST_STATEMENT)
    try:
        yield connection
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT)


async def derive(connection: Any, workspace_id: str, start: int, end: int) -> Derivation:
    """Derive a workspace's counters of a period (µs, whole days), and hold what is kept against them."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        # before the snapshot: a table that is swapped, or a day that is dropped, would look empty in it
        await connection.execute(_HELD)
        position, since = await _state(connection)
        asked = (position, workspace_id, start, end)
        uses, carried = await connection.fetchrow(_SUMS.format(used=_USED, most=MOST), *asked)
        parked = await connection.fetchval(_UNCOUNTED, *asked)
        last_uses = await _last_uses(connection, position, workspace_id)
        compared: list[Compared] = []
        for granularity in SIZES:
            whole, keys = [
                await _compared(connection, of, granularity, asked, since) for of in ("all", "use")
            ]
            row = keys if keys["differing"] else whole
            dropped = since.get(granularity)
            compared.append(
                Compared(
                    granularity,
                    whole["counters"] + keys["counters"],
                    whole["differing"] + keys["differing"],
                    _difference(granularity, row) if row["differing"] else None,
                    dropped if dropped is not None and dropped > start else None,
                )
            )
    return Derivation(position, uses, carried, tuple(compared), last_uses, parked)


async def whereabouts(connection: Any, workspace_id: str) -> Literal["there", "deleted", "unknown"]:
    """Whether there is such a workspace, or was."""
    return await connection.fetchval(_KNOWN, workspace_id)


async def _state(connection: Any) -> tuple[int, dict[str, int]]:
    position = await connection.fetchval(POSITION)
    return position or 0, dict(await connection.fetch(KEPT_FROM))


async def _last_uses(connection: Any, position: int, workspace_id: str | None) -> LastUses:
    """Whatever month is asked about: a last use is the last of all."""
    asked = (position, workspace_id, *WHOLE[1:], UNPROVEN)
    row = await connection.fetchrow(_LAST.format(used=_USED), *asked)
    return LastUses(row["keys"], row["differing"], row["key_id"] or "", row["derived"], row["kept"])


async def _compared(
    connection: Any, of: Of, granularity: Granularity, asked: tuple[Any, ...], since: dict[str, int]
) -> Any:
    table, told_apart = f"{of}_{granularity}", OF_KEYS if of == "use" else OF_WORKSPACES
    fields = ", ".join(told_apart)
    statement = _COMPARED.format(
        derived=_DERIVED.format(fields=fields, size=SIZES[granularity], used=_USED, most=MOST),
        kept=_KEPT.format(fields=fields, table=table),
        fields=fields,
    )
    return await connection.fetchrow(statement, *asked, since.get(granularity, WHOLE[1]))


def _difference(granularity: Granularity, row: Any) -> Difference:
    bucket = Bucket(
        row["workspace_id"],
        row["bucket"],
        row.get("key_id") or "",
        row["environment"],
        row["outcome"],
        row.get("external_id") or "",
    )
    derived = Count(row["derived"] or 0, row["derived_cost"] or 0)
    return Difference(granularity, bucket, derived, Count(row["kept"] or 0, row["kept_cost"] or 0))
