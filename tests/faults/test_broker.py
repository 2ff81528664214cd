"""F5, H6, F6, F7, H4: the broker is killed, and what it stored is lost, damaged, or of yesterday."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from keyledger.server import jetstream
from keyledger.server.log_stream import KEY_LOG, USE_LOG
from keyledger.verification.bus import NatsBus
from keyledger.verification.ports import Bus
from tests.faults import aftermath
from tests.faults.checker import BOUND, SLOW_BOUND, Interval
from tests.faults.conftest import Figures
from tests.faults.history import read_log
from tests.faults.lag import percentile, revocation_lag
from tests.faults.load import Load
from tests.faults.rig import Rig, rig
from tests.support.broker import Broker
from tests.support.waiting import until

PUSH_BACK = 5.0
REBUILT = 30.0
HARMS = 4


async def pushing(made: Rig) -> None:
    """Return once the relay publishes again, all of it, and the verifier hears."""

    async def ready() -> bool:
        states = [await made.readiness(of) for of in (made.keys[0], made.verifier)]
        backlog = await made.metric(made.keys[0], "keyledger_relay_backlog")
        return backlog == 0 and all(told["status"] == "ready" for _, told in states)

    await until(ready, within=REBUILT, describe="the push path is back")


@pytest.mark.parametrize(
    ("outage", "samples"),
    [
        pytest.param(4.0, 8, id="short"),
        pytest.param(30.0, 100, id="long", marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)
async def test_a_dead_broker_delays_a_revocation_by_two_seconds_at_most(
    database: str, folder: Path, figures: Figures, outage: float, samples: int
) -> None:
    with Broker(folder) as broker:
        await broker.start()
        async with rig(database, broker.url, folder, usage=True) as made:
            workspace = await made.workspace()
            load = Load(made, workspace, figures.dice)
            async with load.running(workers=2, checkers=1):
                before = [await revocation_lag(made, workspace) for _ in range(samples)]
                broker.kill()
                killed = time.monotonic()
                without: list[float] = []
                while time.monotonic() < killed + outage:
                    without.append(await revocation_lag(made, workspace))
                await broker.start()
                restarted = time.monotonic()
                await pushing(made)
                push_back = time.monotonic() - restarted
                after = [await revocation_lag(made, workspace) for _ in range(samples)]
            slow = [Interval(killed - 1, restarted + push_back + 0.1)]
            backlog = await aftermath.hold_stream(made, broker.url)
            log = await aftermath.hold(made, load.history, slow=slow)
            uses = await aftermath.hold_uses(made, load.history, workspace)
    lags = before + without + after
    figures(
        outage_s=outage,
        events=len(log.events),
        lag_with_broker_p50_ms=1000 * percentile(before + after, 0.5),
        p99_ms=1000 * percentile(before + after, 0.99),
        without_p50_ms=1000 * percentile(without, 0.5),
        without_max_ms=1000 * max(without),
        all_p99_ms=1000 * percentile(lags, 0.99),
        push_back_after_s=push_back,
        backlog_gone_after_s=backlog,
        uses_counted=uses,
    )
    assert max(without) <= SLOW_BOUND
    assert push_back <= PUSH_BACK
    assert percentile(before + after, 0.99) <= BOUND


Damage: TypeAlias = Callable[[Path, random.Random], None]


def lose(store: Path, dice: random.Random) -> None:
    """Everything is gone."""
    del dice
    shutil.rmtree(store)


def truncate(store: Path, dice: random.Random) -> None:
    """The last block of every stream is cut short."""
    for block in last_blocks(store):
        with block.open("r+b") as file:
            file.truncate(int(block.stat().st_size * dice.uniform(0.3, 0.9)))


def flip(store: Path, dice: random.Random) -> None:
    """One bit of the last block of every stream is another."""
    for block in last_blocks(store):
        content = bytearray(block.read_bytes())
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        block.write_bytes(content)


def put_back(store: Path, dice: random.Random) -> None:
    """Everything is as it was when the copy was made."""
    del dice
    shutil.rmtree(store)
    shutil.copytree(copy_of(store), store)


def copy_of(store: Path) -> Path:
    return store.with_name("copy")


def last_blocks(store: Path) -> list[Path]:
    # the stream's own, not those of a batch that was being put together
    folders = list(store.glob("**/streams/KEYS_*/msgs"))
    blocks = [max(folder.glob("*.blk"), key=lambda file: int(file.stem)) for folder in folders]
    assert blocks, f"no blocks below {store}"
    return [block for block in blocks if block.stat().st_size]


@pytest.mark.parametrize(
    "damage",
    [
        lose,
        pytest.param(put_back, marks=pytest.mark.long),
        pytest.param(truncate, marks=pytest.mark.long),
        pytest.param(flip, marks=pytest.mark.long),
    ],
)
async def test_a_store_that_is_lost_or_damaged_is_rebuilt_unaided(
    database: str, folder: Path, figures: Figures, damage: Damage
) -> None:
    slow: list[Interval] = []
    with Broker(folder) as broker:
        await broker.start()
        async with rig(database, broker.url, folder, usage=True) as made:
            workspace = await made.workspace()
            load = Load(made, workspace, figures.dice)

            async def restarted(harm: Callable[[], object]) -> float:
                broker.kill()
                killed = time.monotonic()
                harm()
                await broker.start()
                started = time.monotonic()
                await pushing(made)
                slow.append(Interval(killed - 1, time.monotonic() + 6))
                return time.monotonic() - started

            async with load.running(workers=3, checkers=2):
                await asyncio.sleep(1)
                await restarted(lambda: shutil.copytree(broker.store, copy_of(broker.store)))
                copied_at = await made.head()
                await asyncio.sleep(1)
                newer = await made.head() - copied_at
                push_back = await restarted(lambda: damage(broker.store, figures.dice))
                lags = [await revocation_lag(made, workspace) for _ in range(5)]
            rebuilt = await aftermath.hold_stream(made, broker.url, within=REBUILT)
            log = await aftermath.hold(made, load.history, slow=slow)
            uses = await aftermath.hold_uses(made, load.history, workspace)
    figures(
        events=len(log.events),
        newer_than_the_copy=newer,
        push_back_after_s=push_back,
        first_lags_ms="/".join(f"{1000 * lag:.0f}" for lag in lags),
        stream_whole_after_s=rebuilt,
        uses_counted=uses,
    )
    assert max(lags) <= SLOW_BOUND


async def purge(bus: Bus, stream: str) -> None:
    """No message is left; the stream remembers its last sequence."""
    await jetstream.purge(bus, stream)


async def delete(bus: Bus, stream: str) -> None:
    """The stream is gone, if it had come back since the last time."""
    with contextlib.suppress(jetstream.StreamMissing):
        await jetstream.delete(bus, stream)


@pytest.mark.long
@pytest.mark.parametrize("harm", [purge, delete])
async def test_streams_that_are_purged_or_deleted_under_load_lose_nobody_anything(
    database: str,
    nats_url: str,
    folder: Path,
    figures: Figures,
    harm: Callable[[Bus, str], Awaitable[None]],
) -> None:
    async with rig(database, nats_url, folder, usage=True) as made:
        workspace = await made.workspace()
        line = (await read_log(made.admin_dsn)).lines[-1].line.hex()
        streams = [f"{names.stream}_{line}" for names in (KEY_LOG, USE_LOG)]
        load = Load(made, workspace, figures.dice)
        slow: list[Interval] = []
        bus = await NatsBus.connect(nats_url, name="harm")
        try:
            async with load.running(workers=4, checkers=2):
                for _ in range(HARMS):
                    await asyncio.sleep(figures.dice.uniform(0.3, 1))
                    began = time.monotonic()
                    for stream in streams:
                        await harm(bus, stream)
                    await pushing(made)
                    slow.append(Interval(began - BOUND, time.monotonic() + 1))
                lags = [await revocation_lag(made, workspace) for _ in range(5)]
        finally:
            await bus.close()
        whole = await aftermath.hold_stream(made, nats_url)
        log = await aftermath.hold(made, load.history, slow=slow)
        uses = await aftermath.hold_uses(made, load.history, workspace)
    figures(
        harms=HARMS,
        events=len(log.events),
        lag_max_ms=1000 * max(lags),
        stream_whole_after_s=whole,
        uses_counted=uses,
    )
    assert max(lags) <= BOUND
