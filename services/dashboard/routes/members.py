"""Members: who is in the workspace and as what, inviting by link, changing and ending a membership."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from keyledger.client.records import MemberPage
from keyledger.errors import Refusal, not_found
from keyledger.token import is_id
from services.dashboard.domain.visitor import Visitor
from services.dashboard.pages import words
from services.dashboard.pages.forms import Form
from services.dashboard.pages.members import InvitationView, invitation, members
from services.dashboard.pages.moments import at_micros, moment
from services.dashboard.ports import Invitation
from services.dashboard.routes.guard import visitor as visitor_of
from services.dashboard.routes.refusing import CHANGED, UNPROCESSED, sent_back
from services.dashboard.routes.rendering import page
from services.dashboard.routes.showing import Http, Showing, form_of

HOME = "/settings/members"
PAGE = 100


def handlers(showing: Showing) -> list[HTTPRouteHandler]:
    """The addresses of members and invitations."""

    async def invitations(visitor: Visitor) -> Sequence[Invitation]:
        if not words.may_manage(visitor.role):
            return ()
        try:
            return await showing.accounts.invitations(visitor)
        except Refusal as refusal:
            # the role was taken away while the page was made; who is a member it may tell all the same
            if refusal.code != "insufficient_permissions":
                raise
            return ()

    async def listed(visitor: Visitor, found: MemberPage) -> dict[str, Any]:
        open_ones = await invitations(visitor)
        ids = [each.user for each in found.members] + [each.added_by for each in found.members]
        names = await showing.names(visitor, [*ids, *(each.invited_by for each in open_ones)])
        shown: list[InvitationView] = [invitation(each, names) for each in open_ones]
        more = found.next_cursor
        return {
            "members": members(found.members, names, role=visitor.role, own=visitor.user_id),
            "invitations": shown,
            "next_href": f"{HOME}?cursor={quote(more)}" if more else None,
            "roles": words.grantable(visitor.role),
            "all_roles": words.ROLES,
        }

    async def after(request: Http, visitor: Visitor, *, done: str = "", problem: str = "") -> Response[str]:
        """The list again, with what came of it."""
        context = await listed(visitor, await showing.backend.members(visitor, limit=PAGE))
        status = UNPROCESSED if problem else 200
        return page(request, "member_list.html", status=status, done=done, problem=problem, **context)

    @get(HOME, include_in_schema=False)
    async def shown(request: Http) -> Response[str]:
        visitor, cursor = visitor_of(request), request.query_params.get("cursor") or None
        frame, found = await asyncio.gather(
            showing.frame(visitor, "members"),
            showing.backend.members(visitor, cursor=cursor, limit=PAGE),
        )
        context = await listed(visitor, found)
        return page(request, "members.html", frame=frame, form=Form({}), done="", problem="", **context)

    @post(f"{HOME}/{{user:str}}/role", include_in_schema=False)
    async def change(request: Http, user: str) -> Response[str]:
        visitor, user_id, form = visitor_of(request), _user(user), await form_of(request)
        role = form.get("role")
        try:
            await showing.backend.set_role(visitor, user_id, role)
        except Refusal as refusal:
            return await after(request, visitor, problem=_told(refusal))
        names = await showing.names(visitor, [user_id])
        label = names.actor(user_id).label
        return await after(request, visitor, done=f"{label}: {words.role_title(role)} from now on.")

    @post(f"{HOME}/{{user:str}}/remove", include_in_schema=False)
    async def remove(request: Http, user: str) -> Response[str]:
        visitor, user_id = visitor_of(request), _user(user)
        try:
            await showing.backend.remove_member(visitor, user_id)
        except Refusal as refusal:
            return await after(request, visitor, problem=_told(refusal))
        if user_id == visitor.user_id:
            return Response("", status_code=200, headers={"HX-Redirect": "/workspaces"})
        names = await showing.names(visitor, [user_id])
        return await after(request, visitor, done=f"{names.actor(user_id).label} is out.")

    @post(f"{HOME}/invitations", include_in_schema=False)
    async def invite(request: Http) -> Response[str]:
        visitor, form = visitor_of(request), await form_of(request)
        role, note = form.get("role"), form.get("note").strip()
        roles = words.grantable(visitor.role)
        try:
            made, link = await showing.accounts.invite(visitor, role, note)
        except Refusal as refusal:
            refused = sent_back(refusal, form, ("role", "note"))
            return page(request, "invite_form.html", status=UNPROCESSED, form=refused, roles=roles)
        return page(
            request,
            "invited.html",
            secret=True,
            link=link.reveal(),
            role=words.role_title(made.role).lower(),
            ends=moment(at_micros(made.expires_at)),
        )

    @post(f"{HOME}/invitations/{{invitation_id:str}}/withdraw", include_in_schema=False)
    async def withdraw(request: Http, invitation_id: str) -> Response[str]:
        visitor = visitor_of(request)
        if not is_id(invitation_id, "inv"):
            raise not_found()
        try:
            await showing.accounts.withdraw(visitor, invitation_id)
        except Refusal as refusal:
            return await after(request, visitor, problem=_told(refusal))
        return await after(request, visitor, done="The invitation is void.")

    return [shown, change, remove, invite, withdraw]


def _user(text: str) -> str:
    """A user id from a path; a malformed one is nobody."""
    if not is_id(text, "user"):
        raise not_found()
    return text


def _told(refusal: Refusal) -> str:
    """The refusal in words; what is not there any more stays a 404."""
    if refusal.code == "not_found":
        raise refusal
    return CHANGED if refusal.code == "precondition_failed" else refusal.message
