"""The Litestar side: health, metrics, and the OpenAPI document, which tells the hot addresses too.

In a running verifier `Hot` answers those itself; here they call the same `Endpoints`, so that what is
documented is what is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from litestar import Litestar, Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from prometheus_client import CollectorRegistry

from keyledger.server.health import Readiness, health_routes
from keyledger.server.openapi import documented, openapi_config
from keyledger.server.problems import exception_handlers
from keyledger.verification.answer import Answer
from services.verifier.handlers.fields import Fields
from services.verifier.handlers.gateway import GatewayQuery
from services.verifier.handlers.verify import BatchBody, BatchRequest, VerdictBody, VerifyRequest
from services.verifier.routes.hot import BATCH, BATCH_LIMIT, GATEWAY, VERIFY, Endpoints

_Request = Request[Any, Any, Any]
_FRAMED = frozenset({b"content-type", b"content-length", b"x-request-id"})
_ASKED = ("X-API-Key", "Authorization", "X-Required-Scopes", "X-Required-Environment")
_GATEWAY_TEXT = (
    "For nginx, Envoy, Traefik, Caddy, with any method. 200 with an empty body and the caller's identity in "
    "X-Workspace-Id, X-Key-Id, X-Key-Name, X-Key-Environment, X-Key-Scopes; or 401, 403, 429 with "
    '{"error": code}. The query scopes, environment, deny=403 is read on exactly /v1/gateway; below it path '
    "and query are the client's."
)


def framework(
    endpoints: Endpoints,
    registry: CollectorRegistry,
    readiness: Callable[[], Awaitable[Readiness]],
    *more: HTTPRouteHandler,
) -> Litestar:
    """The application behind `Hot`."""

    @post(
        VERIFY,
        status_code=200,
        summary="May the holder of this token do this, now?",
        operation_class=documented(body=VerifyRequest),
        security=[],
    )
    async def verify(request: _Request) -> Response[VerdictBody]:
        return _response(
            await endpoints.verify(_fields(request), request.scope["query_string"], await request.body())
        )

    @post(
        BATCH,
        status_code=200,
        summary="Up to 1000 verdicts at once",
        operation_class=documented(body=BatchRequest),
        security=[],
    )
    async def verify_batch(request: _Request) -> Response[BatchBody]:
        return _response(
            await endpoints.batch(_fields(request), request.scope["query_string"], await request.body())
        )

    @get(
        GATEWAY,
        summary="The same for gateways",
        description=_GATEWAY_TEXT,
        operation_class=documented(query=GatewayQuery, headers=_ASKED),
        security=[{"ApiKey": []}],
    )
    async def gateway(request: _Request) -> Response[None]:
        return _response(await endpoints.gateway(_fields(request), request.scope["query_string"]))

    return Litestar(
        [verify, verify_batch, gateway, *more, *health_routes(registry, readiness)],
        exception_handlers=exception_handlers,
        openapi_config=openapi_config("Keyledger verifier", "May this key do this, now?"),
        request_max_body_size=BATCH_LIMIT,
        logging_config=None,
    )


def _fields(request: _Request) -> Fields:
    return Fields(list(request.scope["headers"]))


def _response(answer: Answer) -> Response[Any]:
    media = next((value for name, value in answer.headers if name == b"content-type"), b"application/json")
    headers = {
        name.decode(): value.decode("latin-1") for name, value in answer.headers if name not in _FRAMED
    }
    content = cast("Any", answer.body)
    return Response(content, status_code=answer.status, headers=headers, media_type=media.decode())
