"""Asking a verifier's gateway over pooled connections; whatever goes wrong is no answer."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Iterable, Sequence

import httpx2
from msgspec import Struct

from keyledger.token import Secret

PATH = "/v1/gateway"
MAX_BODY = 64 * 1024
_LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=5.0)
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")

_log = logging.getLogger(__name__)


class Answer(Struct, frozen=True):
    """What the verifier answered; header names are in lower case."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


class Gateway:
    """A verifier that can be asked; its connections belong to the event loop in which it is asked.

    `token` is its X-Verifier-Token, needed beyond loopback.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Secret | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._token = None if token is None else (b"x-verifier-token", token.reveal().encode())
        self._url = url.rstrip("/")
        self._transport = transport
        self._client: httpx2.AsyncClient | None = None
        self._trouble = ""
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<Gateway {self._url}>"

    async def ask(self, headers: Sequence[tuple[bytes, bytes]], *, timeout: float) -> Answer | None:
        """The answer to a question with these headers, or None when none came within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                answer = await self._ask(headers, timeout)
        except (
            httpx2.HTTPError,
            httpx2.InvalidURL,
            TimeoutError,
            OSError,
            ValueError,
            RuntimeError,
        ) as error:
            # a caller's odd header bytes, a closed pool, an absent verifier: none of them lets anybody in
            self._say(type(error).__name__)
            return None
        self._say("")
        return answer

    async def close(self) -> None:
        """Close the connections; a later question opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    async def _ask(self, headers: Sequence[tuple[bytes, bytes]], timeout: float) -> Answer | None:
        sent = [*headers, self._token] if self._token else list(headers)
        async with self._pool().stream("GET", self._url + PATH, headers=sent, timeout=timeout) as response:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BODY:
                    return None
            told = [(name.lower(), value) for name, value in response.headers.raw]
            return Answer(response.status_code, told, bytes(body))

    def _say(self, trouble: str) -> None:
        """Log a change of state once, however many requests meet it."""
        if trouble != self._trouble:
            self._trouble = trouble
            level = logging.WARNING if trouble else logging.INFO
            _log.log(level, "the verifier %s", f"gives no answer: {trouble}" if trouble else "answers")

    def _pool(self) -> httpx2.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            # a proxy named in the environment must not see the credentials of callers
            self._client = httpx2.AsyncClient(transport=self._transport, limits=_LIMITS, trust_env=False)
            self._loop = loop
        return self._client


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The caller's `X-Request-Id` when it is 1–128 visible ASCII characters, else a new one."""
    for name, value in headers:
        if name.lower() == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value
    return b"req_" + secrets.token_hex(11).encode()
