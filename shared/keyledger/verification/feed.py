"""The key service's feed and head over HTTP: what a follower falls back on, and starts from."""

from __future__ import annotations

import asyncio

import httpx2
import msgspec

from keyledger.token import Secret
from keyledger.verification.ports import FeedUnavailable
from keyledger.wire import Head, HeadQuestion, Page, unframe

PAGE_TIMEOUT = 10.0
HEAD_TIMEOUT = 2.0
OK = 200
_PAGE = msgspec.msgpack.Decoder(Page)
_HEAD = msgspec.msgpack.Decoder(Head)


class HttpFeed:
    """`Source` over HTTP with a service key of scope `keyledger:feed:read`, which is shown nowhere."""

    def __init__(self, keys_url: str, service_key: Secret) -> None:
        self._client = httpx2.AsyncClient(
            base_url=keys_url,
            headers={"X-API-Key": service_key.reveal()},
            timeout=PAGE_TIMEOUT,
            trust_env=False,
            follow_redirects=False,
        )

    async def page(self, after: int, limit: int) -> tuple[Page, list[memoryview]]:
        """Records after this position, oldest first; `FeedUnavailable` for whatever went wrong."""
        body = await self._get("/v1/feed", {"after": after, "limit": limit}, PAGE_TIMEOUT)
        try:
            records = unframe(body)
            return _PAGE.decode(records[0]), records[1:]
        except (ValueError, IndexError, msgspec.MsgspecError):
            raise FeedUnavailable("the page cannot be read") from None

    async def head(self, question: HeadQuestion) -> Head:
        """The head, read after the question arrived; `FeedUnavailable` for whatever went wrong."""
        body = await self._get("/v1/head", {"nonce": question.nonce}, HEAD_TIMEOUT)
        try:
            return _HEAD.decode(body)
        except (ValueError, msgspec.MsgspecError):
            raise FeedUnavailable("the head cannot be read") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _get(self, path: str, query: dict[str, int | str], timeout: float) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                answer = await self._client.get(path, params=query, headers={"Accept": "application/msgpack"})
        except (httpx2.HTTPError, TimeoutError, OSError) as error:
            # the type only: a driver's message may quote the request
            raise FeedUnavailable(f"no answer: {type(error).__name__}") from None
        if answer.status_code != OK:
            raise FeedUnavailable(f"the key service answered {answer.status_code}")
        return answer.content
