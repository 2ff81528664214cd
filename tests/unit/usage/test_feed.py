"""The use feed over HTTP: pages, and everything that is no page."""

import httpx2
import msgspec
import pytest

from keyledger.verification.ports import FeedUnavailable
from keyledger.wire import Page, RecordedUses, frame
from services.usage.adapters import feed
from services.usage.adapters.feed import UseFeed

PAGE = Page(1, b"line-one", 7, b"", 6)


def reading(status: int, content: bytes) -> tuple[UseFeed, list[httpx2.Request]]:
    requests: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(status, content=content)

    http = httpx2.AsyncClient(base_url="http://keys.test", transport=httpx2.MockTransport(handle))
    return UseFeed(http), requests


async def test_a_page_comes_with_its_records() -> None:
    record = msgspec.msgpack.encode(RecordedUses(6, 1, ()))
    source, requests = reading(200, frame([msgspec.msgpack.encode(PAGE), record]))
    page, records = await source.page(5, 100)
    assert (page, [bytes(each) for each in records]) == (PAGE, [record])
    assert requests[0].url.path == "/v1/feed/uses"
    assert dict(requests[0].url.params) == {"after": "5", "limit": "100"}


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (503, b""),
        (401, b"{}"),
        (200, b""),
        (200, b"\x00\x00"),
        (200, frame([b"\xc1"])),
        (200, frame([b"x"])[:-1]),
    ],
)
async def test_anything_else_is_no_page(status: int, content: bytes) -> None:
    source, _ = reading(status, content)
    with pytest.raises(FeedUnavailable):
        await source.page(0, 1)


async def test_a_page_beyond_the_bound_is_refused() -> None:
    source, _ = reading(200, bytes(feed.MAX_BODY + 1))
    with pytest.raises(FeedUnavailable, match="too large"):
        await source.page(0, 1)
