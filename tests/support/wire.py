"""HTTP as it goes over the wire: requests written as they are meant, and a gate that hears what passes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import httptools

from tests.support.gate import Gate

Headers = list[tuple[str, str]]


@dataclass
class Message:
    """A request or an answer; header names in lower case, in their order, repeated ones too."""

    method: str = ""
    target: str = ""
    status: int = 0
    headers: Headers = field(default_factory=list[tuple[str, str]])
    body: bytes = b""

    def every(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for key, value in self.headers if key == name.lower()]

    def one(self, name: str) -> str:
        """The value of a header that must be there once."""
        (value,) = self.every(name)
        return value


class _Events:
    """What httptools calls while it parses; whole messages go into `messages`."""

    def __init__(self, messages: list[Message]) -> None:
        self._messages = messages
        self.message = Message()
        self.ended = 0

    def on_message_begin(self) -> None:
        self.message = Message()
        self._messages.append(self.message)

    def on_url(self, url: bytes) -> None:
        self.message.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.message.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_body(self, body: bytes) -> None:
        self.message.body += body

    def on_message_complete(self) -> None:
        self.ended += 1


class Wire(Gate):
    """A gate between an HTTP client and its server; `requests` are those that have come so far."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.requests: list[Message] = []
        self._parsers: dict[int, tuple[_Events, httptools.HttpRequestParser]] = {}

    def heard(self, connection: int, part: bytes) -> None:
        if connection not in self._parsers:
            events = _Events(self.requests)
            self._parsers[connection] = events, httptools.HttpRequestParser(events)
        events, parser = self._parsers[connection]
        with contextlib.suppress(httptools.HttpParserUpgrade):
            parser.feed_data(part)
        events.message.method = parser.get_method().decode()


async def ask(
    port: int,
    method: str,
    target: str,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes | None = None,
    *,
    source: str = "127.0.0.1",
    within: float = 10.0,
) -> Message:
    """Send one request exactly so, from this address of the machine; the answer.

    The connection ends with it, unless `headers` say what becomes of it. `AssertionError` when nothing, or
    half an answer, has come before it was closed.
    """
    lines = [f"{method} {target} HTTP/1.1"]
    names = {name.lower() for name, _ in headers}
    given = [("Host", "api.test"), ("Connection", "close")]
    lines += [f"{name}: {value}" for name, value in given if name.lower() not in names]
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None and "transfer-encoding" not in names:
        lines.append(f"Content-Length: {len(body)}")
    request = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")
    async with asyncio.timeout(within):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
        try:
            writer.write(request)
            return await _answer(reader, method)
        finally:
            writer.transport.abort()


async def _answer(reader: asyncio.StreamReader, method: str) -> Message:
    messages: list[Message] = []
    events = _Events(messages)
    parser = httptools.HttpResponseParser(events)
    head = await reader.readuntil(b"\r\n\r\n")
    parser.feed_data(head)
    status = parser.get_status_code()
    if method != "HEAD" and status >= 200:
        while not events.ended:
            part = await reader.read(65536)
            if not part:
                break
            parser.feed_data(part)
        delimited = {"content-length", "transfer-encoding"} & {name for name, _ in events.message.headers}
        assert events.ended or not delimited, f"half an answer: {events.message}"
    events.message.status = status
    return events.message
