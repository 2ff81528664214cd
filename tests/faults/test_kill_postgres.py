"""F4: Postgres is killed under the supervisor of the local run, and nobody helps."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter

import pytest

from tests.faults import aftermath
from tests.faults.checker import BOUND, SLOW_BOUND, Interval
from tests.faults.conftest import Figures
from tests.faults.load import Load
from tests.faults.rig import attached
from tests.support.system import running, temporary_home
from tests.support.waiting import until

ANSWERED_WITHIN = 2.0


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(1, id="short"),
        pytest.param(5, id="long", marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)
async def test_a_killed_postgres_stops_commands_and_no_check(figures: Figures, kills: int) -> None:
    away: list[float] = []
    slow: list[Interval] = []
    with temporary_home() as home:
        async with running(home) as system:
            made = attached(system)
            workspace = await made.workspace()
            load = Load(made, workspace, figures.dice)
            async with load.running(workers=4, checkers=3):
                for _ in range(kills):
                    await asyncio.sleep(figures.dice.uniform(0.5, 1.5))
                    os.kill(system.pid("postgres"), signal.SIGKILL)
                    killed = time.monotonic()

                    async def refused(since: float = killed) -> bool:
                        return any(began > since and status == 503 for began, _, status in load.attempts)

                    async def served(since: float = killed) -> bool:
                        last = max((end for _, end, status in load.attempts if status == 503), default=since)
                        return sum(began > last and status < 300 for began, _, status in load.attempts) > 5

                    await until(refused, within=10, describe="commands are refused")
                    await until(served, within=40, describe="commands are served again")
                    first = min(
                        end for began, end, status in load.attempts if began > killed and status == 201
                    )
                    away.append(first - killed)
                    # committed and not yet read by the relay: nobody can hear of it before Postgres is back
                    slow.append(Interval(killed - BOUND, first + SLOW_BOUND, first - killed + SLOW_BOUND))
            log = await aftermath.hold(made, load.history, slow=slow, seen_within=max(away) + SLOW_BOUND)
            uses = await aftermath.hold_uses(made, load.history, workspace)
    statuses = Counter(status for _, _, status in load.attempts)
    slowest = max(ended - began for began, ended, status in load.attempts if status == 503)
    figures(
        kills=kills,
        events=len(log.events),
        slowest_503_ms=1000 * slowest,
        statuses="/".join(f"{status}×{count}" for status, count in sorted(statuses.items())),
        commands_back_after_s="/".join(f"{each:.1f}" for each in away),
        checks=len(load.history.verifies()),
        uses_counted=uses,
    )
    assert slowest <= ANSWERED_WITHIN
    assert set(statuses) <= {200, 201, 409, 503}
    assert load.history.count("acked", "verify") == len(load.history.verifies())
