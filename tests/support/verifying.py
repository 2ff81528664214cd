"""A verifier on a log in memory, and its HTTP face, ready to be asked."""

from __future__ import annotations

from typing import Any

import httpx2

from keyledger.digest import Peppers
from keyledger.token import Secret
from keyledger.verification.follower import Follower
from keyledger.verification.judge import Judge
from keyledger.verification.limits import FixedWindow
from keyledger.verification.proving import Prover
from keyledger.verification.store import MemoryStore
from keyledger.verification.uses import Uses
from services.verifier.app import Service
from services.verifier.handlers.gateway import ClientAddress
from tests.support.followed_log import PEPPERS, WORKSPACE, FollowedLog, HandClock, workspace_created
from tests.support.memory_bus import MemoryBus


class World:
    """One workspace in a log, and a verifier that follows only when `caught_up` is awaited."""

    def __init__(
        self,
        *,
        limit: int = 1000,
        window: int = 60,
        uses: Uses | None = None,
        held: float = 900,
        peppers: Peppers = PEPPERS,
        prover: Prover | None = None,
    ) -> None:
        self.clock = HandClock()
        self.bus = MemoryBus()
        self.log = FollowedLog()
        self.log.append(WORKSPACE, workspace_created(limit, window))
        self.store = MemoryStore()
        self.follower = Follower(
            self.store, self.log, self.bus, self.clock, name="verifier-test", held_seconds=held
        )
        self.verifier = Judge(
            self.store,
            self.follower,
            peppers=peppers,
            limits=FixedWindow(),
            uses=uses,
            clock=self.clock,
            prefixes=("cvtk", "oldp"),
            prover=prover,
        )

    def add(self, stream: str, event: Any) -> None:
        """Record an event now."""
        self.log.append(stream, event, at=self.clock.now())

    async def caught_up(self) -> World:
        """Read the log and prove that it is read."""
        # the first answer may only tell which log it is
        for _ in range(2):
            await self.follower.ask()
            await self.follower.repair()
        return self

    def client(
        self, *, address: ClientAddress | None = None, token: Secret | None = None
    ) -> httpx2.AsyncClient:
        """A client of the service on this verifier."""
        return client_of(Service(self.verifier, self.clock, address=address, token=token).app)


def client_of(app: Any) -> httpx2.AsyncClient:
    """A client that calls `app` in this process."""
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://verifier")
