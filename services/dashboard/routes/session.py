"""A session that goes on: renewed, led into another workspace, ended."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import msgspec
from litestar import Response, post
from litestar.handlers import HTTPRouteHandler

from keyledger.errors import invalid_request
from keyledger.server.bodies import is_json
from keyledger.token import Secret, is_id
from services.dashboard.handlers.sessions import SessionKeeper
from services.dashboard.routes import cookies
from services.dashboard.routes.guard import SIGN_IN, Http, visitor

HOME = "/settings/api-keys"
_OPTIONAL = {"workspace": "optional"}
MAX_FIELDS = 10
SIGNED_OUT_SECONDS = 30 * 24 * 3600
"""For how long a browser remembers that somebody signed out."""


def handlers() -> list[HTTPRouteHandler]:
    """The addresses of a session."""

    @post("/session/refresh", opt={"open": True}, status_code=200, include_in_schema=False)
    async def refresh(request: Http) -> Response[Any]:
        presented = cookies.read(request.cookies, cookies.REFRESH)
        tokens = None if presented is None else await _keeper(request).renew(presented)
        if tokens is None:
            body = {"error": "signed_out", "message": "The session is over.", "sign_in": SIGN_IN}
            return cookies.on(Response(body, status_code=401), cookies.no_session())
        return cookies.on(Response({"seconds_left": tokens.jwt_seconds}), cookies.session(tokens))

    @post("/session/switch", opt=_OPTIONAL, status_code=204, include_in_schema=False)
    async def switch(request: Http) -> Response[None]:
        wanted = await _field(request, "workspace")
        if not is_id(wanted, "ws"):
            raise invalid_request("That is no workspace.", field="workspace")
        tokens = await _keeper(request).switch(visitor(request), wanted)
        return cookies.on(_done(HOME), cookies.session(tokens))

    @post("/sign-out", opt={"open": True}, status_code=204, include_in_schema=False)
    async def sign_out(request: Http) -> Response[None]:
        keeper = _keeper(request)
        presented = cookies.read(request.cookies, cookies.REFRESH)
        token = cookies.read(request.cookies, cookies.JWT)
        if presented is not None:
            await keeper.end_presented(presented)
        known = None if token is None else await keeper.visitor(token)
        if known is not None:
            await keeper.end(known.session_id)
        said = cookies.keep(cookies.SIGNED_OUT, Secret("1"), SIGNED_OUT_SECONDS)
        return cookies.on(_done(SIGN_IN), [*cookies.no_session(), said])

    return [refresh, switch, sign_out]


def _keeper(request: Http) -> SessionKeeper:
    return request.app.state["keeper"]


def _done(path: str) -> Response[None]:
    return Response(None, status_code=204, headers={"HX-Redirect": path})


async def _field(request: Http, name: str) -> str:
    """One field of a form, or of a JSON object."""
    body = await request.body()
    try:
        if is_json(request.headers.get("content-type")):
            return msgspec.json.decode(body, type=dict[str, str]).get(name, "")
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except (msgspec.MsgspecError, ValueError):
        raise invalid_request("The body cannot be read.") from None
    return dict(pairs).get(name, "")
