"""The addresses of a workspace's members, and the one that ends a session."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from litestar import Response, delete, get, post, put
from litestar.handlers import HTTPRouteHandler

from keyledger.errors import insufficient_permissions, not_found
from keyledger.server.openapi import documented
from services.keys.domain.membership import PutMember, RemoveMember
from services.keys.domain.principal import KEYS_READ, WORKSPACE_WRITE, Principal
from services.keys.domain.workspace import Workspace
from services.keys.handlers.sessions import Sessions
from services.keys.handlers.workspaces import Workspaces
from services.keys.ports import HeadNow, States
from services.keys.routes import shapes, views
from services.keys.routes.asking import Asking, Http, answer, user_id
from services.keys.routes.cursors import Cursors


def member_routes(
    asking: Asking, workspaces: Workspaces, sessions: Sessions, states: States, cursors: Cursors
) -> Sequence[HTTPRouteHandler]:
    """List, show, put and remove members; end a session."""

    async def readable(request: Http, ws: str) -> tuple[Workspace, HeadNow]:
        by = await asking.caller(request, ws)
        stored, head = await states.get(ws)
        if stored is None:
            raise not_found()
        if WORKSPACE_WRITE not in by.scopes:
            # as the history, which tells the same
            by.need(KEYS_READ)
        return msgspec.json.decode(stored.body, type=Workspace), head

    @get(
        "/v1/workspaces/{ws:str}/members",
        summary="List members, those added last first",
        operation_class=documented(query=shapes.ListQuery),
    )
    async def list_members(request: Http, ws: str) -> Response[views.MemberListView]:
        workspace, head = await readable(request, ws)
        query = asking.query(request, shapes.ListQuery)
        before = cursors.read(query.cursor, "members", ws)
        newest_first = sorted(workspace.members.items(), key=lambda named: -named[1].added)
        found = [named for named in newest_first if before is None or named[1].added < before]
        page = found[: query.limit]
        cursor = cursors.make(page[-1][1].added, "members", ws) if len(found) > query.limit else None
        listed = tuple(views.MemberView(**views.member_fields(user, member)) for user, member in page)
        return answer(views.MemberListView(listed, cursor), position=head.position)

    @get(
        "/v1/workspaces/{ws:str}/members/{user:str}",
        summary="Show a member",
        operation_class=documented(query=shapes.NoQuery),
    )
    async def show_member(request: Http, ws: str, user: str) -> Response[views.MemberView]:
        workspace, head = await readable(request, ws)
        asking.query(request, shapes.NoQuery)
        member = workspace.members.get(user_id(user))
        if member is None:
            raise not_found()
        view = views.MemberView(**views.member_fields(user, member))
        return answer(view, version=workspace.version, position=head.position)

    async def entered(request: Http, ws: str) -> Principal:
        by = await asking.caller(request, ws)
        if (await states.get(ws))[0] is None:
            raise not_found()
        return by

    @put(
        "/v1/workspaces/{ws:str}/members/{user:str}",
        summary="Add a member, or give one another role; nobody grants a role above their own",
        operation_class=documented(body=shapes.PutMemberShape, headers=["If-Match"]),
    )
    async def put_member(request: Http, ws: str, user: str) -> Response[views.WrittenMemberView]:
        by = await entered(request, ws)
        by.need(WORKSPACE_WRITE)
        user_id(user)
        body = await asking.body(request, shapes.PutMemberShape)
        asked = await asking.asked(request, by, ws)
        done = await workspaces.put_member(asked, PutMember(by, user, body.role, asked.if_match))
        member = done.state.members[user]
        view = views.WrittenMemberView(
            **views.member_fields(user, member),
            version=done.state.version,
            position=done.position,
            epoch=done.epoch.text,
        )
        added = done.changed and member.added == done.state.version
        return answer(view, status=201 if added else 200, version=done.state.version)

    @delete(
        "/v1/workspaces/{ws:str}/members/{user:str}",
        summary="Remove a member; everyone may leave, but the last owner",
        operation_class=documented(headers=["If-Match"]),
        status_code=200,
    )
    async def remove_member(request: Http, ws: str, user: str) -> Response[views.RemovedMemberView]:
        by = await entered(request, ws)
        if by.actor != user:
            by.need(WORKSPACE_WRITE)
        user_id(user)
        asking.query(request, shapes.NoQuery)
        asked = await asking.asked(request, by, ws)
        done = await workspaces.remove_member(asked, RemoveMember(by, user, asked.if_match))
        view = views.RemovedMemberView(user, done.state.version, done.position, done.epoch.text)
        return answer(view, version=done.state.version)

    @post(
        "/v1/session/end",
        summary="End the session of the token that is presented, everywhere and at once (users)",
        operation_class=documented(),
        status_code=200,
    )
    async def end_session(request: Http) -> Response[views.EndedSessionView]:
        token = asking.session_token(request)
        if token is None:
            await asking.caller(request)
            raise insufficient_permissions("Only a signed-in user has a session.")
        await asking.body(request, shapes.NoQuery)
        return answer(views.EndedSessionView(await sessions.end(token)))

    return [list_members, show_member, put_member, remove_member, end_session]
