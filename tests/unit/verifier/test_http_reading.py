"""Reading requests: another parser agrees on all that is taken, and it does not matter how bytes arrive."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Any, cast

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from keyledger.clock import SystemClock
from keyledger.errors import Refusal
from services.verifier.app import Service
from services.verifier.listener.bodies import Chunked
from services.verifier.listener.bounds import Bounds
from services.verifier.listener.connection import Connection
from services.verifier.listener.heads import CHUNKED, Head, read_head
from services.verifier.listener.shared import Shared
from tests.support.followed_log import key_created, key_id, token
from tests.support.verifying import World

# what requests are made of, and what they are broken with
LINES = [
    b"Host: v", b"Host: [::1]:80", b"Host:", b"Host: a b", b"Content-Length: 5", b"Content-Length: 0",
    b"Content-Length: 05", b"Content-Length: 5, 5", b"Content-Length: +5", b"Transfer-Encoding: chunked",
    b"transfer-encoding: Chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, a",
    b"Connection: close", b"Connection: keep-alive", b"Expect: 100-continue", b"X: y", b"X : y", b" folded",
    b"X:\ty\t", b"X: \xff", b"no colon", b": y", b"X: a\x00b", b"X: a\rb", b"X: a\nb",
]  # fmt: skip
STARTS = [
    b"GET / HTTP/1.1", b"POST /v1/verify HTTP/1.1", b"GET /a?b=c HTTP/1.0", b"HEAD http://v/x HTTP/1.1",
    b"GET  / HTTP/1.1", b"GET /\x7f HTTP/1.1", b"GET / HTTP/1.1 ", b"get /%20 HTTP/1.1", b"GET /",
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A head of which one byte may be another, or missing, or one too many."""
    lines = draw(st.lists(st.sampled_from(LINES), max_size=5))
    head = bytearray(b"\r\n".join([draw(st.sampled_from(STARTS)), *lines, b""]))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(head) - 1))
        head[at : at + draw(st.integers(0, 1))] = draw(st.binary(max_size=1))
    return bytes(head)


def ours(raw: bytes) -> Head | None:
    try:
        return read_head(raw)
    except Refusal:
        return None


@settings(max_examples=2000, deadline=None)
@given(damaged())
def test_another_parser_reads_the_same_in_whatever_is_taken(raw: bytes) -> None:
    head = ours(raw)
    if head is None:
        return
    # how many bytes it may be is ours to say, and another coding is refused by both
    other = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
    other.receive_data(raw + b"\r\n")
    event = other.next_event()
    assert isinstance(event, h11.Request)
    assert event.method.decode() == head.method
    # it writes the word chunked its own way
    assert lowered(event.headers) == lowered(head.fields.pairs)
    path = re.sub(rb"^https?://[^/?]*", b"", event.target, flags=re.IGNORECASE) or b"/"
    assert path == head.target
    assert (event.http_version != b"1.0") is head.modern
    length = dict(event.headers).get(b"content-length", b"0")
    assert head.length == (
        CHUNKED if (b"transfer-encoding", b"chunked") in lowered(event.headers) else int(length)
    )
    other.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
    # it never takes a connection for one that may be used again when this does not
    assert not (head.keep and other.our_state is h11.MUST_CLOSE and head.modern)


def lowered(pairs: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value.lower()) for name, value in pairs]


PIECES = [
    b"5\r\nhello\r\n", b"1;a=b\r\nx\r\n", b"0\r\n", b"0\r\nA: b\r\n", b"\r\n", b"a\r\n0123456789\r\n",
    b"3\r\nab", b"5;\r\nhello\r\n", b"5 \r\nhello\r\n", b"+1\r\nx\r\n", b"1\nx\r\n",
]  # fmt: skip


def in_chunks(data: bytes, cuts: list[int]) -> tuple[bytes | None, int]:
    """The body and how much of the data it took, or None while it is not whole; -1 for what is refused."""
    body, at = Chunked(10_000, keep=True), 0
    try:
        for end in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
            while at < end and not body.done:
                at = body.feed(data[:end], at)
    except Refusal:
        return None, -1
    return (body.content(), at) if body.done else (None, at)


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=5),
    st.lists(st.integers(0, 100), max_size=6),
    st.binary(max_size=3),
)
def test_chunks_are_the_same_however_they_arrive_and_to_another_parser(
    pieces: list[bytes], cuts: list[int], more: bytes
) -> None:
    data = b"".join(pieces) + more
    whole = in_chunks(data, [])
    assert in_chunks(data, cuts) == whole
    if whole[0] is None:
        return
    other = h11.Connection(h11.SERVER)
    other.receive_data(b"POST / HTTP/1.1\r\nHost: v\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    read = b""
    while not isinstance(event := other.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            read += bytes(event.data)
        assert event is not h11.NEED_DATA
    assert read == whole[0]
    assert other.trailing_data[0] == data[whole[1] :]


class Wire:
    """The other end of a connection, as much of a transport as it needs."""

    def __init__(self) -> None:
        self.sent = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def write_eof(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> Any:
        del name

    def set_write_buffer_limits(self, high: int) -> None:
        del high


BODY = b'{"key":"%s"}' % token(1).encode()
JSON = b"X-Request-Id: a\r\nContent-Type: application/json\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
REQUESTS = [
    b"POST /v1/verify HTTP/1.1\r\nHost: v\r\n%bContent-Length: %d\r\n\r\n%b" % (JSON, len(BODY), BODY),
    b"POST /v1/verify HTTP/1.1\r\nHost: v\r\n%bContent-Length: 3\r\n\r\n{ }" % JSON,
    b"GET /v1/verify HTTP/1.1\r\nHost: v\r\n%bContent-Length: 3\r\n\r\n\r\n\r" % JSON,
    b"GET /v1/gateway HTTP/1.1\r\nHost: v\r\nX-Request-Id: d\r\nX-API-Key: nobodys\r\n\r\n",
    b"POST /v1/gateway HTTP/1.1\r\nHost: v\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"POST /v1/verify HTTP/1.1\r\nHost: v\r\n%bTransfer-Encoding: chunked\r\n\r\n%b" % (JSON, CHUNKS),
    b"\r\n",
    b"GET /v1/gateway HTTP/1.1\r\nHost: v\r\nX-Request-Id: g\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : v\r\n\r\n",
]
MANY = st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(MANY, st.lists(st.integers(0, 999), max_size=8))
def test_answers_are_the_same_however_requests_arrive(requests: list[bytes], cuts: list[int]) -> None:
    data = b"".join(requests)
    assert asyncio.run(answered(data, cuts)) == asyncio.run(answered(data, []))


async def answered(data: bytes, cuts: list[int]) -> tuple[bytes, bool]:
    """What is sent back, ids that were made and the time aside, and whether the connection has ended."""
    world = World()
    world.add(key_id(1), key_created(1))
    await world.caught_up()
    service = Service(world.verifier, world.clock)
    shared = Shared(service.endpoints, service.documented, Bounds(), SystemClock())
    connection, wire = Connection(shared), Wire()
    connection.connection_made(cast("Any", wire))
    at = 0
    for end in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        if end > at:
            connection.data_received(data[at:end])
        at = end
    return re.sub(rb"req_\w+|date: [^\r]+|\d+(?=\r\nx-request-id: req_)", b"", wire.sent), wire.closed
