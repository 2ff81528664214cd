"""ASGI middleware: every request is let in, or refused, by a verifier's `GET /v1/gateway`.

    DefineMiddleware(KeyledgerMiddleware, verifier=url, scopes={"POST /v1/contacts": ["contacts:write"]})

A refusal is told exactly as the verifier told it. When the verifier cannot be asked the answer is 503: it
fails closed, never open. The request that is sent to it is built here; of the caller's own headers only the
credential and the request id go along.

Behind a gateway that has asked already, `trusted_gateways` names its address: the identity that it passes on
is believed, and what the key must cover is still checked here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import httpx2

from keyledger.client.gateway import Answer, Gateway, request_id_of
from keyledger.client.identity import Identity, RawHeaders, TrustedGateways, identity_in, without_identity
from keyledger.client.requirements import Requirements

# every framework types these its own way
Scope: TypeAlias = Any
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

__all__ = ["CLIENT_IP_HEADER", "UNGUARDED", "Identity", "KeyledgerMiddleware"]

UNGUARDED = ("/healthz", "/readyz")
CLIENT_IP_HEADER = "X-Keyledger-Client-IP"
_CREDENTIALS = (b"x-api-key", b"authorization")
_LIMIT_HEADERS = frozenset({
    b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset", b"ratelimit", b"ratelimit-policy",
})  # fmt: skip
_REFUSAL_HEADERS = _LIMIT_HEADERS | {b"www-authenticate", b"retry-after"}
_REFUSALS = frozenset({400, 401, 403, 429})
_POLICY_VIOLATION, _TRY_AGAIN_LATER = 1008, 1013
_FORBIDDEN = Answer(403, (), b'{"error":"insufficient_permissions"}')


class KeyledgerMiddleware:
    """Guards an ASGI application, HTTP and WebSocket, but for the `unguarded` paths (compared exactly).

    `scopes` says what a request needs besides a valid key: `{"POST /v1/contacts": ["contacts:write"]}`, with
    `{name}` for any one segment and `*` for any method, or a function of the ASGI scope. `timeout` is in
    seconds, for the whole question.

    `verifier` is a URL, or a `Gateway`, whose `close` belongs into the application's shutdown. Middlewares
    with the same URL share their connections.

    `trusted_gateways` are addresses or networks. The server must tell the connection's own peer in
    `scope["client"]`, not what a header says (uvicorn: `proxy_headers=False`).
    """

    def __init__(
        self,
        app: App,
        *,
        verifier: str | Gateway,
        scopes: Mapping[str, Sequence[str]] | Callable[[Scope], Iterable[str]] | None = None,
        environment: str | None = None,
        unguarded: Iterable[str] = UNGUARDED,
        client_ip_header: str = CLIENT_IP_HEADER,
        trusted_gateways: Iterable[str] = (),
        timeout: float = 1.0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._app = app
        if isinstance(verifier, Gateway):
            self._gateway = verifier
        else:
            self._gateway = _shared(verifier) if transport is None else Gateway(verifier, transport=transport)
        self._needed = scopes if callable(scopes) else Requirements(scopes or {}).of
        self._environment = environment
        self._unguarded = frozenset(unguarded)
        self._client_ip_header = client_ip_header.lower().encode()
        self._gateways = TrustedGateways(trusted_gateways)
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._closing(send))
        elif scope["type"] not in ("http", "websocket") or scope["path"] in self._unguarded:
            await self._app(scope, receive, send)
        else:
            await self._guard(scope, receive, send)

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        passed_on = self._gateways.passed_on(scope)
        if passed_on is not None:
            if passed_on.satisfies(self._needed(scope), self._environment):
                await self._enter(passed_on, scope["headers"], scope, receive, send)
            else:
                await self._refuse(_FORBIDDEN, scope, receive, send)
            return
        answer = await self._gateway.ask(self._question(scope), timeout=self._timeout)
        identity = identity_in(answer.headers) if answer is not None and answer.status == 200 else None
        if answer is not None and identity is not None:
            await self._enter(identity, answer.headers, scope, receive, send)
        else:
            await self._refuse(answer, scope, receive, send)

    async def _enter(
        self,
        identity: Identity,
        told: Iterable[tuple[bytes, bytes]],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Let the request in; `told` are the headers that came with the identity."""
        scope.setdefault("state", {})["keyledger"] = identity
        guarded = {**scope, "headers": without_identity(scope["headers"])}
        await self._app(guarded, receive, _telling_limits(told, send))

    async def _refuse(self, answer: Answer | None, scope: Scope, receive: Receive, send: Send) -> None:
        start, body = _refusal(answer, scope)
        if scope["type"] == "http":
            await send({"type": "http.response.start", **start})
            await send({"type": "http.response.body", "body": body})
        else:
            await _refuse_websocket(scope, receive, send, start, body)

    def _question(self, scope: Scope) -> RawHeaders:
        """The headers of the question; a credential that came twice goes along twice, to be refused."""
        question: RawHeaders = [
            (name, value) for name, value in scope["headers"] if name.lower() in _CREDENTIALS
        ]
        question.append((b"x-request-id", _named(scope) or request_id_of(scope["headers"])))
        if needed := " ".join(self._needed(scope)):
            question.append((b"x-required-scopes", needed.encode()))
        if self._environment is not None:
            question.append((b"x-required-environment", self._environment.encode()))
        if client := scope.get("client"):
            question.append((self._client_ip_header, str(client[0]).encode()))
        return question

    def _closing(self, send: Send) -> Send:
        async def closing(message: Any) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self._gateway.close()
            await send(message)

        return closing


@cache
def _shared(verifier: str) -> Gateway:
    """Frameworks make one middleware per route; all of them ask over the same connections."""
    return Gateway(verifier)


def _telling_limits(told: Iterable[tuple[bytes, bytes]], send: Send) -> Send:
    """A `send` that adds what was told of the limits to the application's answer."""
    limits = [header for header in told if header[0].lower() in _LIMIT_HEADERS]

    async def telling(message: Any) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            own = [each for each in message.get("headers", ()) if each[0].lower() not in _LIMIT_HEADERS]
            message = {**message, "headers": [*own, *limits]}
        await send(message)

    return telling


def _refusal(answer: Answer | None, scope: Scope) -> tuple[dict[str, Any], bytes]:
    """The verifier's refusal with its own words; 503 for whatever is not one."""
    if answer is not None and answer.status in _REFUSALS:
        status, body = answer.status, answer.body
        headers = [
            (name.lower(), value) for name, value in answer.headers if name.lower() in _REFUSAL_HEADERS
        ]
    else:
        status, body, headers = 503, b'{"error":"unavailable"}', [(b"retry-after", b"1")]
    headers += [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    # whoever has named the request before us tells its name, too
    if not _named(scope):
        told = dict(answer.headers).get(b"x-request-id") if answer else None
        headers.append((b"x-request-id", told or request_id_of(scope["headers"])))
    return {"status": status, "headers": headers}, body


def _named(scope: Scope) -> bytes:
    """The request's id in `scope["state"]`, when a layer around this one has given it one."""
    return str(scope.get("state", {}).get("request_id", "")).encode("ascii", "ignore")


async def _refuse_websocket(
    scope: Scope, receive: Receive, send: Send, start: Mapping[str, Any], body: bytes
) -> None:
    """As an HTTP answer where the server can send one, else by closing before the handshake is accepted."""
    await receive()
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await send({"type": "websocket.http.response.start", **start})
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        code = _TRY_AGAIN_LATER if start["status"] == 503 else _POLICY_VIOLATION
        await send({"type": "websocket.close", "code": code, "reason": ""})
