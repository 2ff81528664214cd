"""Who may come in: every address asks for a visitor, but for those that say they are open.

A handler's `opt` says otherwise: `open` asks for nobody; `workspace: "optional"` takes a visitor who has
chosen none; `changes` means that its GET changes something, so that neither HEAD nor a browser that fetches
pages beforehand is a way to ask for it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from litestar import Request, Response
from litestar.exceptions import MethodNotAllowedException
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from keyledger.errors import Refusal, invalid_request, not_found
from services.dashboard.domain.crossing import SAFE_METHODS, is_own_write
from services.dashboard.domain.sign_in import safe_next
from services.dashboard.domain.visitor import Visitor
from services.dashboard.handlers.sessions import SessionKeeper
from services.dashboard.routes import cookies
from services.dashboard.routes.rendering import page
from services.dashboard.routes.showing import Http, is_part

SIGN_IN = "/sign-in"
WORKSPACES = "/workspaces"
OUT = "out"
"""The query parameter by which the choice of workspaces says why one came to it."""


def visitor(request: Request[Any, Any, Any]) -> Visitor:
    """Who looks; the guard has let nobody else in."""
    return request.scope["state"]["visitor"]


class Guard:
    """A middleware around every handler; `origin` is the address that people use."""

    def __init__(self, app: ASGIApp, *, origin: str) -> None:
        self._app = app
        self._origin = origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request: Http = Request(scope, receive, send)
        handler: BaseRouteHandler = scope["route_handler"]
        answer = await self._refused(request, handler)
        if answer is None:
            await self._app(scope, receive, send)
        else:
            await answer.to_asgi_response(request.app, request)(scope, receive, send)

    async def _refused(self, request: Http, handler: BaseRouteHandler) -> Response[Any] | None:
        state = request.scope["state"]
        if state.get("head") and handler.opt.get("changes"):
            raise MethodNotAllowedException(headers={"allow": "GET"})
        if handler.opt.get("changes") and _is_beforehand(request):
            raise invalid_request("What this address does is asked for by a person, not beforehand.")
        if request.method not in SAFE_METHODS and not is_own_write(request.headers, self._origin):
            raise Refusal("cross_site", "Writes come from the dashboard's own pages.")
        if handler.opt.get("open") or request.method == "OPTIONS":
            return None
        keeper: SessionKeeper = request.app.state["keeper"]
        token = cookies.read(request.cookies, cookies.JWT)
        known = None if token is None else await keeper.visitor(token)
        if known is None:
            return _unknown(request)
        if handler.opt.get("workspace") != "optional":
            if known.workspace_id is None:
                return led(request, WORKSPACES)
            placed = await keeper.placed(known, known.workspace_id)
            if placed is None:
                return _gone(request)
            known = placed
        state["visitor"] = known
        return None


def led(request: Http, path: str) -> Response[Any]:
    """The answer that leads a browser to another page: by htmx, when htmx asked, or by a redirect."""
    if is_part(request):
        return Response(b"", status_code=200, headers={"HX-Redirect": path})
    return Response(b"", status_code=303, headers={"location": path})


def _gone(request: Http) -> Response[Any]:
    """Whoever is out of their workspace chooses another; what is no page is not there for them."""
    if is_part(request) or is_page(request):
        return led(request, f"{WORKSPACES}?{OUT}=1")
    raise not_found()


def _unknown(request: Http) -> Response[Any]:
    """Nobody is signed in, or their JWT is over; with a refresh token a page of ours gets a new one."""
    renewable = cookies.read(request.cookies, cookies.REFRESH) is not None
    if request.method == "GET" and is_page(request):
        path = request.scope["path"]
        query = request.scope["query_string"].decode("latin-1")
        wanted = safe_next(f"{path}?{query}" if query else path)
        target = SIGN_IN if wanted == "/" else f"{SIGN_IN}?next={quote(wanted, safe='/')}"
        if renewable:
            return page(request, "renew.html", sign_in=target)
        return Response(b"", status_code=303, headers={"location": target})
    headers = {"www-authenticate": "Cookie"}
    if is_part(request):
        headers |= {"HX-Refresh": "true"} if renewable else {"HX-Redirect": SIGN_IN}
    body = {
        "error": "signed_out",
        "message": "Nobody is signed in.",
        "request_id": str(request.scope["state"].get("request_id", "")),
    }
    return Response(body, status_code=401, headers=headers, media_type="application/json")


def _is_beforehand(request: Http) -> bool:
    """Whether a browser asks before anybody has, to be quick if somebody will."""
    return any("prefetch" in request.headers.get(name, "") for name in ("sec-purpose", "purpose", "x-moz"))


def is_page(request: Http) -> bool:
    """Whether a browser asks for what it will show as a page."""
    if is_part(request):
        return False
    shown_as = request.headers.get("sec-fetch-dest")
    if shown_as is not None:
        return shown_as == "document"
    return "text/html" in request.headers.get("accept", "text/html")
