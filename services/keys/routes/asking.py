"""From a request to who asks for what: the checks every address shares, in the contract's order.

Size (at the edge), credential, tenant (404), scope (403), body (400), If-Match (412).
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response

from keyledger.errors import invalid_request, not_found
from keyledger.server.bodies import decode_json, decode_query, header_values, parse_query
from keyledger.server.seal import Sealer
from keyledger.token import is_id
from services.keys.domain.principal import Principal
from services.keys.handlers.credentials import Credentials
from services.keys.handlers.keys import Asked
from services.keys.handlers.sessions import Sessions
from services.keys.handlers.writing import Idempotency
from services.keys.routes.shapes import NoQuery

T = TypeVar("T")
Http = Request[Any, Any, Any]
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
#: A JWT in compact form: three parts, of which no key of ours and no foreign one has the dots.
_SESSION = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*)")
_ETAG = re.compile(r'"(\d{1,18})"')


class Asking:
    """Reads requests; one per process."""

    def __init__(self, credentials: Credentials, sessions: Sessions, sealer: Sealer) -> None:
        self._credentials = credentials
        self._sessions = sessions
        self._sealer = sealer

    async def caller(self, request: Http, workspace_id: str | None = None) -> Principal:
        """The proven caller, inside this workspace if one is named."""
        token = self.session_token(request)
        if token is not None:
            by = await self._sessions.principal(token)
        else:
            by = await self._holder(request)
        if workspace_id is not None:
            if not is_id(workspace_id, "ws"):
                raise not_found()
            by.enter(workspace_id)
        return by

    def session_token(self, request: Http) -> str | None:
        """The token of a signed-in user, if the request carries one and nothing besides."""
        headers = request.scope["headers"]
        tokens = {
            found.group(1)
            for value in header_values(headers, b"authorization")
            if (found := _SESSION.fullmatch(value)) is not None
        }
        if not tokens:
            return None
        if any(header_values(headers, b"x-api-key")):
            if not self._sessions.accepted:
                # nothing but a key counts here
                return None
            raise invalid_request("Send a key or a session's token, not both.", field="Authorization")
        if len(header_values(headers, b"authorization")) > 1:
            raise invalid_request("Authorization is given twice.", field="Authorization")
        return tokens.pop()

    async def _holder(self, request: Http) -> Principal:
        presented = header_values(request.scope["headers"], b"x-api-key")
        if len(set(presented)) > 1:
            raise invalid_request("X-API-Key is given twice.", field="X-API-Key")
        client = request.client
        return await self._credentials.prove(
            presented[0] if presented and presented[0] else None,
            bearer=bool(header_values(request.scope["headers"], b"authorization")),
            ip=client.host if client else None,
            request_id=str(request.scope["state"]["request_id"]),
        )

    async def body(self, request: Http, kind: type[T]) -> T:
        """The body as `kind`, its content type checked; query parameters are refused."""
        self.query(request, NoQuery)
        content_type = request.headers.get("content-type")
        return decode_json(await request.body(), kind, content_type=content_type)

    def query(self, request: Http, kind: type[T]) -> T:
        """The query parameters as `kind`."""
        return decode_query(parse_query(request.scope["query_string"]), kind)

    async def asked(self, request: Http, by: Principal, workspace_id: str) -> Asked:
        """What a write carries besides its body. `Idempotency-Key` counts on POSTs."""
        return Asked(
            by=by,
            workspace_id=workspace_id,
            request_id=str(request.scope["state"]["request_id"]),
            idempotency=await self._idempotency(request, by) if request.method == "POST" else None,
            if_match=_if_match(request),
        )

    async def _idempotency(self, request: Http, by: Principal) -> Idempotency | None:
        values = header_values(request.scope["headers"], b"idempotency-key")
        if not values:
            return None
        if len(values) > 1 or _IDEMPOTENCY_KEY.fullmatch(values[0]) is None:
            raise invalid_request("1 to 255 visible ASCII characters, once.", field="Idempotency-Key")
        path = request.scope["path"]
        name = self._sealer.name(by.workspace_id, by.actor, request.method, path, values[0])
        return Idempotency(values[0], name, self._sealer.name("body", _canonical(await request.body())))


def _canonical(body: bytes) -> bytes:
    # the same JSON written another way is the same request
    return msgspec.json.encode(msgspec.json.decode(body or b"{}"), order="deterministic")


def _if_match(request: Http) -> int | None:
    value = request.headers.get("if-match")
    if value is None or value.strip() == "*":
        return None
    found = _ETAG.fullmatch(value.strip())
    if found is None:
        raise invalid_request('If-Match is "<version>" or *.', field="If-Match")
    return int(found.group(1))


def user_id(text: str) -> str:
    """A user's id from a path; a malformed one is nobody's."""
    if not is_id(text, "user"):
        raise not_found()
    return text


def key_id(text: str) -> str:
    """A key id from a path; a malformed one is nothing that exists."""
    if not is_id(text, "key"):
        raise not_found()
    return text


def answer(
    content: Any, *, status: int = 200, version: int | None = None, position: int | None = None
) -> Response[Any]:
    """An answer with its ETag and the position of the state it was read from."""
    headers: dict[str, str] = {}
    if version is not None:
        headers["etag"] = f'"{version}"'
    if position is not None:
        headers["x-keyledger-position"] = str(position)
    return Response(content, status_code=status, headers=headers)
