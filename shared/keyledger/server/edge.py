"""The edge of a service: an ASGI wrapper that bounds and names every request before a framework sees it.

A request's id is taken from `X-Request-Id` or made; the body is read whole, up to its limit, before any
credential is looked at; every answer carries the id and `Cache-Control: no-store`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, MutableMapping
from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

from keyledger.errors import Refusal, not_found
from keyledger.server.ids import new_request_id
from keyledger.server.problems import describe

BODY_LIMIT = 64 * 1024
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_Headers = list[tuple[bytes, bytes]]


class Edge:
    """Wraps an ASGI application; `body_limit` is in bytes, and `limit_of` a path may say another."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        body_limit: int = BODY_LIMIT,
        limit_of: Callable[[str, int], int] = lambda _path, usual: usual,
    ) -> None:
        self._app = app
        self._body_limit = body_limit
        self._limit_of = limit_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: _Headers = list(scope["headers"])
        request_id = request_id_of(headers)
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        limit = self._limit_of(scope["path"], self._body_limit)
        body = await read_body(headers, receive, limit)
        if body is None:
            await refuse(send, headers, request_id, Refusal("payload_too_large", f"At most {limit} bytes."))
            return
        path = scope["path"]
        if "//" in path or (path.endswith("/") and path != "/"):
            # the framework would drop empty segments, and one thing would have many addresses
            await refuse(send, headers, request_id, not_found())
            return

        given = False

        async def replay() -> Any:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def named(message: Any) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                extra: _Headers = [(b"x-request-id", request_id.encode())]
                if b"cache-control" not in present:
                    extra.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        await self._app(scope, replay, named)


def request_id_of(headers: _Headers) -> str:
    """The caller's `X-Request-Id` when it is 1–128 visible ASCII characters, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode()
    return new_request_id()


async def read_body(headers: _Headers, receive: Receive, limit: int) -> bytes | None:
    """The whole body, or None as soon as it is known to be longer than `limit`, or never to arrive."""
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > limit):
            return None
    parts: list[bytes] = []
    size = 0
    while True:
        message: Any = await receive()
        if message["type"] != "http.request":
            # the caller is gone; half of what it meant to ask must not be taken for the whole
            return None
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def refuse(send: Send, request_headers: _Headers, request_id: str, refusal: Refusal) -> None:
    """Answer with a refusal; the connection is closed, since its body may not have been read."""
    accept = next((value.decode("latin-1") for name, value in request_headers if name == b"accept"), "")
    status, headers, body = describe(refusal, request_id=request_id, accept=accept)
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw += [
        (b"x-request-id", request_id.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": False})
