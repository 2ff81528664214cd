"""The address at which an operator compares this verifier with the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from keyledger.server.bodies import decode_query, parse_query
from keyledger.server.openapi import documented
from keyledger.verification.answer import Header
from services.verifier.handlers.projection import DigestQuery, Projection

_Request = Request[Any, Any, Any]


def projection_route(projection: Projection, admit: Callable[[list[Header]], None]) -> HTTPRouteHandler:
    """`GET /v1/projection/digest`; `admit` refuses callers who may not ask."""

    @get(
        "/v1/projection/digest",
        summary="What the projection holds, in 32 bytes",
        description=(
            "SHA-256 over the digests of 1024 buckets, each over its canonical records in the order of their "
            "ids, all at one position; with `bucket` the digest of each of its records."
        ),
        operation_class=documented(query=DigestQuery),
        security=[],
    )
    async def digest(request: _Request) -> Response[bytes]:
        admit(list(request.scope["headers"]))
        query = decode_query(parse_query(request.scope["query_string"]), DigestQuery)
        body = await projection.digest(query)
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

    return digest
