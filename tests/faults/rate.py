"""Checks at a fixed rate, whatever becomes of them, by a client that is small enough to keep it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
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


@asynccontextmanager
async def checking(
    url: str, tokens: Sequence[str], dice: random.Random, *, rate: float
) -> AsyncGenerator[list[Answer]]:
    """Check tokens at random, `rate` times a second in all, for the length of the block."""
    stop = asyncio.Event()
    answers: list[Answer] = []
    each = rate / CONNECTIONS
    tasks = [
        asyncio.create_task(_connection(url, tokens, random.Random(dice.random()), each, stop, answers))
        for _ in range(CONNECTIONS)
    ]
    try:
        yield answers
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def _connection(
    url: str,
    tokens: Sequence[str],
    dice: random.Random,
    rate: float,
    stop: asyncio.Event,
    answers: list[Answer],
) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time() + dice.random() / rate
    pipe: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while not stop.is_set():
        await asyncio.sleep(max(0.0, due - loop.time()))
        # what could not be sent in time is not made up for
        due = max(due + 1 / rate, loop.time() - 1)
        token, started, status, code = dice.choice(tokens), time.monotonic(), 0, ""
        try:
            async with asyncio.timeout(TIMEOUT):
                pipe = pipe or await _open(url)
                status, code = await _check(pipe, token)
        except (OSError, TimeoutError, EOFError):
            if pipe is not None:
                pipe[1].transport.abort()
            pipe = None
        answers.append(Answer(started, time.monotonic(), token, status, code))
    if pipe is not None:
        pipe[1].close()
        with contextlib.suppress(OSError):
            await pipe[1].wait_closed()


async def _open(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def _check(pipe: tuple[asyncio.StreamReader, asyncio.StreamWriter], token: str) -> tuple[int, str]:
    reader, writer = pipe
    body = msgspec.json.encode({"key": token})
    head = (
        f"POST /v1/verify HTTP/1.1\r\nHost: verifier\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    headers = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(headers.partition(b"content-length:")[2].partition(b"\r\n")[0])
    told = msgspec.json.decode(await reader.readexactly(length), type=_Body)
    return int(headers.split(b" ", 2)[1]), told.code or told.error
