"""The usage service on its ports in memory, a caller of it, and uses to count."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from keyledger.clock import SystemClock, parse_rfc3339
from keyledger.events import Epoch
from keyledger.server.edge import Edge
from keyledger.server.telemetry import new_registry
from keyledger.wire import RecordedUses, Use
from services.usage.app import Parts, assemble
from services.usage.domain.period import MINUTE
from services.usage.domain.tally import tally
from tests.support.memory_bus import MemoryBus
from tests.support.memory_grants import MemoryGrants
from tests.support.memory_usage import MemoryFeed, MemoryUsageStore, OpenAccess

EPOCH = Epoch(1, b"line-one")
WS, KEY_A, KEY_B = "ws_" + "1" * 22, "key_" + "2" * 22, "key_" + "3" * 22
URL = f"/v1/workspaces/{WS}/usage"
NOON = parse_rfc3339("2026-05-04T12:00:00Z")
RANGE = {"from": "2026-05-04T12:00:00Z", "to": "2026-05-04T14:00:00Z"}


class House:
    """The service on memory, and a caller of it."""

    def __init__(self) -> None:
        self.store, self.access, self.bus = MemoryUsageStore(), OpenAccess(), MemoryBus()
        self.feed = MemoryFeed(EPOCH)
        parts = Parts(self.store, self.feed, self.bus, self.access, SystemClock(), MemoryGrants())

        @asynccontextmanager
        async def opened() -> AsyncGenerator[Parts]:
            yield parts

        self.litestar = assemble(opened, new_registry())
        self.app: Any = Edge(self.litestar)
        self.http = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=self.app),
            base_url="http://usage.test",
            headers={"X-API-Key": "cvtk_live_caller"},
        )

    async def count(self, *uses: Use) -> None:
        """Fold these uses, behind what is folded."""
        position = await self.store.begin(EPOCH, 0)
        await self.store.fold(EPOCH, position, position + 1, tally(uses))
        self.feed.batches = [RecordedUses(n, 0, ()) for n in range(1, position + 2)]

    async def get(self, url: str = URL, **query: Any) -> httpx2.Response:
        """Ask; `from_` is the parameter `from`."""
        return await self.http.get(url, params={name.rstrip("_"): value for name, value in query.items()})


def use(key: str = KEY_A, *, at: int = NOON, outcome: str = "VALID", count: int = 1) -> Use:
    """`count` uses of a key, each costing 2, in the minute of `at`."""
    return Use(WS, key, "live", at - at % MINUTE, outcome, count, 2 * count, at)


@asynccontextmanager
async def alive(house: House) -> AsyncGenerator[House]:
    """The house while it runs; a lifespan begins and ends in one task, and a fixture does not."""
    started, over = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with house.litestar.lifespan(), house.http:
            started.set()
            await over.wait()

    living = asyncio.create_task(live())
    await started.wait()
    yield house
    over.set()
    await living
