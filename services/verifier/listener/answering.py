"""Who answers a request whose framing is settled: at once, or later."""

from __future__ import annotations

import asyncio

from keyledger.verification.answer import Answer
from services.verifier.handlers.verify import Waits
from services.verifier.listener.heads import Head
from services.verifier.listener.passing import passed_on
from services.verifier.listener.shared import Shared
from services.verifier.routes.hot import Endpoints, Route, query_of


def answer_now(endpoints: Endpoints, route: Route, head: Head) -> Answer:
    """The answer to what is no check with a body; raises `Waits` for all that cannot be answered at once."""
    if route is Route.GATEWAY:
        return endpoints.gateway_now(head.fields, query_of(head.path, head.query))
    if route is not Route.REST and head.method != "POST":
        return endpoints.not_allowed(head.fields)
    if head.path == "*":
        return endpoints.options(head.fields)
    raise Waits


async def answer_later(
    shared: Shared, route: Route, head: Head, body: bytes, transport: asyncio.Transport
) -> Answer:
    """The answer to what had to wait."""
    endpoints = shared.endpoints
    match route:
        case Route.VERIFY:
            return await endpoints.verify(head.fields, head.query, body)
        case Route.BATCH:
            return await endpoints.batch(head.fields, head.query, body)
        case Route.GATEWAY:
            return await endpoints.gateway(head.fields, query_of(head.path, head.query))
        case Route.REST:
            return await passed_on(shared.rest, head, body, transport)
