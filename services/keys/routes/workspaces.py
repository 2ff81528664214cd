"""The addresses of workspaces, and of their events."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.handlers import HTTPRouteHandler
from msgspec import UnsetType

from keyledger.errors import invalid_request, not_found
from keyledger.server.openapi import documented
from keyledger.token import is_id
from services.keys.domain.principal import KEYS_READ, WORKSPACE_WRITE
from services.keys.domain.workspace import (
    DEFAULT_RATE_LIMIT,
    ChangeWorkspace,
    CreateWorkspace,
    DeleteWorkspace,
    Workspace,
)
from services.keys.handlers.history import History
from services.keys.handlers.workspaces import Workspaces
from services.keys.ports import HeadNow, States, Stored
from services.keys.routes import shapes, views
from services.keys.routes.asking import Asking, Http, answer, key_id
from services.keys.routes.cursors import Cursors

_LARGEST_POSITION = 2**63 - 1


def workspace_routes(
    asking: Asking, workspaces: Workspaces, states: States, history: History, cursors: Cursors
) -> Sequence[HTTPRouteHandler]:
    """Create, list, show, change and delete workspaces; read events."""

    async def stored_workspace(ws: str) -> tuple[Stored, HeadNow]:
        stored, head = await states.get(ws)
        if stored is None:
            raise not_found()
        return stored, head

    def present(stored: Stored, head: HeadNow) -> views.WorkspaceView:
        workspace = msgspec.json.decode(stored.body, type=Workspace)
        return views.workspace_view(workspace, stored.position, head.epoch)

    async def events_page(
        query: shapes.EventsQuery, ws: str, stream_id: str | None
    ) -> Response[views.EventListView]:
        bound = ("events", ws, stream_id)
        if query.after is not None and query.cursor is not None:
            raise invalid_request("Give a position or a cursor.", field="after")
        after = cursors.read(query.cursor, *bound)
        if after is None:
            after = _after(query.after, cursors, bound)
        found, head = await history.read(ws, stream_id, after=after, limit=query.limit + 1)
        page = found[: query.limit]
        cursor = cursors.make(page[-1][0].position, *bound) if len(found) > query.limit else None
        listed = tuple(views.event_view(recorded, event) for recorded, event in page)
        return answer(views.EventListView(listed, cursor), position=head.position)

    @post(
        "/v1/workspaces",
        summary="Create a workspace (operators)",
        operation_class=documented(body=shapes.CreateWorkspaceShape, headers=["Idempotency-Key"]),
    )
    async def create_workspace(request: Http) -> Response[views.WorkspaceView]:
        by = await asking.caller(request)
        by.need_admin()
        body = await asking.body(request, shapes.CreateWorkspaceShape)
        limit = body.rate_limit
        command = CreateWorkspace(
            by=by,
            name=body.name,
            rate_limit=DEFAULT_RATE_LIMIT if isinstance(limit, UnsetType) else limit.wire(),
        )
        done = await workspaces.create(await asking.asked(request, by, by.workspace_id), command)
        view = views.workspace_view(done.state, done.position, done.epoch)
        return answer(view, status=201, version=done.state.version)

    @get(
        "/v1/workspaces",
        summary="List workspaces, newest first (operators)",
        operation_class=documented(query=shapes.ListQuery),
    )
    async def list_workspaces(request: Http) -> Response[views.WorkspaceListView]:
        by = await asking.caller(request)
        by.need_admin()
        query = asking.query(request, shapes.ListQuery)
        before = cursors.read(query.cursor, "workspaces")
        found, head = await states.workspaces(before=before, limit=query.limit + 1)
        page = found[: query.limit]
        cursor = cursors.make(page[-1].created_position, "workspaces") if len(found) > query.limit else None
        listed = tuple(present(stored, head) for stored in page)
        return answer(views.WorkspaceListView(listed, cursor), position=head.position)

    @get(
        "/v1/workspaces/{ws:str}",
        summary="Show a workspace",
        operation_class=documented(query=shapes.NoQuery),
    )
    async def show_workspace(request: Http, ws: str) -> Response[views.WorkspaceView]:
        by = await asking.caller(request, ws)
        stored, head = await stored_workspace(ws)
        by.need_any()
        asking.query(request, shapes.NoQuery)
        return answer(present(stored, head), version=stored.version, position=head.position)

    @patch(
        "/v1/workspaces/{ws:str}",
        summary="Change a workspace; its limit, quota and suspension are for operators",
        operation_class=documented(body=shapes.ChangeWorkspaceShape, headers=["If-Match"]),
    )
    async def change_workspace(request: Http, ws: str) -> Response[views.WorkspaceView]:
        by = await asking.caller(request, ws)
        await stored_workspace(ws)
        by.need(WORKSPACE_WRITE)
        body = await asking.body(request, shapes.ChangeWorkspaceShape)
        asked = await asking.asked(request, by, ws)
        command = ChangeWorkspace(
            by=by,
            if_match=asked.if_match,
            name=body.name,
            rate_limit=body.rate_limit if isinstance(body.rate_limit, UnsetType) else body.rate_limit.wire(),
            suspended=body.suspended,
            quota=body.quota.wire() if isinstance(body.quota, shapes.QuotaShape) else body.quota,
        )
        done = await workspaces.change(asked, command)
        view = views.workspace_view(done.state, done.position, done.epoch)
        return answer(view, version=done.state.version)

    @delete(
        "/v1/workspaces/{ws:str}",
        summary="Forget a workspace with all its keys, for ever (operators)",
        operation_class=documented(headers=["If-Match"]),
        status_code=202,
    )
    async def delete_workspace(request: Http, ws: str) -> Response[views.DeletedWorkspaceView]:
        by = await asking.caller(request, ws)
        await stored_workspace(ws)
        by.need_admin()
        asking.query(request, shapes.NoQuery)
        asked = await asking.asked(request, by, ws)
        done = await workspaces.delete(asked, DeleteWorkspace(by=by, if_match=asked.if_match))
        return answer(views.DeletedWorkspaceView(ws, done.position, done.epoch.text), status=202)

    @get(
        "/v1/workspaces/{ws:str}/events",
        summary="Everything that happened in a workspace, oldest first",
        operation_class=documented(query=shapes.WorkspaceEventsQuery),
    )
    async def workspace_events(request: Http, ws: str) -> Response[views.EventListView]:
        by = await asking.caller(request, ws)
        await stored_workspace(ws)
        by.need(KEYS_READ)
        query = asking.query(request, shapes.WorkspaceEventsQuery)
        if query.stream not in (None, ws) and not is_id(str(query.stream), "key"):
            raise invalid_request("The workspace's own id, or a key's.", field="stream")
        return await events_page(query, ws, query.stream)

    @get(
        "/v1/workspaces/{ws:str}/keys/{key:str}/events",
        summary="Everything that happened to a key, oldest first",
        operation_class=documented(query=shapes.EventsQuery),
    )
    async def key_events(request: Http, ws: str, key: str) -> Response[views.EventListView]:
        by = await asking.caller(request, ws)
        stored, _ = await states.get(key_id(key))
        if stored is None or stored.workspace_id != ws:
            raise not_found()
        by.need(KEYS_READ)
        return await events_page(asking.query(request, shapes.EventsQuery), ws, key)

    return [
        create_workspace,
        list_workspaces,
        show_workspace,
        change_workspace,
        delete_workspace,
        workspace_events,
        key_events,
    ]


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
