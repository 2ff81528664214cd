"""One call to a service: built, sent, tried again where that is safe, and its refusal made an exception.

Safe to repeat are GET, PUT, DELETE, and a POST that carries an Idempotency-Key; anything at all when no
connection came about. Waits double, are spread at random, honour Retry-After, and are bounded.
"""

from __future__ import annotations

import asyncio
import copy
import random
import secrets
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import httpx2
import msgspec
from msgspec import UNSET

from keyledger.token import Secret

FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
PAGE = 200
"""Items a page, the most that the contract allows."""
_IDEMPOTENT = frozenset({"GET", "PUT", "DELETE"})
_PASSING = frozenset({429, 502, 503, 504})
T = TypeVar("T")
Body: TypeAlias = Mapping[str, Any] | msgspec.Struct


class KeyledgerError(Exception):
    """A call that failed: the contract's `code`, `message`, `field` and `request_id`, with the status.

    `status` is 0 and `code` is `unreachable` when there was no answer. `retry_after` is in seconds.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{code} ({status}): {message}")
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.request_id = request_id
        self.retry_after = retry_after


class _ErrorBody(msgspec.Struct):
    error: str
    message: str = ""
    field: str | None = None
    request_id: str | None = None


class Caller:
    """Calls one service; `headers` hold the credential and are shown nowhere."""

    def __init__(
        self,
        base_url: str,
        *,
        credential: tuple[str, Secret] | None,
        timeout: float,
        attempts: int,
        transport: httpx2.AsyncBaseTransport | None,
    ) -> None:
        self._credential = credential
        self._timeout = timeout
        self._attempts = max(1, attempts)
        self._http = httpx2.AsyncClient(base_url=base_url, timeout=timeout, transport=transport)

    def using(self, credential: tuple[str, Secret]) -> Caller:
        """The same caller, on the same connections, with another credential."""
        other = copy.copy(self)
        other._credential = credential
        return other

    async def call(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        query: Mapping[str, Any] | None = None,
        body: Body | None = None,
        idempotent: bool | str = False,
        if_match: str | None = None,
        extra_time: float = 0.0,
    ) -> T:
        """The answer's body as `kind`, or `KeyledgerError`.

        `idempotent` sends a POST with this Idempotency-Key, or with one made here. `extra_time` is in s.
        """
        headers = self._headers(body, idempotent=idempotent, if_match=if_match)
        request = self._http.build_request(
            method,
            path,
            params={name: _text(value) for name, value in (query or {}).items() if value is not None},
            content=None if body is None else _content(body),
            headers=headers,
            timeout=self._timeout + extra_time,
        )
        repeatable = method in _IDEMPOTENT or bool(idempotent)
        attempt = 0
        while True:
            attempt += 1
            answer = await self._send(request)
            if isinstance(answer, httpx2.Response):
                if answer.is_success:
                    return _decoded(answer, kind)
                error, passing = _error(answer), repeatable and _may_pass(answer)
            else:
                error, passing = answer, repeatable or answer.code == "not_connected"
            wait = _wait(attempt, error.retry_after)
            if not passing or attempt >= self._attempts or wait is None:
                raise error
            await asyncio.sleep(wait)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _send(self, request: httpx2.Request) -> httpx2.Response | KeyledgerError:
        """The response, or why there is none; the driver's exception holds the request and ends here."""
        try:
            return await self._http.send(request)
        except httpx2.ConnectError:
            return KeyledgerError(0, "not_connected", "The service cannot be reached.")
        except httpx2.HTTPError as error:
            return KeyledgerError(0, "unreachable", f"The service did not answer ({type(error).__name__}).")

    def _headers(self, body: Body | None, *, idempotent: bool | str, if_match: str | None) -> dict[str, str]:
        headers: dict[str, str] = {"Accept": "application/json"}
        if self._credential is not None:
            name, secret = self._credential
            headers[name] = secret.reveal()
        if body is not None:
            headers["Content-Type"] = "application/json"
        if idempotent:
            given = idempotent if isinstance(idempotent, str) else None
            headers["Idempotency-Key"] = given or secrets.token_urlsafe(24)
        if if_match is not None:
            headers["If-Match"] = if_match
        return headers


def workspace_path(workspace_id: str, *rest: str) -> str:
    """A path below a workspace; what stands in an id cannot leave its segment."""
    if not {workspace_id, *rest}.isdisjoint((".", "..", "")):
        raise ValueError("not an id")
    return "/v1/workspaces/" + "/".join(quote(part, safe="") for part in (workspace_id, *rest))


def _content(body: Body) -> bytes:
    if isinstance(body, Mapping):
        body = {name: value for name, value in body.items() if value is not UNSET}
    return msgspec.json.encode(body, enc_hook=_reveal)


def _reveal(value: Any) -> str:
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError


def _wrap(kind: type[Any], value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise NotImplementedError


def _text(value: Any) -> str:
    """A query parameter's text: a time as RFC 3339, several values with commas."""
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return msgspec.json.decode(msgspec.json.encode(value), type=str)


def _decoded(response: httpx2.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(response.content, type=kind, dec_hook=_wrap)
    except msgspec.MsgspecError:
        pass
    # outside the except block: the decoder's words may quote the body, which may hold a token
    raise KeyledgerError(
        response.status_code, "unreadable", "The answer cannot be read.", request_id=_request_id(response)
    )


def _error(response: httpx2.Response) -> KeyledgerError:
    retry_after = response.headers.get("Retry-After", "")
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
    try:
        body = msgspec.json.decode(response.content, type=_ErrorBody)
    except msgspec.MsgspecError:
        body = _ErrorBody("unreadable", "The answer is no error of this contract.")
    return KeyledgerError(
        response.status_code,
        body.error,
        body.message,
        field=body.field,
        request_id=body.request_id or _request_id(response),
        retry_after=seconds,
    )


def _request_id(response: httpx2.Response) -> str | None:
    return response.headers.get("X-Request-Id")


def _may_pass(response: httpx2.Response) -> bool:
    in_progress = response.status_code == 409 and "Retry-After" in response.headers
    return response.status_code in _PASSING or in_progress


def _wait(attempt: int, retry_after: float | None) -> float | None:
    """Seconds before the next attempt; None when the service asks for more than is reasonable to wait."""
    spread = random.uniform(0.5, 1.0)  # noqa: S311 (spread, not secrecy)
    wait = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * spread
    if retry_after is None:
        return wait
    return max(retry_after, wait) if retry_after <= LONGEST_WAIT else None
