"""F1, F2: the key service, and the relay in it, are killed again and again under load."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.faults import aftermath
from tests.faults.checker import BOUND, SLOW_BOUND, Interval
from tests.faults.conftest import Figures
from tests.faults.history import History
from tests.faults.load import Load
from tests.faults.rig import rig

BACKLOG_GONE = 10.0


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(3, id="short"),
        pytest.param(20, id="long", marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)
async def test_a_killed_key_service_loses_and_repeats_nothing(
    database: str, nats_url: str, folder: Path, figures: Figures, kills: int
) -> None:
    slow: list[Interval] = []
    async with rig(database, nats_url, folder, usage=True) as made:
        workspace = await made.workspace()
        load = Load(made, workspace, figures.dice)
        async with load.running(workers=6, checkers=2):
            for _ in range(kills):
                await asyncio.sleep(figures.dice.uniform(0.2, 1.5))
                made.keys[0].kill()
                began = time.monotonic()
                await made.keys[0].start()
                back = time.monotonic()
                # it was the only one: what it committed last, nobody can hear of before it is back
                slow.append(Interval(began - BOUND, back + SLOW_BOUND, back - began + SLOW_BOUND))
        backlog = await aftermath.hold_stream(made, nats_url)
        seen = max(each.bound for each in slow)
        log = await aftermath.hold(made, load.history, slow=slow, seen_within=seen)
        uses = await aftermath.hold_uses(made, load.history, workspace)
    history = load.history
    figures(
        kills=kills,
        events=len(log.events),
        commands_acknowledged=history.count("acked") - history.count("acked", "verify"),
        sent_again=load.retried,
        answers_repeated=load.replayed,
        checks=len(history.verifies()),
        uses_counted=uses,
        backlog_gone_after_s=backlog,
    )
    assert history.count("acked", "create") > kills


@pytest.mark.parametrize(
    "rounds", [pytest.param(1, id="short"), pytest.param(6, id="long", marks=pytest.mark.long)]
)
async def test_a_relay_that_is_killed_between_publish_and_answer_leaves_no_gap(
    database: str, nats_url: str, folder: Path, figures: Figures, rounds: int
) -> None:
    slowest = 0.0
    async with rig(database, nats_url, folder) as made:
        workspace = await made.workspace()
        keys = [await made.key(workspace) for _ in range(10)]
        async with aftermath.overheard(nats_url) as heard:
            for number in range(rounds):
                gate = made.key_nats[0][0]
                gate.freeze(only_answers=True)
                for at in range(figures.dice.randrange(5, 40)):
                    path = f"/v1/workspaces/{workspace}/keys/{keys[at % len(keys)]['id']}"
                    await made.ok("PATCH", path, {"scopes": [f"n:{number}.{at}"]})
                made.keys[0].kill()
                await gate.cut()
                gate.thaw()
                await gate.open()
                began = time.monotonic()
                await made.keys[0].start()
                await aftermath.hold_stream(made, nats_url)
                slowest = max(slowest, time.monotonic() - began)
            await made.caught_up(await made.head())
            log = await aftermath.hold(made, History())
            assert heard == list(range(heard[0], log.head_position + 1))
    figures(rounds=rounds, events=len(log.events), heard=len(heard), backlog_gone_after_s=slowest)
    assert slowest <= BACKLOG_GONE
