"""F24: two verifiers are stopped and started again in turn, behind a balancer that heeds their readiness."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from tests.faults.conftest import Figures
from tests.faults.lag import percentile
from tests.faults.rate import checking
from tests.faults.rig import Daemon, rig
from tests.support.waiting import until

RATE = 500.0
LOOK = 0.25
"""Seconds between two looks at a verifier's readiness, as a gateway's health checks would have it."""
DRAIN = 1.5


class Balancer:
    """Hands out the verifiers in turn that said at the last look that they are ready."""

    def __init__(self, daemons: Sequence[Daemon]) -> None:
        self.ready: set[str] = set()
        self.said: dict[str, list[str]] = {daemon.url: [] for daemon in daemons}
        """Every status that each has told, in the order of the looks, once each time it changed."""
        self._turns = 0

    def choose(self) -> str:
        """The next one's address; empty when there is none."""
        self._turns += 1
        ready = sorted(self.ready)
        return ready[self._turns % len(ready)] if ready else ""

    async def look_on(self, url: str) -> None:
        """Look at one of them until cancelled."""
        async with httpx2.AsyncClient(timeout=1, trust_env=False) as http:
            while True:
                status, told = 0, "away"
                with contextlib.suppress(httpx2.HTTPError):
                    answer = await http.get(f"{url}/readyz")
                    status, told = answer.status_code, answer.json()["status"]
                (self.ready.add if status == 200 else self.ready.discard)(url)
                if self.said[url][-1:] != [told]:
                    self.said[url].append(told)
                await asyncio.sleep(LOOK)


@asynccontextmanager
async def balancing(daemons: Sequence[Daemon]) -> AsyncGenerator[Balancer]:
    """A balancer that looks for the length of the block."""
    made = Balancer(daemons)
    tasks = [asyncio.create_task(made.look_on(daemon.url)) for daemon in daemons]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    "rounds", [pytest.param(1, id="short"), pytest.param(5, id="long", marks=pytest.mark.long)]
)
async def test_a_rolling_stop_fails_no_request(
    database: str, nats_url: str, folder: Path, figures: Figures, rounds: int
) -> None:
    async with rig(database, nats_url, folder) as made, contextlib.AsyncExitStack() as stack:
        workspace = await made.workspace()
        tokens = [(await made.key(workspace))["key"] for _ in range(5)]
        daemons: list[Daemon] = []
        for name in ("first", "second"):
            settings = {**made.verifier.environment, "KEYLEDGER_DRAIN_SECONDS": str(DRAIN)}
            settings["KEYLEDGER_SPOOL"] = str(folder / name)
            del settings["KEYLEDGER_PORT"]
            daemon = Daemon("services.verifier", folder, name, settings)
            stack.push_async_callback(daemon.stop)
            await daemon.start()
            daemons.append(daemon)
        both = {daemon.url for daemon in daemons}
        stops: list[float] = []
        async with balancing(daemons) as balancer:

            async def whole() -> bool:
                return balancer.ready == both

            await until(whole)
            began = time.monotonic()
            async with checking(balancer.choose, tokens, figures.dice, rate=RATE) as answers:
                for daemon in daemons * rounds:
                    asked = time.monotonic()
                    assert await daemon.stop(within=DRAIN + 6) == 0
                    stops.append(time.monotonic() - asked)
                    await daemon.start()
                    await until(whole, within=10)
            ended = time.monotonic()
        told = Counter((answer.status, answer.code) for answer in answers)
        figures(
            stops=len(stops),
            longest_stop_s=max(stops),
            rate=len(answers) / (ended - began),
            answers=len(answers),
            failed=sum(count for each, count in told.items() if each != (200, "VALID")),
            p99_ms=1000 * percentile([answer.ended - answer.started for answer in answers], 0.99),
        )
        assert set(told) == {(200, "VALID")}
        assert len(answers) > 0.8 * RATE * (ended - began)
        assert all(balancer.said[url].count("stopping") == rounds for url in both)
        assert max(stops) < DRAIN + 3
