"""An invitation that was sent by link: what it offers, and accepting it."""

from __future__ import annotations

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from services.dashboard.handlers.accounts import AccountsOf
from services.dashboard.handlers.sessions import SessionKeeper
from services.dashboard.routes import cookies
from services.dashboard.routes.guard import Http, visitor
from services.dashboard.routes.rendering import page
from services.dashboard.routes.session import HOME

_OPTIONAL = {"workspace": "optional"}


def handlers() -> list[HTTPRouteHandler]:
    """The addresses of an invitation."""

    @get("/invitations/{token:str}", opt=_OPTIONAL, include_in_schema=False)
    async def opened(request: Http, token: str) -> Response[str]:
        accounts: AccountsOf = request.app.state["accounts"]
        found = await accounts.opened(visitor(request), token)
        return page(
            request,
            "invitation.html",
            workspace=found.workspace,
            workspace_id=found.invitation.workspace_id,
            has=found.has,
            inviter=found.inviter,
            role=found.invitation.role,
            accept=f"/invitations/{token}/accept",
        )

    @post("/invitations/{token:str}/accept", opt=_OPTIONAL, status_code=204, include_in_schema=False)
    async def accept(request: Http, token: str) -> Response[None]:
        accounts: AccountsOf = request.app.state["accounts"]
        keeper: SessionKeeper = request.app.state["keeper"]
        who = visitor(request)
        workspace_id = await accounts.accept(who, token)
        tokens = await keeper.switch(who, workspace_id)
        answer: Response[None] = Response(None, status_code=204, headers={"HX-Redirect": HOME})
        return cookies.on(answer, cookies.session(tokens))

    return [opened, accept]
