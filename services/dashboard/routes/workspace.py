"""The workspace: its name and limits; choosing another, and making one."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from keyledger.errors import Refusal
from services.dashboard.pages import words
from services.dashboard.pages.forms import Form
from services.dashboard.pages.moments import grouped, moment, per_window
from services.dashboard.pages.snippets import create_by_call
from services.dashboard.routes.guard import OUT, WORKSPACES
from services.dashboard.routes.guard import visitor as visitor_of
from services.dashboard.routes.refusing import UNPROCESSED, sent_back
from services.dashboard.routes.rendering import page
from services.dashboard.routes.session import HOME as KEYS
from services.dashboard.routes.showing import Http, Showing, form_of, new_once, once_of

HOME = "/settings/workspace"
SETTINGS = "/settings"


def handlers(showing: Showing) -> list[HTTPRouteHandler]:
    """The addresses of the workspace and of all of them."""

    async def choices(request: Http) -> list[dict[str, str]]:
        found = await showing.backend.workspaces(visitor_of(request))
        return [
            {"id": each.id, "name": each.name, "role_title": words.role_title(each.role)} for each in found
        ]

    @get(SETTINGS, include_in_schema=False)
    async def settings() -> Response[str]:
        return Response("", status_code=303, headers={"location": KEYS})

    @get(HOME, include_in_schema=False)
    async def shown(request: Http) -> Response[str]:
        visitor = visitor_of(request)
        frame, workspace = await asyncio.gather(
            showing.frame(visitor, "workspace"), showing.backend.workspace(visitor)
        )
        quota = workspace.quota
        return page(
            request,
            "workspace.html",
            frame=frame,
            workspace=workspace,
            limit=per_window(workspace.rate_limit.limit, workspace.rate_limit.window_seconds),
            quota=None if quota is None else f"{grouped(quota.limit)} per {quota.period}",
            created=moment(workspace.created_at),
            form=Form({"name": workspace.name}),
            saved=False,
            may_manage=words.may_manage(visitor.role),
            example=create_by_call(showing.places.keys_url, workspace.id),
        )

    @post(HOME, include_in_schema=False)
    async def rename(request: Http) -> Response[str]:
        visitor, form = visitor_of(request), await form_of(request)
        context: dict[str, Any] = {"may_manage": words.may_manage(visitor.role)}
        try:
            await showing.backend.rename_workspace(visitor, form.get("name").strip())
        except Refusal as refusal:
            refused = sent_back(refusal, form, ("name",))
            return page(
                request, "workspace_form.html", status=UNPROCESSED, form=refused, saved=False, **context
            )
        return page(request, "workspace_form.html", form=form, saved=True, **context)

    @get(WORKSPACES, opt={"workspace": "optional"}, include_in_schema=False)
    async def choose(request: Http) -> Response[str]:
        found = await choices(request)
        out = OUT in request.query_params
        return page(request, "workspaces.html", workspaces=found, form=Form({}), once_key=new_once(), out=out)

    @get(f"{WORKSPACES}/menu", opt={"workspace": "optional"}, include_in_schema=False)
    async def menu(request: Http) -> Response[str]:
        return page(request, "workspaces_menu.html", workspaces=await choices(request))

    @post(WORKSPACES, opt={"workspace": "optional"}, include_in_schema=False)
    async def create(request: Http) -> Response[str]:
        visitor, form = visitor_of(request), await form_of(request)
        try:
            made = await showing.backend.create_workspace(
                visitor, form.get("name").strip(), once=once_of(form)
            )
        except Refusal as refusal:
            refused = sent_back(refusal, form, ("name",))
            return page(request, "found_form.html", status=UNPROCESSED, form=refused, once_key=new_once())
        return page(request, "founded.html", workspace=made)

    return [settings, shown, rename, choose, menu, create]
