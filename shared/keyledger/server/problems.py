"""Refusals on the wire: the one table from code to status, and the two shapes of an error body.

JSON `{"error", "message", "field"?, "request_id"}` by default; RFC 9457 `application/problem+json` with the
same `error` when `Accept` asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from keyledger.errors import Refusal, invalid_request, not_found

ERROR_STATUS: Mapping[str, int] = {
    "invalid_request": 400,
    "cost_exceeds_limit": 400,
    "missing_api_key": 401,
    "invalid_api_key": 401,
    "signed_out": 401,
    "insufficient_permissions": 403,
    "cross_site": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "conflict": 409,
    "key_revoked": 409,
    "idempotency_in_progress": 409,
    "precondition_failed": 412,
    "payload_too_large": 413,
    "uri_too_long": 414,
    "unsupported_media_type": 415,
    "expectation_failed": 417,
    "idempotency_key_reused": 422,
    "rate_limit_exceeded": 429,
    "headers_too_large": 431,
    "internal_error": 500,
    "not_implemented": 501,
    "version_not_supported": 505,
}
"""A code that is not listed is a 503 with a name of its own."""

TITLES: Mapping[int, str] = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
CHALLENGE = 'ApiKey realm="keyledger", header="X-API-Key"'
BEARER_CHALLENGE = 'Bearer realm="keyledger", error="invalid_token"'
"""What a session's token that is not good is answered with (RFC 6750, section 3)."""
_BEARER = re.compile(r"bearer\s", re.IGNORECASE)
_log = structlog.get_logger("keyledger.http")


def status_of(refusal: Refusal) -> int:
    """The HTTP status this refusal is told with."""
    return ERROR_STATUS.get(refusal.code, 503)


def describe(refusal: Refusal, *, request_id: str, accept: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (names in lower case) and body of a refusal."""
    status = status_of(refusal)
    content: dict[str, Any] = {"error": refusal.code, "message": refusal.message}
    if refusal.field is not None:
        content["field"] = refusal.field
    content["request_id"] = request_id
    media = "application/json"
    if "application/problem+json" in accept.lower():
        media = "application/problem+json"
        content = {
            "type": f"urn:keyledger:error:{refusal.code}",
            "title": TITLES.get(status, "Error"),
            "status": status,
            "detail": refusal.message,
            **content,
        }
    headers = {"content-type": media, "cache-control": "no-store"}
    if status == 401:
        headers["www-authenticate"] = CHALLENGE
    if refusal.retry_after is not None:
        headers["retry-after"] = str(refusal.retry_after)
    return status, headers, msgspec.json.encode(content)


def _respond(request: Request[Any, Any, Any], refusal: Refusal, extra: Mapping[str, str]) -> Response[bytes]:
    request_id = str(request.scope.get("state", {}).get("request_id", ""))
    status, headers, body = describe(refusal, request_id=request_id, accept=request.headers.get("accept", ""))
    bearer = _BEARER.match(request.headers.get("authorization", "")) and "x-api-key" not in request.headers
    if "www-authenticate" in headers and bearer:
        headers["www-authenticate"] = BEARER_CHALLENGE
    media = headers.pop("content-type")
    return Response(body, status_code=status, headers={**headers, **extra}, media_type=media)


def _refused(request: Request[Any, Any, Any], refusal: Refusal) -> Response[bytes]:
    return _respond(request, refusal, {})


def _framework(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    extra = {name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"}
    if error.status_code == 404:
        return _respond(request, not_found(), extra)
    if error.status_code == 405:
        return _respond(
            request, Refusal("method_not_allowed", "This address does not take that method."), extra
        )
    if error.status_code >= 500:
        return _defect(request, error)
    return _respond(request, invalid_request("The request cannot be understood."), extra)


def _defect(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    # the type and the place, never the message: a message may quote what was sent
    _log.error(
        "internal_error",
        error=type(error).__name__,
        where=_where(error),
        request_id=request.scope.get("state", {}).get("request_id"),
    )
    return _respond(request, Refusal("internal_error", "Something went wrong on our side."), {})


def _where(error: BaseException) -> list[str]:
    places: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return places[-6:]


exception_handlers: ExceptionHandlersMap = {
    Refusal: _refused,
    HTTPException: _framework,
    Exception: _defect,
}
"""What a Litestar app needs to answer every failure in the contract's shape."""
