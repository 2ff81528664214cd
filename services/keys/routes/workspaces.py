"""The addresses of workspaces."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.handlers import HTTPRouteHandler
from msgspec import UNSET, UnsetType

from keyledger.errors import not_found
from keyledger.server.openapi import documented
from services.keys.domain.principal import WORKSPACE_WRITE, Principal
from services.keys.domain.workspace import ChangeWorkspace, CreateWorkspace, DeleteWorkspace, Workspace
from services.keys.handlers.workspaces import Workspaces
from services.keys.ports import HeadNow, Memberships, States, Stored
from services.keys.routes import shapes, views
from services.keys.routes.asking import Asking, Http, answer
from services.keys.routes.cursors import Cursors


def workspace_routes(
    asking: Asking, workspaces: Workspaces, states: States, memberships: Memberships, cursors: Cursors
) -> Sequence[HTTPRouteHandler]:
    """Create, list, show, change and delete workspaces."""

    async def stored_workspace(ws: str) -> tuple[Stored, HeadNow]:
        stored, head = await states.get(ws)
        if stored is None:
            raise not_found()
        return stored, head

    def present(stored: Stored, head: HeadNow, role: str | UnsetType = UNSET) -> views.WorkspaceView:
        workspace = msgspec.json.decode(stored.body, type=Workspace)
        return views.workspace_view(workspace, stored.position, head.epoch, role)

    async def list_own(by: Principal, query: shapes.ListQuery) -> Response[views.WorkspaceListView]:
        bound = ("workspaces of", by.actor)
        found, head = await memberships.workspaces_of(
            by.actor, before=cursors.read(query.cursor, *bound), limit=query.limit + 1
        )
        page = found[: query.limit]
        cursor = cursors.make(page[-1][0].created_position, *bound) if len(found) > query.limit else None
        listed = tuple(present(stored, head, role) for stored, role in page)
        return answer(views.WorkspaceListView(listed, cursor), position=head.position)

    @post(
        "/v1/workspaces",
        summary="Create a workspace: operators, or a user, who is its owner then",
        operation_class=documented(body=shapes.CreateWorkspaceShape, headers=["Idempotency-Key"]),
    )
    async def create_workspace(request: Http) -> Response[views.WorkspaceView]:
        by = await asking.caller(request)
        if not by.person:
            by.need_admin()
        body = await asking.body(request, shapes.CreateWorkspaceShape)
        limit = body.rate_limit
        command = CreateWorkspace(
            by=by, name=body.name, rate_limit=None if isinstance(limit, UnsetType) else limit.wire()
        )
        done = await workspaces.create(await asking.asked(request, by, by.workspace_id), command)
        view = views.workspace_view(done.state, done.position, done.epoch)
        return answer(view, status=201, version=done.state.version)

    @get(
        "/v1/workspaces",
        summary="List workspaces, newest first: every one for operators, their own for users",
        operation_class=documented(query=shapes.ListQuery),
    )
    async def list_workspaces(request: Http) -> Response[views.WorkspaceListView]:
        by = await asking.caller(request)
        if not by.person:
            by.need_admin()
        query = asking.query(request, shapes.ListQuery)
        if by.person:
            return await list_own(by, query)
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

    return [
        create_workspace,
        list_workspaces,
        show_workspace,
        change_workspace,
        delete_workspace,
    ]
