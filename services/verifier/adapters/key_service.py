"""`KeyService` over HTTP: every question goes with the operator's own credential, and none is remembered.

Management keys are checked against Postgres by the key service, never against a cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import httpx2
import msgspec
from msgspec import Struct

from keyledger import errors
from keyledger.clock import parse_rfc3339
from keyledger.errors import Refusal
from keyledger.events import RateLimit
from keyledger.wire import Followed, unframe
from services.verifier.domain.history import Happened
from services.verifier.ports import Credential, PastKey

TIMEOUT = 3.0
"""Seconds for one answer."""
PAGE = 200
MAX_PAGES = 100
MAX_MESSAGE = 300
OK = 200
_MOMENTS = ("expires_at", "previous_valid_until")
_PASSED_ON = {
    (400, "invalid_request"),
    (401, "missing_api_key"),
    (401, "invalid_api_key"),
    (403, "insufficient_permissions"),
    (404, "not_found"),
}
T = TypeVar("T")


class _Told(Struct):
    """The key service's error body."""

    error: str
    message: str = ""
    field: str | None = None


class _Event(Struct):
    position: int
    version: int
    type: str
    at: str
    actor: str
    request_id: str
    data: dict[str, Any] = {}


class _Events(Struct):
    events: list[_Event]
    next_cursor: str | None = None


class _Key(Struct):
    id: str
    workspace_id: str
    environment: str
    scopes: tuple[str, ...]
    enabled: bool
    status: str
    expires_at: str | None
    allowed_ips: tuple[str, ...] | None
    rate_limit: RateLimit | None
    version: int


class HttpKeyService:
    """`KeyService` over HTTP; `http` has the key service as its base URL, and no key of its own."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def admit(self, credential: Credential) -> None:
        # `/v1/authorize` asks about one workspace; an operator is one who may see them all
        await self._get(credential, "/v1/workspaces", {"limit": 1})

    async def events(
        self, credential: Credential, workspace_id: str, stream_id: str, *, until: int
    ) -> Sequence[Happened]:
        path, query = f"/v1/workspaces/{workspace_id}/events", {"stream": stream_id}
        if stream_id != workspace_id:
            path, query = f"/v1/workspaces/{workspace_id}/keys/{stream_id}/events", {}
        found: list[Happened] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            asked: dict[str, Any] = {**query, "limit": PAGE} | ({} if cursor is None else {"cursor": cursor})
            page = _decoded(await self._get(credential, path, asked), _Events)
            found += [_happened(event) for event in page.events if event.position <= until]
            cursor = page.next_cursor
            if cursor is None or (page.events and page.events[-1].position >= until):
                return found
        raise errors.unavailable("unavailable", f"The history is longer than {PAGE * MAX_PAGES} events.")

    async def key_as_of(
        self, credential: Credential, workspace_id: str, key_id: str, as_of: str
    ) -> tuple[PastKey, int]:
        path = f"/v1/workspaces/{workspace_id}/keys/{key_id}"
        answer = await self._get(credential, path, {"as_of": as_of})
        key = _decoded(answer, _Key)
        expires_at = None if key.expires_at is None else parse_rfc3339(key.expires_at)
        past = msgspec.convert({**msgspec.structs.asdict(key), "expires_at": expires_at}, PastKey)
        try:
            return past, int(answer.headers["x-keyledger-position"])
        except (KeyError, ValueError):
            raise _nobody_can_say() from None

    async def moment_of(self, credential: Credential, position: int) -> int:
        answer = await self._get(credential, "/v1/feed", {"after": position - 1, "limit": 1})
        try:
            recorded = msgspec.msgpack.decode(unframe(answer.content)[1], type=Followed)
        except (ValueError, IndexError, msgspec.MsgspecError):
            raise _nobody_can_say() from None
        return recorded.at

    async def _get(self, credential: Credential, path: str, query: Mapping[str, Any]) -> httpx2.Response:
        # latin-1 gives back the very bytes that came in
        headers = [(name.encode(), value.encode("latin-1")) for name, value in credential.headers]
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await self._http.get(path, params=dict(query), headers=headers)
        except (httpx2.HTTPError, TimeoutError, OSError):
            raise _nobody_can_say() from None
        if answer.status_code != OK:
            raise _refusal(answer)
        return answer


def _decoded(answer: httpx2.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _nobody_can_say() from None


def _happened(event: _Event) -> Happened:
    try:
        data = {
            name: parse_rfc3339(value) if name in _MOMENTS and isinstance(value, str) else value
            for name, value in event.data.items()
        }
        at = parse_rfc3339(event.at)
    except ValueError:
        raise _nobody_can_say() from None
    return Happened(event.position, event.version, event.type, at, event.actor, event.request_id, data)


def _refusal(answer: httpx2.Response) -> Refusal:
    """The contract's refusal in what the key service answered; what is not one of its own is an outage."""
    try:
        told = msgspec.json.decode(answer.content, type=_Told)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _nobody_can_say()
    if (answer.status_code, told.error) not in _PASSED_ON:
        return _nobody_can_say()
    return Refusal(told.error, told.message[:MAX_MESSAGE], field=told.field)


def _nobody_can_say() -> Refusal:
    return errors.unavailable("unavailable", "The key service cannot be asked just now.")
