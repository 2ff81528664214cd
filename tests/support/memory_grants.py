"""`GrantStore` in memory, and a granter on a bus for tests that have no usage service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import msgspec
from prometheus_client import CollectorRegistry

from keyledger.clock import SystemClock
from keyledger.grants import Want
from keyledger.verification.bus import NatsBus
from services.usage.domain.granting import Legacy
from services.usage.domain.pool import Pool
from services.usage.domain.shares import Right
from services.usage.granter import GrantMetrics, GrantServer
from services.usage.ports import Claim, StoreUnavailable
from tests.support.waiting import until


class MemoryGrants:
    """What is kept; `away` makes every call fail."""

    def __init__(self) -> None:
        self.away = False
        self.now: Claim | None = None
        self.legacy: bytes | None = None
        self.rights: list[Right] = []
        self.kept: dict[tuple[str, str, int], bytes] = {}

    async def claim(self) -> Claim | None:
        self._check()
        return self.now

    async def take(
        self, seen: Claim | None, term: int, owner: str, until: int
    ) -> tuple[Legacy | None, list[Right]] | None:
        self._check()
        if seen != self.now:
            return None
        legacy, self.legacy = self.legacy, None
        self.now = Claim(term, owner, until)
        return None if legacy is None else msgspec.msgpack.decode(legacy, type=Legacy), list(self.rights)

    async def extend(self, term: int, until: int) -> bool:
        self._check()
        if self.now is None or self.now.term != term or until < self.now.until:
            return False
        self.now = Claim(term, self.now.owner, until)
        return True

    async def release(self, term: int, until: int, legacy: Legacy) -> None:
        self._check()
        if self.now is not None and self.now.term == term:
            self.now = Claim(term, self.now.owner, until, left_over=True)
            self.legacy = msgspec.msgpack.encode(legacy)

    async def record(self, term: int, rights: Sequence[Right]) -> bool:
        self._check()
        if self.now is None or self.now.term != term:
            return False
        self.rights = list(rights)
        return True

    async def cells(self, wants: Sequence[Want]) -> list[Pool]:
        self._check()
        names = [(want.holder, str(want.window), want.start) for want in wants]
        return [msgspec.msgpack.decode(self.kept[name], type=Pool) for name in names if name in self.kept]

    async def of_holder(self, holder: str, second: int) -> list[Pool]:
        self._check()
        pools = [msgspec.msgpack.decode(body, type=Pool) for body in self.kept.values()]
        return [pool for pool in pools if pool.holder == holder and pool.start <= second < pool.end]

    async def commit(self, term: int, cells: Sequence[Pool]) -> bool:
        self._check()
        if self.now is None or self.now.term != term:
            return False
        for cell in cells:
            self.kept[cell.holder, str(cell.window), cell.start] = msgspec.msgpack.encode(
                Pool(cell.holder, cell.window, cell.start, cell.end, cell.limit, cell.holdings)
            )
        return True

    async def forget(self, before: int) -> None:
        self._check()
        ended = [
            name for name, body in self.kept.items() if msgspec.msgpack.decode(body, type=Pool).end < before
        ]
        for name in ended:
            del self.kept[name]

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("away")


@asynccontextmanager
async def granting(nats: str) -> AsyncGenerator[GrantServer]:
    """A granter on this broker, once it has its term."""
    bus = await NatsBus.connect(nats, name="usage", inbox_prefix="_INBOX_usage")
    server = GrantServer(MemoryGrants(), bus, SystemClock(), GrantMetrics(CollectorRegistry()), owner="test")
    task = asyncio.create_task(server.run())

    async def has_the_term() -> bool:
        return server.granting

    try:
        await until(has_the_term, describe="the granter has its term")
        yield server
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bus.close()
