"""Series of uses and last uses: what comes in, in the contract's order of checks, and what goes out.

Handlers decode their queries themselves, after the credential: a refusal comes in the contract's order.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from litestar import Response, get
from msgspec import UNSET, Struct, UnsetType

from keyledger.clock import rfc3339
from keyledger.server.bodies import decode_query
from keyledger.server.openapi import documented
from services.usage.domain.period import Resolution
from services.usage.domain.tally import Count
from services.usage.handlers import Answer, Asked, Usage
from services.usage.routes.asking import POSITION, Http, accepted, at_position, credential_of, pairs_of
from services.usage.routes.preferring import CSV, JSON, prefers

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_Time = Annotated[
    str | None,
    msgspec.Meta(description="RFC 3339 with an offset.", extra_json_schema={"format": "date-time"}),
]


class SeriesQuery(Struct, forbid_unknown_fields=True):
    """The query of a usage series."""

    start: _Time = msgspec.field(name="from", default=None)
    end: _Time = msgspec.field(name="to", default=None)
    granularity: Annotated[
        Resolution, msgspec.Meta(description="The buckets; total is a single one, the whole period.")
    ] = "hour"
    group_by: Annotated[
        str | None, msgspec.Meta(description="Any of key, outcome, environment, external_id.")
    ] = None
    cursor: Annotated[str | None, msgspec.Meta(description="The next_cursor of the page before.")] = None


class LastUsedQuery(Struct, forbid_unknown_fields=True):
    """The query of last uses."""

    keys: Annotated[str, msgspec.Meta(description="At most 200 key ids, separated by commas.")]


class PointBody(Struct):
    """The uses of one bucket; a bucket without uses is left out.

    `external_id` is the key's at the time of use, null for a key that had none.
    """

    start: str
    count: int
    cost: int
    key: str | UnsetType = UNSET
    outcome: str | UnsetType = UNSET
    environment: str | UnsetType = UNSET
    external_id: str | None | UnsetType = UNSET


class SeriesBody(Struct):
    """One page of a series; `totals` cover the whole period, not the page."""

    series: list[PointBody]
    totals: Count
    next_cursor: str | None


class KeySeriesBody(SeriesBody):
    """As of a workspace, with the key's last use, whatever its outcome and whenever it was."""

    last_used_at: str | None


class LastUsedBody(Struct):
    """The last use of each listed key; null for one that was never used in this workspace."""

    last_used: dict[str, str | None]


_NEXT, _LAST = "X-Next-Cursor", "X-Last-Used-At"
_POSITION = {POSITION: "How far the log of uses was counted when this was read."}
_OF_CSV = {_NEXT: "With CSV only: the cursor of the next page; absent on the last one."}
_OF_KEY = {_LAST: "With CSV only: when the key was last used; absent for one that never was."}
_SERIES = documented(query=SeriesQuery, headers=("Accept",), texts=(CSV,), answered=_POSITION | _OF_CSV)
_KEY_SERIES = documented(
    query=SeriesQuery, headers=("Accept",), texts=(CSV,), answered=_POSITION | _OF_CSV | _OF_KEY
)
_LAST_USED = documented(query=LastUsedQuery, answered=_POSITION)


@get("/v1/workspaces/{workspace_id:str}/usage", summary="Usage of a workspace", operation_class=_SERIES)
async def workspace_usage(request: Http, workspace_id: str, usage: Usage) -> Response[SeriesBody]:
    """Uses per bucket. `from` is inclusive and `to` exclusive: by default the last 24 hours with the current
    bucket. Both are rounded to whole buckets: the bucket that `from` lies in counts, and so does the one that
    `to` lies in, unless `to` is its start. `granularity=total` tells what the minutes of the whole period add
    up to, in one point for each group. Series are sparse. Beyond 10,000 points there is a cursor.

    `Accept` that prefers `text/csv` gives CSV (RFC 4180, a header line first), with the cursor in
    `X-Next-Cursor`. A text that begins with `=`, `+`, `-`, `@`, a tab or a carriage return has an apostrophe
    put before it, so that no spreadsheet takes it for a formula; an external id may need to be read so.
    """
    await usage.admit(credential_of(request), workspace_id)
    answer = await usage.series(workspace_id, None, _asked(request))
    if prefers(accepted(request), CSV, JSON):
        return _csv(answer)
    body = SeriesBody(_points(answer), answer.reading.totals, answer.next_cursor)
    return Response(body, headers=at_position(answer.reading.position))


@get(
    "/v1/workspaces/{workspace_id:str}/keys/{key_id:str}/usage",
    summary="Usage of a key",
    operation_class=_KEY_SERIES,
)
async def key_usage(request: Http, workspace_id: str, key_id: str, usage: Usage) -> Response[KeySeriesBody]:
    """As the usage of a workspace, for one key, with its last use, which CSV has in `X-Last-Used-At`."""
    await usage.admit(credential_of(request), workspace_id, key_id)
    answer = await usage.series(workspace_id, key_id, _asked(request))
    reading = answer.reading
    last = None if reading.last_used_at is None else rfc3339(reading.last_used_at)
    if prefers(accepted(request), CSV, JSON):
        return _csv(answer, {} if last is None else {_LAST: last})
    body = KeySeriesBody(_points(answer), reading.totals, answer.next_cursor, last)
    return Response(body, headers=at_position(reading.position))


@get(
    "/v1/workspaces/{workspace_id:str}/last-used",
    summary="Last use of several keys",
    operation_class=_LAST_USED,
)
async def last_used(request: Http, workspace_id: str, usage: Usage) -> Response[LastUsedBody]:
    """When each listed key was last used; null for one that never was, or that is not of this workspace."""
    await usage.admit(credential_of(request), workspace_id)
    query = decode_query(pairs_of(request), LastUsedQuery)
    found, position = await usage.last_used(workspace_id, query.keys)
    told = {key: None if at is None else rfc3339(at) for key, at in found.items()}
    return Response(LastUsedBody(told), headers=at_position(position))


def _asked(request: Http) -> Asked:
    query = decode_query(pairs_of(request), SeriesQuery)
    return Asked(query.start, query.end, query.granularity, query.group_by, query.cursor)


def _points(answer: Answer) -> list[PointBody]:
    """The points with just the fields that the series is grouped by."""
    groups = answer.groups
    # as text once a bucket: that costs more than all the rest of a point
    starts = {point.mark.start for point in answer.reading.points}
    told = {start: rfc3339(start) for start in starts}
    return [
        PointBody(
            start=told[point.mark.start],
            count=point.count.count,
            cost=point.count.cost,
            key=point.mark.key if "key" in groups else UNSET,
            outcome=point.mark.outcome if "outcome" in groups else UNSET,
            environment=point.mark.environment if "environment" in groups else UNSET,
            external_id=(point.mark.external_id or None) if "external_id" in groups else UNSET,
        )
        for point in answer.reading.points
    ]


def _csv(answer: Answer, besides: Mapping[str, str] | None = None) -> Response[Any]:
    """The page as CSV (RFC 4180): a header line, one line a point; what has no column is in a header."""
    columns: tuple[str, ...] = ("start", *answer.groups, "count", "cost")
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(columns)
    lines.writerows([_cell(getattr(point, column)) for column in columns] for point in _points(answer))
    headers = at_position(answer.reading.position) | dict(besides or {})
    if answer.next_cursor is not None:
        headers[_NEXT] = answer.next_cursor
    return Response(text.getvalue(), headers=headers, media_type=CSV)


def _cell(value: str | int | None) -> str | int | None:
    """A spreadsheet would run what begins like a formula, and an external id was typed by somebody."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
