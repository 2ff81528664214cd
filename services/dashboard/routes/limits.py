"""Rate limit: the running window of the workspace's limit, or of a key's own, as it fills."""

from __future__ import annotations

import asyncio

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from keyledger.errors import Refusal
from keyledger.events import RateLimit
from services.dashboard.backend import KeyFilter
from services.dashboard.domain.visitor import Visitor
from services.dashboard.pages.actors import Names
from services.dashboard.pages.gauge import Gauge, gauge
from services.dashboard.pages.keys import view
from services.dashboard.pages.moments import per_window
from services.dashboard.pages.snippets import ask_the_gateway
from services.dashboard.routes.guard import visitor as visitor_of
from services.dashboard.routes.rendering import page
from services.dashboard.routes.showing import Http, Showing, key_id_of

HOME = "/settings/rate-limit"
LOOKED_AT = 200


def handlers(showing: Showing) -> list[HTTPRouteHandler]:
    """The addresses of the gauge."""

    async def read(
        visitor: Visitor, key_id: str | None, configured: RateLimit | None
    ) -> tuple[Gauge | None, str]:
        """The gauge, or why there is none just now."""
        try:
            cell = await showing.backend.rate_limit(visitor, key_id)
        except Refusal as refusal:
            if refusal.code in ("not_found", "insufficient_permissions"):
                raise
            return None, refusal.message
        return gauge(cell, configured, now=showing.now()), ""

    @get(HOME, include_in_schema=False)
    async def shown(request: Http) -> Response[str]:
        visitor, key_id = visitor_of(request), _key(request)
        frame, workspace, newest = await asyncio.gather(
            showing.frame(visitor, "rate-limit"),
            showing.backend.workspace(visitor),
            showing.backend.keys(visitor, KeyFilter(), limit=LOOKED_AT),
        )
        key = None
        limit: RateLimit | None = workspace.rate_limit
        if key_id is not None:
            found = await showing.backend.key(visitor, key_id)
            key, limit = view(found, Names({}, {})), found.rate_limit
        measured, why = await read(visitor, key_id, limit)
        return page(
            request,
            "rate_limit.html",
            frame=frame,
            key=key,
            gauge=measured,
            why=why,
            configured=per_window(workspace.rate_limit.limit, workspace.rate_limit.window_seconds),
            limited=[view(each, Names({}, {})) for each in newest.keys if each.rate_limit is not None],
            looked_at=LOOKED_AT,
            example=ask_the_gateway(showing.places.verifier_url),
        )

    @get(f"{HOME}/gauge", include_in_schema=False)
    async def moving(request: Http) -> Response[str]:
        visitor, key_id = visitor_of(request), _key(request)
        if key_id is None:
            limit: RateLimit | None = (await showing.backend.workspace(visitor)).rate_limit
        else:
            limit = (await showing.backend.key(visitor, key_id)).rate_limit
        measured, why = await read(visitor, key_id, limit)
        return page(request, "gauge.html", gauge=measured, why=why)

    return [shown, moving]


def _key(request: Http) -> str | None:
    given = request.query_params.get("key")
    return key_id_of(given) if given else None
