"""The address at which an operator asks why a key is let in or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from keyledger.server.bodies import decode_query, header_values, parse_query
from keyledger.server.openapi import documented
from keyledger.verification.answer import Header
from services.verifier.handlers.explain import Explain, ExplainQuery, ExplanationBody
from services.verifier.ports import Credential

_Request = Request[Any, Any, Any]


def explain_route(explain: Explain, admit: Callable[[list[Header]], None]) -> HTTPRouteHandler:
    """`GET /v1/explain`; `admit` refuses callers who may not ask anything here."""

    @get(
        "/v1/explain",
        summary="The decision about a key step by step, and the event behind a refusal (operators)",
        description=(
            "For a key of scope keyledger:admin, which the key service is asked about. The checks stand in "
            "their order. Limits are looked at, never spent; with as_of they are left out."
        ),
        operation_class=documented(query=ExplainQuery),
    )
    async def explained(request: _Request) -> Response[ExplanationBody]:
        headers = list(request.scope["headers"])
        admit(headers)
        credential = Credential(
            tuple(
                (name, value)
                for name in ("X-API-Key", "Authorization")
                for value in header_values(headers, name.lower().encode())
                if value
            )
        )
        await explain.admit(credential)
        query = decode_query(parse_query(request.scope["query_string"]), ExplainQuery)
        body = await explain.explain(credential, query)
        told = {"Cache-Control": "no-store", "X-Keyledger-Position": str(body.position)}
        return Response(body, headers=told)

    return explained
