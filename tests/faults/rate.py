"""Checks at a fixed rate, whatever becomes of them, by a client that is small enough to keep it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

CONNECTIONS = 16
TIMEOUT = 5.0


class Answer(Struct, frozen=True):
    """One check; monotonic seconds. Status 0: no answer. `code` is the verdict's or the error's."""

    started: float
    ended: float
    token: str
    status: int
    code: str


class _Body(Struct):
    code: str = ""
    error: str = ""


class Pipe:
    """A connection on which one check follows the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect."""
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    async def check(self, token: str) -> tuple[int, str, bool]:
        """Status, the verdict's or the error's code, and whether the connection may be used again."""
        body = msgspec.json.encode({"key": token})
        head = (
            f"POST /v1/verify HTTP/1.1\r\nHost: verifier\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        headers = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(headers.partition(b"content-length:")[2].partition(b"\r\n")[0])
        told = msgspec.json.decode(await self._reader.readexactly(length), type=_Body)
        kept = b"\r\nconnection: close\r\n" not in headers
        return int(headers.split(b" ", 2)[1]), told.code or told.error, kept

    @property
    def usable(self) -> bool:
        """Whether the server has not hung up meanwhile."""
        return not self._reader.at_eof()

    def abort(self) -> None:
        """Hang up at once."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


@asynccontextmanager
async def checking(
    url: str | Callable[[], str], tokens: Sequence[str], dice: random.Random, *, rate: float
) -> AsyncGenerator[list[Answer]]:
    """Check tokens at random, `rate` times a second in all, for the length of the block.

    `url` may be chosen anew for each check; without one, which is an empty text, the check fails.
    """
    stop = asyncio.Event()
    answers: list[Answer] = []
    each = rate / CONNECTIONS
    choose = (lambda: url) if isinstance(url, str) else url
    tasks = [
        asyncio.create_task(_client(choose, tokens, random.Random(dice.random()), each, stop, answers))
        for _ in range(CONNECTIONS)
    ]
    try:
        yield answers
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def _client(
    choose: Callable[[], str],
    tokens: Sequence[str],
    dice: random.Random,
    rate: float,
    stop: asyncio.Event,
    answers: list[Answer],
) -> None:
    """One check after the other, each on a connection that is kept for its address."""
    loop = asyncio.get_running_loop()
    due = loop.time() + dice.random() / rate
    pipes: dict[str, Pipe] = {}
    while not stop.is_set():
        await asyncio.sleep(max(0.0, due - loop.time()))
        # what could not be sent in time is not made up for
        due = max(due + 1 / rate, loop.time() - 1)
        url, token, started, status, code = choose(), dice.choice(tokens), time.monotonic(), 0, ""
        try:
            async with asyncio.timeout(TIMEOUT):
                if url in pipes and not pipes[url].usable:
                    await pipes.pop(url).close()
                if url not in pipes:
                    pipes[url] = await Pipe.open(url)
                status, code, kept = await pipes[url].check(token)
            if not kept:
                await pipes.pop(url).close()
        except (OSError, TimeoutError, EOFError):
            if url in pipes:
                pipes.pop(url).abort()
        answers.append(Answer(started, time.monotonic(), token, status, code))
    for pipe in pipes.values():
        await pipe.close()
