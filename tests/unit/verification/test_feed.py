"""The feed over HTTP: a page, a head, or `FeedUnavailable`, and the service key is shown nowhere."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from keyledger.token import Secret
from keyledger.verification.feed import HttpFeed
from keyledger.verification.ports import FeedUnavailable
from keyledger.wire import Head, HeadQuestion, Page, frame
from tests.support.serving import serving

LINE = b"\x01" * 8


class Answering:
    """A server with one answer for everything."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.body = body
        self.asked: list[tuple[str, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        del receive
        self.asked.append((scope["path"], scope["query_string"]))
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": self.body})


async def test_a_page_and_a_head_are_read() -> None:
    page = Page(1, LINE, 2, b"h" * 32, 2)
    paging = Answering(200, frame([msgspec.msgpack.encode(page), b"one", b"two"]))
    async with serving(paging) as url:
        feed = HttpFeed(url, Secret("cvtk_secret"))
        found, records = await feed.page(0, 100)
        await feed.close()
    assert found == page
    assert [bytes(record) for record in records] == [b"one", b"two"]
    assert paging.asked == [("/v1/feed", b"after=0&limit=100")]
    head = Head("n", 1, LINE, 2, b"h" * 32, 5)
    async with serving(Answering(200, msgspec.msgpack.encode(head))) as url:
        feed = HttpFeed(url, Secret("cvtk_secret"))
        assert await feed.head(HeadQuestion("n", "v")) == head
        await feed.close()


@pytest.mark.parametrize(
    ("status", "body"),
    [(503, b""), (401, b""), (302, b""), (200, b""), (200, b"\x00\x00\x00\x09x"), (200, b"\xc1")],
)
async def test_any_other_answer_is_unavailable(status: int, body: bytes) -> None:
    async with serving(Answering(status, body)) as url:
        feed = HttpFeed(url, Secret("cvtk_secret"))
        for asked in (feed.page(0, 1), feed.head(HeadQuestion("n", "v"))):
            with pytest.raises(FeedUnavailable) as refused:
                await asked
            assert "cvtk_secret" not in str(refused.value)
        await feed.close()


async def test_nobody_there_is_unavailable() -> None:
    feed = HttpFeed("http://127.0.0.1:1", Secret("cvtk_secret"))
    with pytest.raises(FeedUnavailable):
        await feed.page(0, 1)
    await feed.close()
