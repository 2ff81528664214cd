"""The statements that answer a question from the counters: one page of its points, and its totals."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from services.usage.adapters.folding import MOST
from services.usage.domain.period import PIECES
from services.usage.domain.series import Question

# The buckets a question is about: $1 workspace, $2 key or NULL, from when to when. Two texts, so that each
# has the plan it needs.
_OF_WORKSPACE = "workspace_id = $1 AND $2::text IS NULL AND bucket >= {first} AND bucket < {last}"
_OF_KEY = "workspace_id = $1 AND key_id = $2::text AND bucket >= {first} AND bucket < {last}"
_TOTALS = """
SELECT least(coalesce(sum(count), 0), {most})::bigint AS count,
       least(coalesce(sum(cost), 0), {most})::bigint AS cost
FROM {totals} WHERE {asked}
"""
# One page of points behind the mark ($5 to $9), at most $10. The index of each table has this order.
_SERIES = """
SELECT bucket, {key} AS key, {outcome} AS outcome, {environment} AS environment, {external_id} AS external_id,
       least(sum(count), {most})::bigint AS count, least(sum(cost), {most})::bigint AS cost
FROM {series}
WHERE {asked} AND bucket >= $5
  AND (bucket, {key}, {outcome}, {environment}, {external_id}) > ($5, $6::text, $7::text, $8::text, $9::text)
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5 LIMIT $10
"""
# A piece of a total, whose cuts are $4; all of them are told at its start, $3. An empty piece reads nothing.
_PIECE = "SELECT $3::bigint AS bucket, {columns} FROM usage.{table}_{size} WHERE {asked}"
_COLUMNS = {
    "key": "key_id",
    "outcome": "outcome",
    "environment": "environment",
    "external_id": "external_id",
}
_OF_TABLE = {
    "use": "key_id, outcome, environment, external_id, count, cost",
    "all": "outcome, environment, count, cost",
}


class Statements(Struct, frozen=True):
    """`series` takes `asked`, the mark and the limit; `totals` takes `asked`."""

    series: str
    totals: str
    asked: tuple[Any, ...]


def statements(question: Question) -> Statements:
    """What to ask the database."""
    period = question.period
    of_series = "all" if question.of_whole_workspace else "use"
    of_totals = "all" if question.key_id is None else "use"
    condition = _OF_WORKSPACE if question.key_id is None else _OF_KEY
    asked: tuple[Any, ...] = (question.workspace_id, question.key_id, period.start)
    words: dict[str, str]
    if period.granularity == "total":
        asked += (period.cuts,)
        words = {
            "series": _pieces(of_series, condition), "totals": _pieces(of_totals, condition), "asked": "true",
        }  # fmt: skip
    else:
        asked += (period.end,)
        size = period.granularity
        words = {
            "series": f"usage.{of_series}_{size}",
            "totals": f"usage.{of_totals}_{size}",
            "asked": condition.format(first="$3", last="$4"),
        }
    words["most"] = str(MOST)
    for group, column in _COLUMNS.items():
        words[group] = f'{column} COLLATE "C"' if group in question.groups else "''::text COLLATE \"C\""
    return Statements(_SERIES.format_map(words), _TOTALS.format_map(words), asked)


def _pieces(table: str, condition: str) -> str:
    """All pieces of a total as one relation."""
    pieces = [
        _PIECE.format(
            columns=_OF_TABLE[table],
            table=table,
            size=size,
            asked=condition.format(first=f"($4::bigint[])[{place}]", last=f"($4::bigint[])[{place + 1}]"),
        )
        for place, size in enumerate(PIECES, 1)
    ]
    return f"({' UNION ALL '.join(pieces)}) AS pieces"
