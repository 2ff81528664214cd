"""The use log's feed over HTTP: pages of recorded batches, bounded and with a timeout."""

from __future__ import annotations

import httpx2
import msgspec

from keyledger.verification.ports import FeedUnavailable
from keyledger.wire import Page, unframe

MAX_BODY = 64 * 1024 * 1024
"""Bytes of one page; a page is refused beyond, before it is held whole."""
OK = 200
_PAGE = msgspec.msgpack.Decoder(Page)


class UseFeed:
    """`Feed` of recorded uses; `http` has the key service as its base URL and this service's own key."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def page(self, after: int, limit: int) -> tuple[Page, list[memoryview]]:
        """Records after this position, oldest first, each a msgpack `RecordedUses`; or `FeedUnavailable`."""
        parameters = {"after": str(after), "limit": str(limit)}
        try:
            async with self._http.stream("GET", "/v1/feed/uses", params=parameters) as response:
                if response.status_code != OK:
                    raise FeedUnavailable(f"the key service answers {response.status_code}")
                body = await _bounded(response)
        except httpx2.HTTPError as error:
            raise FeedUnavailable(type(error).__name__) from error
        try:
            head, *records = unframe(body)
            return _PAGE.decode(head), records
        except (ValueError, msgspec.MsgspecError) as error:
            raise FeedUnavailable("the page cannot be read") from error


async def _bounded(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_BODY:
            raise FeedUnavailable("the page is too large")
    return bytes(body)
