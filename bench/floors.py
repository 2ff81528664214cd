"""What a verification is held against: the least that a server can do with the same request.

`constant` is a bare ASGI application that reads the body and answers a constant of a verdict's size; `routed`
is a Litestar route that reads the request as a struct and answers a struct. Neither checks anything.
"""

from __future__ import annotations

from typing import Any

from litestar import Litestar, post
from msgspec import Struct

VERDICT = (
    b'{"valid":true,"code":"VALID","position":1000123,"age_ms":412,"key_id":"key_0352xrML8kOZZIRSgSerXG",'
    b'"workspace_id":"ws_0352xrMIheu9JsPHLmWA4H","name":"billing 7","environment":"live",'
    b'"scopes":["contacts:read"],"expires_at":null,"metadata":{"team":"payments"},'
    b'"rate_limit":{"limit":1000000000,"remaining":999999999,"reset":1795496520}}'
)
_HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(VERDICT)).encode()),
    (b"cache-control", b"no-store"),
]


async def constant(scope: Any, receive: Any, send: Any) -> None:
    """Read the body, answer the constant."""
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": VERDICT})


class Asked(Struct):
    """A verification's request."""

    key: str
    scopes: list[str] = []


class Limit(Struct):
    """The part of a verdict that tells of the limit."""

    limit: int = 10**9
    remaining: int = 10**9 - 1
    reset: int = 1795496520


class Told(Struct):
    """A verdict's body."""

    valid: bool
    code: str
    position: int
    age_ms: int
    key_id: str
    workspace_id: str
    name: str
    environment: str
    scopes: list[str]
    expires_at: str | None
    metadata: dict[str, str]
    rate_limit: Limit


@post("/v1/verify", status_code=200)
async def verify(data: Asked) -> Told:
    """Answer as if the key had been checked."""
    return Told(
        True, "VALID", 1000123, 412, data.key[:26], "ws_0352xrMIheu9JsPHLmWA4H", "billing 7", "live",
        data.scopes, None, {"team": "payments"}, Limit(),
    )  # fmt: skip


routed = Litestar([verify], logging_config=None, openapi_config=None)
