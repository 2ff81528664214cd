"""The relay into a JetStream that syncs each batch, and the way from a commit to a verifier's memory."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from functools import partial

import asyncpg
from msgspec import Struct

from bench.seeding import GROUP, append, key_command, new_workspace
from bench.stage import Stage, say
from keyledger.clock import SystemClock
from keyledger.server.log_stream import KEY_LOG
from keyledger.server.postgres import open_pool
from keyledger.server.relay import Regression, Relay
from keyledger.verification.bus import NatsBus
from keyledger.verification.feed import HttpFeed
from keyledger.verification.follower import Follower
from keyledger.verification.projection import Change
from keyledger.verification.store import MemoryStore
from keyledger.wire import Followed
from services.keys.adapters.feed import KeyLogSource
from tests.support.waiting import until

BACKLOG = 20_000
PER_SECOND, SECONDS = 200, 5.0


class RelayFigures(Struct, frozen=True):
    """Each round's events a second, and the lags (ms) from commit to applied."""

    relayed: list[float]
    lags: list[list[float]]


class _Timed(MemoryStore):
    """Remembers when each position was applied."""

    def __init__(self) -> None:
        super().__init__()
        self.applied: dict[int, float] = {}

    def apply(self, event: Followed) -> Change:
        effect = super().apply(event)
        self.applied[event.position] = time.perf_counter()
        return effect


async def no_regression(regression: Regression) -> None:
    """What the bench never meets."""
    raise AssertionError(f"{regression.stream} holds what the log does not")


async def measure_relay(stage: Stage, rounds: int) -> list[float]:
    """Events a second of a backlog, each round with one of its own."""
    pool = await open_pool(stage.postgres, name="bench-relay")
    bus = await NatsBus.connect(stage.nats, name="bench", inbox_prefix="_INBOX_bench")
    connection = await asyncpg.connect(stage.postgres)
    workspace = await new_workspace(stage.sealer, connection)
    relay = Relay(bus, KeyLogSource(pool, stage.sealer), KEY_LOG, on_regression=no_regression)
    rates: list[float] = []
    for number in range(rounds + 1):
        head = await connection.fetchval("SELECT position FROM ledger.log_head")
        stop = asyncio.Event()
        began, before = time.perf_counter(), relay.published
        running = asyncio.create_task(relay.run(stop))
        # the first time there is only a stream to be made
        await until(partial(_has, relay, int(head or 0)), within=60)
        spent = time.perf_counter() - began
        stop.set()
        await running
        if number:
            rates.append((relay.published - before) / spent)
            say(f"  relay: round {number} of {rounds}")
        for start in range(0, BACKLOG, GROUP):
            await append(connection, [key_command(*workspace, start + n) for n in range(GROUP)])
    await connection.close()
    await bus.close()
    await pool.close()
    return rates


async def _has(relay: Relay, position: int) -> bool:
    return relay.last_position >= position


async def measure_lag(stage: Stage, rounds: int) -> list[list[float]]:
    """Milliseconds from the answer of an append to the event in the memory of a verifier with all keys.

    The writer is a process of its own, as a key service is: its log wakes its relay.
    """
    store = _Timed()
    bus = await NatsBus.connect(stage.nats, name="bench", inbox_prefix="_INBOX_bench")
    source = HttpFeed(stage.keys_url, stage.feed_key)
    follower = Follower(store, source, bus, SystemClock(), name="bench", snapshots=source)
    async with stage.key_service():
        await follower.start()

        async def ready() -> bool:
            return follower.age() < 2

        await until(ready, within=120)
    lags: list[list[float]] = []
    for number in range(rounds):
        committed = await _write(stage)

        async def applied(last: int = max(committed)) -> bool:
            return store.position >= last

        await until(applied, within=30)
        # after a warm-up: the first second connects and compiles
        late = [
            (store.applied[position] - at) * 1000 for position, at in list(committed.items())[PER_SECOND:]
        ]
        lags.append(late)
        say(f"  commit to applied: round {number + 1} of {rounds}")
    await follower.stop()
    await source.close()
    await bus.close()
    return lags


async def _write(stage: Stage) -> dict[int, float]:
    """Positions and the moments at which their appends were answered."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.writer",
        str(PER_SECOND),
        str(SECONDS),
        env={
            "PATH": os.environ["PATH"],
            "BENCH_POSTGRES": stage.postgres,
            "BENCH_NATS": stage.nats,
            "BENCH_SEAL": stage.home.seal.read_text().strip(),
        },
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    # the relay logs on the same output, before
    return dict(json.loads(out.splitlines()[-1]))
