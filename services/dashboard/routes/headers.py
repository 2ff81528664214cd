"""What every answer says to a browser, and HEAD, which is a GET without a body that changes nothing.

And what is asked for beside its address is led to it: by a path with a slash too many, or, on a person's own
machine, by another of its names (`localhost`), where a session could be had but nothing be changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from litestar.types import ASGIApp, Receive, Scope, Send

from keyledger.server.settings import is_loopback

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=()"),
)
_SLASHES = re.compile("/+")
STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")


class Browsers:
    """Wraps the application for browsers; `origin` is the address that people use."""

    def __init__(self, app: ASGIApp, *, origin: str) -> None:
        self._app = app
        self._origin = origin
        https = origin.startswith("https:")
        self._headers = [*SECURITY_HEADERS, *([STRICT_TRANSPORT] if https else [])]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked: Any = scope
        head = asked["method"] == "HEAD"
        if head:
            asked = {**asked, "method": "GET", "state": {**asked.get("state", {}), "head": True}}

        async def told(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self._headers]}
            elif head:
                message = {**message, "body": b""}
            await send(message)

        place = self._elsewhere(asked) if asked["method"] == "GET" else None
        if place is None:
            await self._app(asked, receive, told)
            return
        headers = [(b"location", place.encode()), (b"cache-control", b"no-store"), (b"content-length", b"0")]
        await told({"type": "http.response.start", "status": 307, "headers": headers})
        await told({"type": "http.response.body", "body": b"", "more_body": False})

    def _elsewhere(self, scope: Any) -> str | None:
        """The address proper of what is asked for beside it; None when there is nothing to correct."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if not _is_navigation(headers):
            return None
        path = _SLASHES.sub("/", scope["path"]).rstrip("/") or "/"
        origin = self._origin if _is_other_name(headers, self._origin) else ""
        if path == scope["path"] and not origin:
            return None
        # quoted anew: a backslash after the first slash would name a host
        query = scope["query_string"].decode("latin-1")
        return f"{origin}{quote(path)}" + (f"?{query}" if query else "")


def _is_navigation(headers: Mapping[str, str]) -> bool:
    shown_as = headers.get("sec-fetch-dest")
    return shown_as == "document" if shown_as is not None else "text/html" in headers.get("accept", "")


def _is_other_name(headers: Mapping[str, str], origin: str) -> bool:
    """Whether this machine was called by another of its names. Beyond it a proxy's name may be as good."""
    asked, own = urlsplit(f"//{headers.get('host', '')}"), urlsplit(origin)
    try:
        same_port = asked.port == own.port
    except ValueError:
        return False
    names = (asked.hostname or "", own.hostname or "")
    return same_port and names[0] != names[1] and all(map(is_loopback, names))
