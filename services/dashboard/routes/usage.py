"""Usage of the workspace and of a key: the page, the chart's series, CSV, and the busiest keys."""

from __future__ import annotations

import asyncio
import csv
import io
from datetime import timedelta

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from keyledger.client.records import UsageSeries
from keyledger.errors import Refusal
from services.dashboard.backend import Group
from services.dashboard.domain.visitor import Visitor
from services.dashboard.pages import usage
from services.dashboard.pages.actors import Names
from services.dashboard.pages.keys import view
from services.dashboard.pages.moments import iso, moment
from services.dashboard.pages.snippets import ask_the_gateway
from services.dashboard.routes.guard import visitor as visitor_of
from services.dashboard.routes.rendering import page
from services.dashboard.routes.showing import Frame, Http, Showing, key_id_of

HOME = "/settings/usage"
KEY_HOME = "/settings/api-keys/{key:str}/usage"
TOP_LENGTH = timedelta(days=7)
"""Uses by key are counted over at most this: a key is a line of its own in each bucket."""


def handlers(showing: Showing) -> list[HTTPRouteHandler]:
    """The addresses of usage."""

    async def read(visitor: Visitor, key_id: str | None, shown: usage.Period, *groups: Group) -> UsageSeries:
        return await showing.backend.usage(
            visitor,
            key_id,
            start=shown.start,
            end=shown.end,
            granularity=shown.granularity,
            group_by=groups or ("outcome",),
        )

    async def named_frame(visitor: Visitor, key_id: str | None) -> Frame:
        return await showing.frame(visitor, "usage" if key_id is None else "keys")

    async def shown_page(request: Http, key_id: str | None) -> Response[str]:
        visitor, period = visitor_of(request), _period(request, showing)
        key = None
        frame, series = await asyncio.gather(named_frame(visitor, key_id), read(visitor, key_id, period))
        if key_id is not None:
            key = view(await showing.backend.key(visitor, key_id), Names({}, {}))
        chart = usage.chart(series.series, period)
        whole, totals = usage.totals(series.series)
        home = HOME if key is None else f"{key.href}/usage"
        return page(
            request,
            "usage.html",
            frame=frame,
            key=key,
            home=home,
            period=period,
            from_=moment(period.start),
            to=moment(period.end),
            ranges=usage.RANGES,
            granularities=usage.granularities(),
            query_by={each: _by(period, each) for each in period.allowed},
            whole=whole,
            totals=totals,
            table=usage.table(chart),
            max_rows=usage.MAX_ROWS,
            example=ask_the_gateway(showing.places.verifier_url),
        )

    async def shown_series(request: Http, key_id: str | None) -> Response[bytes]:
        visitor, period = visitor_of(request), _period(request, showing)
        series = await read(visitor, key_id, period)
        body = msgspec.json.encode(usage.chart(series.series, period))
        return Response(body, media_type="application/json")

    async def shown_csv(request: Http, key_id: str | None) -> Response[str]:
        visitor, period = visitor_of(request), _period(request, showing)
        series = await read(visitor, key_id, period, "outcome", "environment")
        name = f"usage-{period.start:%Y%m%d}-{period.end:%Y%m%d}.csv"
        return Response(
            _csv(series),
            media_type="text/csv; charset=utf-8",
            headers={"content-disposition": f'attachment; filename="{name}"'},
        )

    @get(HOME, include_in_schema=False)
    async def workspace_page(request: Http) -> Response[str]:
        return await shown_page(request, None)

    @get(f"{HOME}.json", include_in_schema=False)
    async def workspace_series(request: Http) -> Response[bytes]:
        return await shown_series(request, None)

    @get(f"{HOME}.csv", include_in_schema=False)
    async def workspace_csv(request: Http) -> Response[str]:
        return await shown_csv(request, None)

    @get(KEY_HOME, include_in_schema=False)
    async def key_page(request: Http, key: str) -> Response[str]:
        return await shown_page(request, key_id_of(key))

    @get(f"{KEY_HOME}.json", include_in_schema=False)
    async def key_series(request: Http, key: str) -> Response[bytes]:
        return await shown_series(request, key_id_of(key))

    @get(f"{KEY_HOME}.csv", include_in_schema=False)
    async def key_csv(request: Http, key: str) -> Response[str]:
        return await shown_csv(request, key_id_of(key))

    @get(f"{HOME}/top", include_in_schema=False)
    async def busiest(request: Http) -> Response[str]:
        visitor, period = visitor_of(request), _period(request, showing)
        start = max(period.start, period.end - TOP_LENGTH)
        whole_hours = period.end - start <= timedelta(hours=2)
        try:
            series = await showing.backend.usage(
                visitor,
                start=start,
                end=period.end,
                granularity="hour" if whole_hours else "day",
                group_by=("key", "outcome"),
            )
        except Refusal:
            return Response("The busiest keys are not known just now.", media_type="text/html")
        top = usage.top(series.series)
        names = await showing.names(visitor, [each.key_id for each in top])
        return page(
            request,
            "top_keys.html",
            top=[(each, names.keys.get(each.key_id) or names.key(each.key_id)) for each in top],
            query=period.query,
            shortened=start > period.start,
        )

    return [
        workspace_page, workspace_series, workspace_csv, key_page, key_series, key_csv, busiest,
    ]  # fmt: skip


def _period(request: Http, showing: Showing) -> usage.Period:
    query = request.query_params
    return usage.period(
        range_=query.get("range", ""),
        start=query.get("from", ""),
        end=query.get("to", ""),
        granularity=query.get("granularity", ""),
        now=showing.now(),
    )


def _by(period: usage.Period, granularity: str) -> str:
    return period.query.rpartition("=")[0] + f"={granularity}"


def _csv(series: UsageSeries) -> str:
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(("start", "outcome", "environment", "count", "cost"))
    lines.writerows(
        (iso(point.start), point.outcome, point.environment, point.count, point.cost)
        for point in series.series
    )
    return text.getvalue()
