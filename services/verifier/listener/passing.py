"""A request passed on to an ASGI application, and its answer brought back whole."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar.types import ASGIApp

from keyledger.verification.answer import Answer, Header
from services.verifier.listener.heads import Head

ANSWER_LIMIT = 64 * 1024 * 1024
_FRAMING = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"date"})
_BREAKS = (b"\r", b"\n", b"\0")


async def passed_on(app: ASGIApp, head: Head, body: bytes, transport: asyncio.Transport) -> Answer:
    """What `app` answers. HEAD asks it as GET: whoever writes the answer leaves the body out."""
    raw, _, _ = head.target.partition(b"?")
    about = transport.get_extra_info
    scope: Any = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1" if head.modern else "1.0",
        "method": "GET" if head.method == "HEAD" else head.method,
        "scheme": "https" if about("sslcontext") else "http",
        "path": head.path,
        "raw_path": raw,
        "query_string": head.query,
        "root_path": "",
        "headers": list(head.fields.pairs),
        "client": about("peername"),
        "server": about("sockname"),
        "state": {},
    }
    answering = _Answering(body)
    await app(scope, answering.receive, answering.send)
    return answering.answer()


class _Answering:
    """Gives the request's body once, and gathers what the application sends."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._status = 0
        self._headers: list[Header] = []
        self._parts: list[bytes] = []
        self._size = 0
        self._whole = False

    async def receive(self) -> Any:
        if self._body is None:
            if not self._whole:
                # the client is still there; were it not, this would be cancelled
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self._parts.append(message.get("body", b""))
            self._size += len(self._parts[-1])
            self._whole = not message.get("more_body", False)
            if self._size > ANSWER_LIMIT:
                raise ValueError("the application's answer is too large")

    def answer(self) -> Answer:
        if not self._whole or not self._status:
            raise ValueError("the application did not answer")
        headers = [(name.lower(), value) for name, value in self._headers]
        if any(mark in name + value for name, value in headers for mark in _BREAKS):
            raise ValueError("the application's answer would break out of a header")
        body = b"".join(self._parts)
        told = [(name, _offered(name, value)) for name, value in headers if name not in _FRAMING]
        return Answer(self._status, [*told, (b"content-length", b"%d" % len(body))], body)


def _offered(name: bytes, value: bytes) -> bytes:
    """A field's value; where GET is allowed, HEAD is."""
    return value.replace(b"GET", b"GET, HEAD") if name == b"allow" and b"HEAD" not in value else value
