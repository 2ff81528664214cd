"""What followers get over HTTP from a key service of its own process, and how soon a verifier is ready."""

from __future__ import annotations

import asyncio
import time

import httpx2
import msgspec
from msgspec import Struct

from bench.stage import Stage, say
from keyledger.clock import SystemClock
from keyledger.verification.feed import HttpFeed
from keyledger.verification.snapshot import load
from keyledger.verification.store import MemoryStore
from keyledger.wire import Followed, KeyState, Page, SnapshotPage, WorkspaceState

EVENTS, KEYS, PAGE = 200_000, 300_000, 10_000
READY_WITHIN = 120.0
_FOLLOWED = msgspec.msgpack.Decoder(Followed)
_STATES = msgspec.msgpack.Decoder(list[KeyState | WorkspaceState])


class FollowerFigures(Struct, frozen=True):
    """Each round's events and keys a second, received and then applied; seconds until ready."""

    feed: list[float]
    feed_applied: list[float]
    snapshot: list[float]
    snapshot_applied: list[float]
    ready: list[float]


class _Served:
    """Pages that came before, again and at once: what is left is the follower's own work."""

    def __init__(self, pages: list[tuple[SnapshotPage, list[memoryview]]]) -> None:
        self._pages = iter(pages)

    async def snapshot(self, after: str, limit: int, since: int) -> tuple[SnapshotPage, list[memoryview]]:
        del after, limit, since
        return next(self._pages)


async def measure(stage: Stage, rounds: int) -> FollowerFigures:
    """Run everything `rounds` times, in turn."""
    found = FollowerFigures([], [], [], [], [])
    async with stage.key_service():
        source = HttpFeed(stage.keys_url, stage.feed_key)
        await source.page(0, PAGE)
        for number in range(rounds):
            for fed, applied, step in (
                (found.feed, found.feed_applied, _feed),
                (found.snapshot, found.snapshot_applied, _snapshot),
            ):
                received, taken_in = await step(source)
                fed.append(received)
                applied.append(taken_in)
            found.ready.append(await _from_nothing(stage, f"nothing-{number}"))
            say(f"  feed, snapshot, from nothing: round {number + 1} of {rounds}")
        await source.close()
    return found


async def _feed(source: HttpFeed) -> tuple[float, float]:
    """Events a second: received and unframed; and of these, decoded and applied."""
    pages: list[tuple[Page, list[memoryview]]] = []
    began, position, head = time.perf_counter(), 0, EVENTS
    while position < min(head, EVENTS):
        pages.append(await source.page(position, PAGE))
        position, head = pages[-1][0].last_position, pages[-1][0].head_position
    received = position / (time.perf_counter() - began)
    store = MemoryStore()
    began = time.perf_counter()
    for _, records in pages:
        for record in records:
            store.apply(_FOLLOWED.decode(record))
    return received, store.position / (time.perf_counter() - began)


async def _snapshot(source: HttpFeed) -> tuple[float, float]:
    """Keys a second: received and unframed; and of these, decoded and put into a store."""
    pages: list[tuple[SnapshotPage, list[memoryview]]] = []
    began, after = time.perf_counter(), ""
    for _ in range(KEYS // PAGE):
        pages.append(await source.snapshot(after, PAGE, pages[0][0].head_position if pages else 0))
        after = pages[-1][0].after
        if not after:
            break
    spent = time.perf_counter() - began
    count = sum(len(_STATES.decode(frame)) for frame in pages[-1][1]) + (len(pages) - 1) * PAGE
    received = count / spent
    pages[-1] = (msgspec.structs.replace(pages[-1][0], after=""), pages[-1][1])
    began = time.perf_counter()
    assert await load(MemoryStore(), _Served(pages), SystemClock())
    return received, count / (time.perf_counter() - began)


async def _from_nothing(stage: Stage, folder: str) -> float:
    """Seconds from the start of a verifier's process until it is ready."""
    began = time.perf_counter()
    with stage.verifier(folder) as process:
        async with httpx2.AsyncClient(timeout=5, trust_env=False) as http, asyncio.timeout(READY_WITHIN):
            while True:
                process.check_running()
                try:
                    if (await http.get(f"{stage.verifier_url}/readyz")).status_code == 200:
                        return time.perf_counter() - began
                except httpx2.TransportError:
                    pass
                await asyncio.sleep(0.02)
