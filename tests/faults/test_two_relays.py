"""H3, F11: of two key services one is stopped and goes on, or does not hear what the broker acknowledges."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.faults import aftermath
from tests.faults.checker import Interval
from tests.faults.conftest import Figures
from tests.faults.load import Load
from tests.faults.rig import Rig, rig
from tests.support.cluster import Cluster


async def stop(made: Rig, number: int, seconds: float) -> None:
    """SIGSTOP in the middle of whatever it does, then SIGCONT."""
    made.keys[number].freeze()
    await asyncio.sleep(seconds)
    made.keys[number].thaw()


async def lose_answers(made: Rig, number: int, seconds: float) -> None:
    """What it publishes arrives; that it arrived is never heard of."""
    for gate in made.key_nats[number]:
        gate.freeze(only_answers=True)
    await asyncio.sleep(seconds)
    for gate in made.key_nats[number]:
        await gate.cut()
        gate.thaw()
        await gate.open()


async def storm(made: Rig, nats: str, figures: Figures, rounds: int) -> None:
    workspace = await made.workspace()
    load = Load(made, workspace, figures.dice, services=(0, 1))
    disturbed: list[Interval] = []
    async with aftermath.overheard(nats) as heard:
        async with load.running(workers=6, checkers=2):
            for number in range(rounds):
                await asyncio.sleep(figures.dice.uniform(0.1, 0.5))
                began = time.monotonic()
                trouble = stop if number % 2 else lose_answers
                await trouble(made, figures.dice.randrange(2), figures.dice.uniform(0.5, 1.5))
                disturbed.append(Interval(began - 0.25, time.monotonic() + 2))
        whole = await aftermath.hold_stream(made, nats)
    log = await aftermath.hold(made, load.history, slow=disturbed)
    uses = await aftermath.hold_uses(made, load.history, workspace)
    figures(
        rounds=rounds,
        events=len(log.events),
        sent_again=load.retried,
        heard=len(heard),
        stream_whole_after_s=whole,
        uses_counted=uses,
    )
    assert heard == list(range(heard[0], heard[-1] + 1))
    assert heard[-1] == log.head_position


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(2, id="short"),
        pytest.param(16, id="long", marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)
async def test_two_relays_publish_each_position_once_and_in_order(
    database: str, nats_url: str, folder: Path, figures: Figures, rounds: int
) -> None:
    async with rig(database, nats_url, folder, key_services=2, usage=True) as made:
        await storm(made, nats_url, figures, rounds)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_so_do_they_over_three_replicas(database: str, folder: Path, figures: Figures) -> None:
    with Cluster(folder) as cluster:
        await cluster.start()
        async with rig(database, cluster.url, folder, key_services=2, replicas=3, usage=True) as made:
            await storm(made, cluster.url, figures, 10)
