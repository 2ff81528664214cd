"""A verifier's limits on a bus in memory, before and after there is a granter."""

import asyncio

from prometheus_client import CollectorRegistry

from keyledger.clock import SystemClock
from keyledger.grants import GRANT_SUBJECT, RECALL_SUBJECT
from keyledger.verification.granted_limits import TRIES, GrantedLimits
from keyledger.verification.limits import Demand
from services.usage.granter import GrantMetrics, GrantServer
from tests.support.memory_bus import MemoryBus
from tests.support.memory_grants import MemoryGrants
from tests.support.waiting import until

FAILURES = 5
"""After so many the next try is half a second away at least."""


async def test_who_has_long_asked_in_vain_hears_of_a_new_granter_at_once() -> None:
    bus, clock = MemoryBus(), SystemClock()
    limits = GrantedLimits(bus, clock, verifier="v1")
    granter = GrantServer(MemoryGrants(), bus, clock, GrantMetrics(CollectorRegistry()), owner="a")
    await limits.start()
    task = None
    try:

        async def failed() -> bool:
            asked = sum(message.subject == GRANT_SUBJECT for message in bus.published)
            return asked >= TRIES * FAILURES

        await until(failed)
        assert limits.away
        assert not limits.spend([Demand("workspace", "ws", 100, 60)], 1, clock.now(), patient=True).later
        task = asyncio.create_task(granter.run())

        async def back() -> bool:
            return not limits.away

        await until(back, within=0.45)
        await limits.ready(1)
        assert [message.subject for message in bus.published].count(RECALL_SUBJECT) == 1
        assert limits.spend([Demand("workspace", "ws", 100, 60)], 1, clock.now()).allowed
    finally:
        await limits.stop()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
