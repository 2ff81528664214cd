"""Three nats-servers with three replicas of the stream: the leader is killed, one node's store is wiped."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from keyledger.server.log_stream import KEY_LOG
from tests.faults import aftermath
from tests.faults.checker import SLOW_BOUND, Interval
from tests.faults.conftest import Figures
from tests.faults.history import read_log
from tests.faults.lag import revocation_lag
from tests.faults.load import Load
from tests.faults.rig import Rig, rig
from tests.support.cluster import Cluster

HEALED = 30.0


async def key_stream(made: Rig) -> str:
    log = await read_log(made.admin_dsn)
    return f"{KEY_LOG.stream}_{log.lines[-1].line.hex()}"


@pytest.mark.long
@pytest.mark.parametrize("wiped", [False, True], ids=["leader killed", "store wiped"])
async def test_a_cluster_that_loses_a_node_loses_nothing(
    database: str, folder: Path, figures: Figures, wiped: bool
) -> None:
    with Cluster(folder) as cluster:
        await cluster.start()
        async with rig(database, cluster.url, folder, key_services=2, replicas=3, usage=True) as made:
            workspace = await made.workspace()
            stream = await key_stream(made)
            load = Load(made, workspace, figures.dice, services=(0, 1))
            async with load.running(workers=3, checkers=2):
                await asyncio.sleep(1.5)
                leader = await cluster.leader_of(stream)
                others = [node for node in cluster.nodes if node is not leader]
                lost = figures.dice.choice(others) if wiped else leader
                began = time.monotonic()
                lost.kill()
                if wiped:
                    lost.wipe()
                lags = [await revocation_lag(made, workspace) for _ in range(4)]
                elected = await cluster.leader_of(stream)
                assert elected is not lost
                await cluster.start()
                lags += [await revocation_lag(made, workspace) for _ in range(4)]
                ended = time.monotonic()
            whole = await aftermath.hold_stream(made, cluster.url, within=HEALED)
            log = await aftermath.hold(made, load.history, slow=[Interval(began - 1, ended + 1)])
            uses = await aftermath.hold_uses(made, load.history, workspace)
            # what the wiped node knows now, it was told by the others
            for node in cluster.nodes:
                if node is not lost and wiped:
                    node.kill()
                    await cluster.start()
            again = await aftermath.hold_stream(made, cluster.url, within=HEALED)
    figures(
        events=len(log.events),
        lag_max_ms=1000 * max(lags),
        leader_before=leader.name,
        leader_after=elected.name,
        stream_whole_after_s=whole,
        again_after_s=again,
        uses_counted=uses,
    )
    assert max(lags) <= SLOW_BOUND
