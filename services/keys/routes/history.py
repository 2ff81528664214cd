"""The addresses of what happened: the events of a workspace, and of one of its keys."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from keyledger.errors import invalid_request, not_found
from keyledger.server.openapi import documented
from keyledger.token import is_id
from services.keys.domain.principal import KEYS_READ
from services.keys.handlers.history import History
from services.keys.ports import States
from services.keys.routes import shapes, views
from services.keys.routes.asking import Asking, Http, answer, key_id
from services.keys.routes.cursors import Cursors

_LARGEST_POSITION = 2**63 - 1


def history_routes(
    asking: Asking, states: States, history: History, cursors: Cursors
) -> Sequence[HTTPRouteHandler]:
    """Read events."""

    async def events_page(
        query: shapes.EventsQuery, ws: str, stream_id: str | None, *, told: bool
    ) -> Response[views.EventListView]:
        if query.after is not None and query.cursor is not None:
            raise invalid_request("Give a position or a cursor.", field="after")
        if query.order == "oldest":
            bound = ("events", ws, stream_id)
            after = cursors.read(query.cursor, *bound)
            if after is None:
                after = _after(query.after, cursors, bound)
            found, head = await history.read(ws, stream_id, after=after, limit=query.limit + 1)
        else:
            if query.after is not None:
                raise invalid_request("A position goes with the oldest first.", field="after")
            bound = ("events back", ws, stream_id)
            before = cursors.read(query.cursor, *bound)
            found, head = await history.read_back(ws, stream_id, before=before, limit=query.limit + 1)
        page = found[: query.limit]
        cursor = cursors.make(page[-1][0].position, *bound) if len(found) > query.limit else None
        listed = tuple(views.event_view(recorded, event, told=told) for recorded, event in page)
        return answer(views.EventListView(listed, cursor), position=head.position)

    @get(
        "/v1/workspaces/{ws:str}/events",
        summary="Everything that happened in a workspace, oldest or newest first",
        operation_class=documented(query=shapes.WorkspaceEventsQuery),
    )
    async def workspace_events(request: Http, ws: str) -> Response[views.EventListView]:
        by = await asking.caller(request, ws)
        if (await states.get(ws))[0] is None:
            raise not_found()
        by.need(KEYS_READ)
        query = asking.query(request, shapes.WorkspaceEventsQuery)
        if query.stream not in (None, ws) and not is_id(str(query.stream), "key"):
            raise invalid_request("The workspace's own id, or a key's.", field="stream")
        return await events_page(query, ws, query.stream, told=True)

    @get(
        "/v1/workspaces/{ws:str}/keys/{key:str}/events",
        summary="Everything that happened to a key, oldest or newest first",
        operation_class=documented(query=shapes.EventsQuery),
    )
    async def key_events(request: Http, ws: str, key: str) -> Response[views.EventListView]:
        by = await asking.caller(request, ws)
        stored, _ = await states.get(key_id(key))
        if stored is None or stored.workspace_id != ws:
            raise not_found()
        by.need(KEYS_READ)
        return await events_page(asking.query(request, shapes.EventsQuery), ws, key, told=False)

    return [workspace_events, key_events]


def _after(text: str | None, cursors: Cursors, bound: tuple[str | None, ...]) -> int:
    """A position, or the `next_cursor` of the page before."""
    if text is None:
        return 0
    if text.isascii() and text.isdigit():
        return min(int(text[:19]), _LARGEST_POSITION)
    try:
        return cursors.read(text, *bound) or 0
    except Exception:
        raise invalid_request("A position or the cursor of the page before.", field="after") from None
