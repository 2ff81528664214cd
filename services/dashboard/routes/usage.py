"""Usage of the workspace and of a key: the page, what it says by now, CSV, and the busiest keys."""

from __future__ import annotations

import asyncio
import csv
import io
from typing import Any

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
from services.dashboard.routes.showing import Http, Showing, key_id_of

HOME = "/settings/usage"
KEY_HOME = "/settings/api-keys/{key:str}/usage"


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

    def told(home: str, period: usage.Period, series: UsageSeries) -> dict[str, Any]:
        """Everything that moves: all of one reading, so that no part says anything else than another."""
        now = showing.now()
        chart = usage.chart(series.series, period, now=now)
        whole, totals = usage.totals(series.series)
        return {
            "home": home,
            "period": period,
            "from_": moment(period.start),
            "to": moment(period.end),
            "whole": whole,
            "totals": totals,
            "table": usage.table(chart),
            "max_rows": usage.MAX_ROWS,
            "chart": msgspec.json.encode(chart).decode(),
            "running": chart.running,
            "moving": period.end > now,
            "example": ask_the_gateway(showing.places.verifier_url),
        }

    async def shown_page(request: Http, key_id: str | None) -> Response[str]:
        visitor, period = visitor_of(request), _period(request, showing)
        key = None
        frame, series = await asyncio.gather(
            showing.frame(visitor, "usage" if key_id is None else "keys"), read(visitor, key_id, period)
        )
        if key_id is not None:
            key = view(await showing.backend.key(visitor, key_id), Names({}, {}))
        return page(
            request,
            "usage.html",
            frame=frame,
            key=key,
            ranges=usage.RANGES,
            titles=usage.TITLES,
            query_by={each: _by(period, each) for each in period.allowed},
            **told(_home(key_id), period, series),
        )

    async def shown_now(request: Http, key_id: str | None) -> Response[Any]:
        """What has moved since, for a page that shows counts, or for one that had nothing to show."""
        visitor, period = visitor_of(request), _period(request, showing)
        series = await read(visitor, key_id, period)
        nothing = request.query_params.get("shown") == "nothing"
        if nothing and not series.series:
            return Response(None, status_code=204)
        found = told(_home(key_id), period, series)
        return page(request, "usage_now.html", key=key_id, begins=nothing, **found)

    async def shown_csv(request: Http, key_id: str | None) -> Response[str]:
        visitor, period = visitor_of(request), _period(request, showing)
        series = await read(visitor, key_id, period, "outcome", "environment")
        name = f"usage-{period.start:%Y%m%d}-{period.end:%Y%m%d}.csv"
        return Response(
            _csv(series),
            media_type="text/csv",
            headers={"content-disposition": f'attachment; filename="{name}"'},
        )

    @get(HOME, include_in_schema=False)
    async def workspace_page(request: Http) -> Response[str]:
        return await shown_page(request, None)

    @get(f"{HOME}/now", include_in_schema=False)
    async def workspace_now(request: Http) -> Response[Any]:
        return await shown_now(request, None)

    @get(f"{HOME}.csv", include_in_schema=False)
    async def workspace_csv(request: Http) -> Response[str]:
        return await shown_csv(request, None)

    @get(KEY_HOME, include_in_schema=False)
    async def key_page(request: Http, key: str) -> Response[str]:
        return await shown_page(request, key_id_of(key))

    @get(f"{KEY_HOME}/now", include_in_schema=False)
    async def key_now(request: Http, key: str) -> Response[Any]:
        return await shown_now(request, key_id_of(key))

    @get(f"{KEY_HOME}.csv", include_in_schema=False)
    async def key_csv(request: Http, key: str) -> Response[str]:
        return await shown_csv(request, key_id_of(key))

    @get(f"{HOME}/top", include_in_schema=False)
    async def busiest(request: Http) -> Response[str]:
        visitor, period = visitor_of(request), _period(request, showing)
        try:
            series = await showing.backend.usage(
                visitor,
                start=period.start,
                end=period.end,
                granularity="total",
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
        )

    return [
        workspace_page, workspace_now, workspace_csv, key_page, key_now, key_csv, busiest,
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


def _home(key_id: str | None) -> str:
    return HOME if key_id is None else f"/settings/api-keys/{key_id}/usage"


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
