"""Signing in: the page, the way to the provider and back, and the one-time link of a local run."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, quote

import structlog
from litestar import Response, get
from litestar.datastructures import Cookie
from litestar.handlers import HTTPRouteHandler

from keyledger.server.settings import is_loopback
from services.dashboard.domain.login_link import PATH as LINK
from services.dashboard.domain.sign_in import SignInRefused, safe_next
from services.dashboard.handlers.sessions import Tokens
from services.dashboard.handlers.sign_in import LinkSignIn, SignIn
from services.dashboard.routes import cookies
from services.dashboard.routes.guard import Http
from services.dashboard.routes.rendering import page

ATTEMPT_SECONDS = 600
MAX_PARAMETERS = 20
_OPEN = {"open": True}
_CHANGES = {"open": True, "changes": True}
_MESSAGES = {
    "cancelled": "You did not let the provider tell who you are. Nothing has changed.",
    "mail_unverified": "The provider has not verified your mail address. Do that there, then sign in again.",
    "mail_unknown": "The provider does not say whether your mail address is verified. That is needed here.",
    "hosted_domain": "This dashboard is for accounts of one organisation, and yours is not of it.",
    "late": "That took more than ten minutes. Please start again.",
    "other_browser": "This sign-in was started in another browser, or long ago. Please start again.",
    "link": "This link is over or not whole. Ask for a new one with `.venv/bin/keyledger login`.",
    "link_used": "This link was used before. Ask for a new one with `.venv/bin/keyledger login`.",
}
_OTHER = "Please start again."
_log = structlog.get_logger("keyledger.dashboard")


def handlers() -> list[HTTPRouteHandler]:
    """The addresses of signing in; which way there is, the application's state says."""

    @get("/sign-in", opt=_OPEN, include_in_schema=False)
    async def sign_in_page(request: Http) -> Response[Any]:
        wanted = safe_next(request.query_params.get("next"))
        token, keeper = cookies.read(request.cookies, cookies.JWT), request.app.state["keeper"]
        over = "over" in request.query_params
        if not over and token is not None and await keeper.visitor(token) is not None:
            return _to(wanted)
        origin, provider = request.app.state["public_url"], request.app.state["provider_name"]
        # the cookies of the way back belong to this very origin
        start = f"{origin}/sign-in/google" + (f"?next={quote(wanted, safe='/')}" if wanted != "/" else "")
        return page(
            request,
            "sign_in.html",
            start=start if provider else None,
            provider=provider,
            invited=wanted.startswith("/invitations/"),
            over=over,
        )

    @get("/sign-in/google", opt=_CHANGES, include_in_schema=False)
    async def start(request: Http) -> Response[Any]:
        way: SignIn | None = request.app.state["sign_in"]
        if way is None:
            return _to("/sign-in")
        again = cookies.read(request.cookies, cookies.SIGNED_OUT) is not None
        begun = await way.begin(safe_next(request.query_params.get("next")), choose=again)
        return _to(begun.url, cookies.keep(cookies.ATTEMPT, begun.kept, ATTEMPT_SECONDS), status=302)

    @get("/sign-in/callback", opt=_CHANGES, include_in_schema=False)
    async def back(request: Http) -> Response[Any]:
        way: SignIn | None = request.app.state["sign_in"]
        if way is None:
            return _to("/sign-in")
        try:
            tokens, wanted = await way.finish(
                _answer(request),
                cookies.read(request.cookies, cookies.ATTEMPT),
                cookies.read(request.cookies, cookies.REFRESH),
            )
        except SignInRefused as refused:
            return _refused(request, refused)
        return _in(tokens, wanted)

    @get(LINK, opt=_CHANGES, include_in_schema=False)
    async def link(request: Http) -> Response[Any]:
        way: LinkSignIn | None = request.app.state["link_sign_in"]
        peer = request.client
        if way is None or peer is None or not is_loopback(peer.host) or _is_passed_on(request):
            return _to("/sign-in")
        try:
            tokens = await way.finish(
                request.query_params.get("token", ""), cookies.read(request.cookies, cookies.REFRESH)
            )
        except SignInRefused as refused:
            return _refused(request, refused)
        return _in(tokens, "/")

    return [sign_in_page, start, back, link]


def _answer(request: Http) -> dict[str, str]:
    """The provider's parameters; one that came twice says nothing."""
    query = request.scope["query_string"].decode("latin-1")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise SignInRefused("answer") from None
    names = [name for name, _ in pairs]
    return {name: value for name, value in pairs if names.count(name) == 1}


def _is_passed_on(request: Http) -> bool:
    """Whether a proxy on this machine asks for somebody who may be anywhere."""
    return any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip", "via"))


def _in(tokens: Tokens, wanted: str) -> Response[Any]:
    over = [cookies.drop(name) for name in (cookies.ATTEMPT, cookies.SIGNED_OUT)]
    return _to(wanted, *cookies.session(tokens), *over)


def _to(url: str, *kept: Cookie, status: int = 303) -> Response[Any]:
    response = Response(b"", status_code=status, headers={"location": url})
    return cookies.on(response, kept)


def _refused(request: Http, refused: SignInRefused) -> Response[Any]:
    _log.warning("sign_in_refused", reason=refused.reason)
    message = _MESSAGES.get(refused.reason, _OTHER)
    answer = page(request, "sign_in_refused.html", status=403, message=message)
    over = [cookies.ATTEMPT]
    if refused.reason == "provider_refused":
        # perhaps it would not be made to ask who it is; the next attempt does without
        over.append(cookies.SIGNED_OUT)
    return cookies.on(answer, map(cookies.drop, over))
