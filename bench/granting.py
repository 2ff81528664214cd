"""What granted limits cost: a check that spends tokens at hand, and the messages of a cell that is used up.

Verifiers' limits and the granter are the real ones, on a real broker, in this process.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct
from prometheus_client import CollectorRegistry

from bench.stage import Stage, say
from keyledger.clock import SystemClock
from keyledger.verification.bus import NatsBus
from keyledger.verification.granted_limits import GrantedLimits
from keyledger.verification.limits import Demand, FixedWindow, Limits, LimitState, Spending
from services.usage.granter import GrantMetrics, GrantServer
from tests.support.followed_log import key_created, key_id, token
from tests.support.memory_grants import MemoryGrants
from tests.support.verifying import World
from tests.support.waiting import until

CHECKS = 10_000
VERIFIERS, LIMIT, WINDOW = 4, 1000, 10
TIMES = 5
"""The load of a cell, in limits."""
PATIENCE = 0.02


class Granted(Struct):
    """Microseconds of a check by its limits, and of each cell what was admitted and said about it."""

    free: list[float]
    alone: list[float]
    granted: list[float]
    messages: list[float]
    admitted: list[float]


class Free:
    """Limits that let everything in and look at nothing: the floor."""

    def __init__(self) -> None:
        self._answer = Spending(True, LimitState("workspace", 1, 1, 1, 1))

    def spend(self, demands: Sequence[Demand], cost: int, now: int, *, patient: bool = False) -> Spending:
        """Always the same."""
        del demands, cost, now, patient
        return self._answer

    async def granted(self, demands: Sequence[Demand], cost: int, within: float) -> None:
        """At once."""

    async def ready(self, within: float) -> None:
        """At once."""

    async def start(self) -> None:
        """Nothing to begin."""

    async def stop(self) -> None:
        """Nothing to end."""


async def measure(stage: Stage, rounds: int) -> Granted:
    """Both, in rounds; what is timed takes turns."""
    found = Granted([], [], [], [], [])
    clock, registry = SystemClock(), CollectorRegistry()
    bus = await NatsBus.connect(stage.nats, name="usage", inbox_prefix="_INBOX_usage")
    server = GrantServer(MemoryGrants(), bus, clock, GrantMetrics(registry), owner="bench")
    granting = asyncio.create_task(server.run())
    buses = [
        await NatsBus.connect(stage.nats, name="verifier", inbox_prefix="_INBOX_verifier")
        for _ in range(VERIFIERS)
    ]
    limits = [GrantedLimits(bus, clock, verifier=f"v{number}") for number, bus in enumerate(buses)]
    try:
        for each in limits:
            await each.start()
        for each in limits:
            await each.ready(5)
        await _checked(found, limits[0], rounds)
        say("cells that are used up")
        for number in range(rounds):
            await _used_up(found, limits, registry, number)
    finally:
        for each in limits:
            await each.stop()
        granting.cancel()
        await asyncio.gather(granting, return_exceptions=True)
        for each in (*buses, bus):
            await each.close()
    return found


async def _checked(found: Granted, granted: Limits, rounds: int) -> None:
    world = World(limit=1_000_000_000)
    world.add(key_id(1), key_created(1))
    await world.caught_up()
    presented, verifier = token(1), world.verifier
    kinds = ((found.free, Free()), (found.alone, FixedWindow()), (found.granted, granted))
    for _ in range(rounds):
        for times, limits in kinds:
            verifier.limits = limits
            # the first of a cell takes up its slice
            await until(_lets(world, presented), describe="tokens")
            spent: list[float] = []
            for _ in range(10):
                began = time.perf_counter()
                for _ in range(CHECKS // 10):
                    verifier.check(presented)
                spent.append((time.perf_counter() - began) / (CHECKS // 10) * 1e6)
            times.append(statistics.median(spent))


def _lets(world: World, presented: str) -> Callable[[], Awaitable[bool]]:
    async def lets() -> bool:
        return world.verifier.check(presented).valid

    return lets


async def _used_up(
    found: Granted, limits: Sequence[GrantedLimits], registry: CollectorRegistry, number: int
) -> None:
    """Five times the limit over one whole cell, evenly over the verifiers."""
    demand = Demand("workspace", f"ws{number}", LIMIT, WINDOW)
    await asyncio.sleep(WINDOW - time.time() % WINDOW + 0.01)
    before, ends = _messages(registry), time.time() + WINDOW - 0.1
    counts = await asyncio.gather(*(_spend_on(each, demand, ends) for each in limits))
    found.messages.append(_messages(registry) - before)
    found.admitted.append(sum(counts) / LIMIT)


async def _spend_on(limits: GrantedLimits, demand: Demand, ends: float) -> int:
    pause = WINDOW * VERIFIERS / (TIMES * LIMIT)
    began, admitted, asked = time.time(), 0, 0
    while time.time() < ends:
        spending = limits.spend((demand,), 1, 0, patient=True)
        if spending.later:
            await limits.granted((demand,), 1, PATIENCE)
            spending = limits.spend((demand,), 1, 0)
        admitted += spending.allowed
        asked += 1
        await asyncio.sleep(max(0.0, began + asked * pause - time.time()))
    return admitted


def _messages(registry: CollectorRegistry) -> float:
    """Both ways: what verifiers said, each with its answer."""
    return 2 * sum(
        registry.get_sample_value("keyledger_grant_messages_total", {"lane": lane}) or 0.0
        for lane in ("quick", "committed")
    ) + (registry.get_sample_value("keyledger_recalls_total") or 0.0)
