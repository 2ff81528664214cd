"""The hot addresses: `Endpoints` turns a request into a whole answer, and never raises.

The listener calls what ends in `_now` where the bytes arrive, and the rest only when a check has to wait.
`Hot` says the same in ASGI, and so do the Litestar routes that stand in the OpenAPI document.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum

import structlog
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Struct

from keyledger.errors import Refusal
from keyledger.server.bodies import decode_query, parse_query
from keyledger.server.edge import BODY_LIMIT, read_body
from keyledger.server.ids import request_ids
from keyledger.server.problems import describe
from keyledger.token import Secret
from keyledger.verification.answer import Answer, Header, denied_as_403, header
from keyledger.verification.proving import Unproven
from keyledger.verification.verdict import Ungranted
from services.verifier.handlers.fields import Fields
from services.verifier.handlers.gateway import Gateway, wants_403
from services.verifier.handlers.verify import Checks

VERIFY, BATCH, GATEWAY = "/v1/verify", "/v1/verify/batch", "/v1/gateway"
BATCH_LIMIT = 1024 * 1024
CALLER_HEADER = "X-Verifier-Token"
_log = structlog.get_logger("keyledger.http")

Headers = Sequence[Header]
_Decide = Callable[[bytes, str | None], Awaitable[bytes]]


class Route(Enum):
    """Who answers an address."""

    VERIFY = "verify"
    BATCH = "batch"
    GATEWAY = "gateway"
    REST = "rest"
    """Not hot: the framework."""


def route_of(path: str) -> Route:
    """The route of a path, percent-decoded."""
    if path == VERIFY:
        return Route.VERIFY
    if path == GATEWAY or path.startswith("/v1/gateway/"):
        return Route.GATEWAY
    return Route.BATCH if path == BATCH else Route.REST


def query_of(path: str, query: bytes) -> bytes:
    """What of the query the gateway reads: below its address it is the client's."""
    return query if path == GATEWAY else b""


def limit_of(route: Route) -> int:
    """How many bytes a body may have."""
    return BATCH_LIMIT if route is Route.BATCH else BODY_LIMIT


class NoQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """An address that takes no parameters."""


