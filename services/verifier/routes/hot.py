"""The hot addresses, answered in bare ASGI before any framework sees them.

`Endpoints` turns a request into a whole answer and never raises; the Litestar routes that stand in the
OpenAPI document call the same methods.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from litestar.types import ASGIApp, Receive, Scope, Send

from keyledger.errors import Refusal, invalid_api_key, missing_api_key
from keyledger.server.edge import BODY_LIMIT, read_body, request_id_of
from keyledger.server.problems import describe
from keyledger.token import Secret
from keyledger.verification.answer import Answer, Header, denied_as_403, header
from keyledger.verification.proving import Unproven
from services.verifier.handlers.gateway import Gateway, wants_403
from services.verifier.handlers.verify import Checks

VERIFY, BATCH, GATEWAY = "/v1/verify", "/v1/verify/batch", "/v1/gateway"
BATCH_LIMIT = 1024 * 1024
_log = structlog.get_logger("keyledger.http")

Headers = list[Header]
_Decide = Callable[[bytes, str | None], Awaitable[bytes]]


class Endpoints:
    """Whole answers, errors included. `token` is what callers must send as X-Verifier-Token, if anything."""

    def __init__(self, checks: Checks, gateway: Gateway, *, token: Secret | None = None) -> None:
        self._checks = checks
        self._gateway = gateway
        self._token = None if token is None else token.reveal().encode()

    async def verify(self, headers: Headers, body: bytes | None) -> Answer:
        """`POST /v1/verify`; a body of None was too large."""
        return await self._decided(headers, body, self._checks.verify)

    async def batch(self, headers: Headers, body: bytes | None) -> Answer:
        """`POST /v1/verify/batch`."""
        return await self._decided(headers, body, self._checks.batch)

    async def gateway(self, headers: Headers, query: bytes) -> Answer:
        """`ANY /v1/gateway[/…]`; `query` is empty below it. Waits only for a key that has to be proven."""
        try:
            return self.gateway_now(headers, query)
        except Unproven as unproven:
            request_id = request_id_of(headers)
            try:
                await self._checks.verifier.prove(unproven)
                return self.gateway_now(headers, query)
            except Refusal as refusal:
                answer = _refused(refusal, headers, request_id)
                return _named(denied_as_403(answer) if wants_403(query) else answer, request_id)

    def gateway_now(self, headers: Headers, query: bytes) -> Answer:
        """As `gateway`, without waiting; raises `Unproven`, and nothing else."""
        request_id = request_id_of(headers)
        try:
            self.admit(headers)
            answer = self._gateway.decide(headers, query)
        except Unproven:
            raise
        except Exception as error:
            answer = _failed(error, headers, request_id)
        if wants_403(query):
            answer = denied_as_403(answer)
        return _named(answer, request_id)

    def not_allowed(self, headers: Headers) -> Answer:
        """Another method than POST."""
        request_id = request_id_of(headers)
        refusal = Refusal("method_not_allowed", "This address does not take that method.")
        answer = _refused(refusal, headers, request_id)
        return _named(Answer(answer.status, [*answer.headers, (b"allow", b"POST")], answer.body), request_id)

    async def _decided(self, headers: Headers, body: bytes | None, decide: _Decide) -> Answer:
        request_id = request_id_of(headers)
        try:
            if body is None:
                raise Refusal("payload_too_large", "The body is too large.")
            self.admit(headers)
            content = await decide(body, _first(headers, b"content-type"))
        except Exception as error:
            answer = _failed(error, headers, request_id)
            if body is None:
                # what was not read would stand before the next request
                answer.headers.append((b"connection", b"close"))
            return _named(answer, request_id)
        return _named(Answer(200, _about(b"application/json", content), content), request_id)

    def admit(self, headers: Headers) -> None:
        """Refuse a caller without the token that is asked of callers beyond loopback."""
        if self._token is None:
            return
        given = next((value for name, value in headers if name == b"x-verifier-token"), None)
        if given is None:
            raise missing_api_key()
        if not hmac.compare_digest(given, self._token):
            raise invalid_api_key()


class Hot:
    """The application: the hot addresses here, the rest passed on."""

    def __init__(self, endpoints: Endpoints, rest: ASGIApp) -> None:
        self._endpoints = endpoints
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        path = scope["path"]
        if path == GATEWAY or path.startswith("/v1/gateway/"):
            query = scope["query_string"] if path == GATEWAY else b""
            # a body is never read: the server throws it away
            answer = await self._endpoints.gateway(list(scope["headers"]), query)
        elif path in (VERIFY, BATCH):
            answer = await self._post(scope, receive, batch=path == BATCH)
        else:
            await self._rest(scope, receive, send)
            return
        body = b"" if scope["method"] == "HEAD" else answer.body
        start: Any = {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
        await send(start)
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _post(self, scope: Any, receive: Receive, *, batch: bool) -> Answer:
        headers: Headers = list(scope["headers"])
        if scope["method"] != "POST":
            return self._endpoints.not_allowed(headers)
        body = await read_body(headers, receive, BATCH_LIMIT if batch else BODY_LIMIT)
        if batch:
            return await self._endpoints.batch(headers, body)
        return await self._endpoints.verify(headers, body)


def _failed(error: Exception, headers: Headers, request_id: str) -> Answer:
    if isinstance(error, Refusal):
        return _refused(error, headers, request_id)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = trace and f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"
    # the type and the place, never the message: a message may quote what was sent
    _log.error("internal_error", error=type(error).__name__, where=where, request_id=request_id)
    return _refused(Refusal("internal_error", "Something went wrong on our side."), headers, request_id)


def _refused(refusal: Refusal, headers: Headers, request_id: str) -> Answer:
    accept = _first(headers, b"accept") or ""
    status, told, body = describe(refusal, request_id=request_id, accept=accept)
    length = ("content-length", str(len(body)))
    return Answer(status, [header(name, value) for name, value in (*told.items(), length)], body)


def _named(answer: Answer, request_id: str) -> Answer:
    answer.headers.append((b"x-request-id", request_id.encode()))
    return answer


def _about(media: bytes, body: bytes) -> Headers:
    return [
        (b"content-type", media),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]


def _first(headers: Headers, name: bytes) -> str | None:
    for key, value in headers:
        if key == name:
            return value.decode("latin-1")
    return None
