"""The dashboard's cookies: kept by this host alone, over a secure connection, out of any script's reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from litestar import Response
from litestar.datastructures import Cookie

from keyledger.token import Secret
from services.dashboard.handlers.sessions import Tokens

JWT = "__Host-keyledger"
REFRESH = "__Host-keyledger-refresh"
ATTEMPT = "__Host-keyledger-sign-in"
SIGNED_OUT = "__Host-keyledger-signed-out"
"""Somebody signed out here: the next one is asked by the provider who they are."""
_LONGEST = 4096
T = TypeVar("T")


def read(cookies: Mapping[str, str], name: str) -> Secret | None:
    """A cookie's value, when there is one that could be ours."""
    value = cookies.get(name, "")
    return Secret(value) if 0 < len(value) <= _LONGEST else None


def on(response: Response[T], kept: Iterable[Cookie]) -> Response[T]:
    """The response with these cookies."""
    response.cookies = [*response.cookies, *kept]
    return response


def keep(name: str, value: Secret, seconds: int) -> Cookie:
    """A cookie that lasts for so many seconds."""
    return _cookie(name, value.reveal(), seconds)


def drop(name: str) -> Cookie:
    """What removes a cookie."""
    return _cookie(name, "", 0)


def session(tokens: Tokens) -> list[Cookie]:
    """The cookies of a session that begins or goes on."""
    kept = [keep(JWT, tokens.jwt, tokens.jwt_seconds)]
    if tokens.refresh is not None:
        kept.append(keep(REFRESH, tokens.refresh, tokens.refresh_seconds))
    return kept


def no_session() -> list[Cookie]:
    """What removes the cookies of a session that is over."""
    return [drop(JWT), drop(REFRESH)]


def _cookie(name: str, value: str, seconds: int) -> Cookie:
    # Lax and not Strict: who comes back from the provider, or follows a link, is known at once
    lax: Any = "Lax"  # as RFC 6265bis writes it; the framework's own word is in lower case
    return Cookie(name, "/", value, seconds, secure=True, httponly=True, samesite=lax)