class Endpoints:
    """Whole answers, errors included. `token` is what callers must send as X-Verifier-Token, if anything."""

    def __init__(self, checks: Checks, gateway: Gateway, *, token: Secret | None = None) -> None:
        self._checks = checks
        self._gateway = gateway
        self._token = None if token is None else token.reveal().encode()
        self._ids = request_ids()

    def request_id(self, fields: Fields) -> str:
        """The caller's id for its request, or a new one."""
        return fields.request_id or next(self._ids)

    async def verify(self, fields: Fields, query: bytes, body: bytes | None) -> Answer:
        """`POST /v1/verify`; a body of None was too large."""
        return await self._decided(fields, query, body, self._checks.verify)

    def verify_now(self, fields: Fields, query: bytes, body: bytes) -> bytes:
        """What is in the 200 of `verify`, without waiting; raises `Waits`, or what `failed` tells."""
        if self._token is not None:
            self._admit(fields)
        if query:
            decode_query(parse_query(query), NoQuery)
        return self._checks.verify_now(body, fields.content_type)

    async def batch(self, fields: Fields, query: bytes, body: bytes | None) -> Answer:
        """`POST /v1/verify/batch`."""
        return await self._decided(fields, query, body, self._checks.batch)

    async def gateway(self, fields: Fields, query: bytes) -> Answer:
        """`ANY /v1/gateway[/…]`; `query` is empty below it. Waits for what has to be proven or granted."""
        try:
            return await self._checks.verifier.settled(
                lambda patient: self.gateway_now(fields, query, patient=patient)
            )
        except Refusal as refusal:
            request_id = self.request_id(fields)
            answer = _refused(refusal, fields, request_id)
            return _named(denied_as_403(answer) if wants_403(query) else answer, request_id)

    def gateway_now(self, fields: Fields, query: bytes, *, patient: bool = True) -> Answer:
        """As `gateway`, without waiting; raises `Unproven`, to the patient `Ungranted`, and nothing else."""
        request_id = self.request_id(fields)
        try:
            self._admit(fields)
            answer = self._gateway.decide(fields, query, patient=patient)
        except (Unproven, Ungranted):
            raise
        except Exception as error:
            answer = _failed(error, fields, request_id)
        if query and wants_403(query):
            answer = denied_as_403(answer)
        return _named(answer, request_id)

    def not_allowed(self, fields: Fields) -> Answer:
        """Another method than POST."""
        refusal = Refusal("method_not_allowed", "This address does not take that method.")
        answer = self.failed(refusal, fields)
        answer.headers.append((b"allow", b"POST"))
        return answer

    def failed(self, error: Exception, fields: Fields, request_id: str | None = None) -> Answer:
        """What is told of a refusal, or of a defect, which is logged."""
        request_id = request_id or self.request_id(fields)
        return _named(_failed(error, fields, request_id), request_id)

    def options(self, fields: Fields) -> Answer:
        """`OPTIONS *`."""
        answer = Answer(200, [(b"allow", b"GET, HEAD, POST, OPTIONS"), (b"content-length", b"0")])
        return _named(answer, self.request_id(fields))

    def told(self, content: bytes, fields: Fields) -> Answer:
        """A 200 with this JSON."""
        return _told(content, self.request_id(fields))

    async def _decided(self, fields: Fields, query: bytes, body: bytes | None, decide: _Decide) -> Answer:
        request_id = self.request_id(fields)
        try:
            if body is None:
                raise Refusal("payload_too_large", "The body is too large.")
            self._admit(fields)
            decode_query(parse_query(query), NoQuery)
            content = await decide(body, fields.content_type)
        except Exception as error:
            answer = _failed(error, fields, request_id)
            if body is None:
                # what was not read would stand before the next request
                answer.headers.append((b"connection", b"close"))
            return _named(answer, request_id)
        return _told(content, request_id)

    def admit(self, headers: Headers) -> None:
        """Refuse a caller without the token that is asked of callers beyond loopback."""
        self._admit(Fields(headers))

    def _admit(self, fields: Fields) -> None:
        if self._token is None:
            return
        given = fields.first(b"x-verifier-token")
        if given is None:
            raise Refusal("missing_api_key", "Callers of this verifier send its token.", field=CALLER_HEADER)
        if not hmac.compare_digest(given, self._token):
            raise Refusal("invalid_api_key", "That is not this verifier's token.", field=CALLER_HEADER)


class Hot:
    """The application in ASGI: the hot addresses here, the rest passed on."""

    def __init__(self, endpoints: Endpoints, rest: ASGIApp) -> None:
        self._endpoints = endpoints
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        route = route_of(scope["path"]) if scope["type"] == "http" else Route.REST
        if route is Route.REST or scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        fields = Fields(list(scope["headers"]))
        if route is Route.GATEWAY:
            # a body is never read: the server throws it away
            query = query_of(scope["path"], scope["query_string"])
            answer = await self._endpoints.gateway(fields, query)
        elif scope["method"] != "POST":
            answer = self._endpoints.not_allowed(fields)
        else:
            body = await read_body(list(fields.pairs), receive, limit_of(route))
            decide = self._endpoints.batch if route is Route.BATCH else self._endpoints.verify
            answer = await decide(fields, scope["query_string"], body)
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


def _told(content: bytes, request_id: str) -> Answer:
    about = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    length = (b"content-length", b"%d" % len(content))
    return _named(Answer(200, [*about, length], content), request_id)


def _failed(error: Exception, fields: Fields, request_id: str) -> Answer:
    if isinstance(error, Refusal):
        return _refused(error, fields, request_id)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = trace and f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"
    # the type and the place, never the message: a message may quote what was sent
    _log.error("internal_error", error=type(error).__name__, where=where, request_id=request_id)
    return _refused(Refusal("internal_error", "Something went wrong on our side."), fields, request_id)


def _refused(refusal: Refusal, fields: Fields, request_id: str) -> Answer:
    status, told, body = describe(refusal, request_id=request_id, accept=fields.accept)
    length = ("content-length", str(len(body)))
    return Answer(status, [header(name, value) for name, value in (*told.items(), length)], body)


def _named(answer: Answer, request_id: str) -> Answer:
    answer.headers.append((b"x-request-id", request_id.encode()))
    return answer
