"""The key service's feed and head over HTTP: what a follower falls back on, and starts from."""

from __future__ import annotations

import asyncio

import httpx2
import msgspec

from keyledger.token import Secret
from keyledger.verification.ports import FeedUnavailable, NotServed
from keyledger.wire import Head, HeadQuestion, Page, SnapshotPage, unframe

PAGE_TIMEOUT = 10.0
HEAD_TIMEOUT = 2.0
OK, NOT_FOUND = 200, 404
_PAGE = msgspec.msgpack.Decoder(Page)
_SNAPSHOT = msgspec.msgpack.Decoder(SnapshotPage)
_HEAD = msgspec.msgpack.Decoder(Head)


class HttpFeed:
    """`Source` and `Snapshots` over HTTP with a service key of scope `keyledger:feed:read`, shown nowhere."""

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

    async def snapshot(self, after: str, limit: int, since: int) -> tuple[SnapshotPage, list[memoryview]]:
        """Frames of states behind this id; `FeedUnavailable` for whatever went wrong."""
        query: dict[str, int | str] = {"after": after, "limit": limit, "since": since}
        body = await self._get("/v1/snapshot", query, PAGE_TIMEOUT)
        try:
            frames = unframe(body)
            return _SNAPSHOT.decode(frames[0]), frames[1:]
        except (ValueError, IndexError, msgspec.MsgspecError):
            raise FeedUnavailable("the page cannot be read") from None

    async def head(self, question: HeadQuestion) -> Head:
        """The head, read after the question arrived; `FeedUnavailable` for whatever went wrong."""
        # the whole question, so that this verifier stands among those that a receipt waits for
        asked: dict[str, int | str] = {
            "nonce": question.nonce,
            "question": msgspec.msgpack.encode(question).hex(),
        }
        body = await self._get("/v1/head", asked, HEAD_TIMEOUT)
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
        if answer.status_code == NOT_FOUND:
            raise NotServed("the key service has no such address")
        if answer.status_code != OK:
            raise FeedUnavailable(f"the key service answered {answer.status_code}")
        return answer.content
