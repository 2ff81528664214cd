"""`python -m bench.writer <a second> <seconds>`: append evenly, relay, print (position, answered at) as JSON.

The moments are those of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import asyncpg
import uvloop

from bench.relaying import no_regression
from bench.seeding import key_command, new_workspace
from keyledger.server.log_stream import KEY_LOG
from keyledger.server.postgres import open_pool
from keyledger.server.relay import Relay
from keyledger.server.seal import Sealer
from keyledger.verification.bus import NatsBus
from services.keys.adapters.feed import KeyLogSource
from services.keys.adapters.log import PostgresLog
from tests.support.waiting import until


async def main(per_second: int, seconds: float) -> None:
    """Write for so long."""
    sealer = Sealer(bytes.fromhex(os.environ["BENCH_SEAL"]))
    pool = await open_pool(os.environ["BENCH_POSTGRES"], name="bench-writer", least=2)
    bus = await NatsBus.connect(os.environ["BENCH_NATS"], name="writer", inbox_prefix="_INBOX_writer")
    relay = Relay(bus, KeyLogSource(pool, sealer), KEY_LOG, on_regression=no_regression)
    stop = asyncio.Event()
    relaying = asyncio.create_task(relay.run(stop))
    answered: list[tuple[int, float]] = []
    async with PostgresLog(pool, on_commit=relay.kick) as log:
        connection = await asyncpg.connect(os.environ["BENCH_POSTGRES"])
        workspace = await new_workspace(sealer, connection)
        await connection.close()

        async def one(number: int) -> None:
            done = await log.append(key_command(*workspace, number))
            answered.append((done.position, time.perf_counter()))

        began = time.perf_counter()
        writing: list[asyncio.Task[None]] = []
        for number in range(int(per_second * seconds)):
            await asyncio.sleep(max(0.0, began + number / per_second - time.perf_counter()))
            writing.append(asyncio.create_task(one(number)))
        await asyncio.gather(*writing)

        async def relayed() -> bool:
            return relay.last_position >= answered[-1][0]

        await until(relayed)
    stop.set()
    await relaying
    await bus.close()
    await pool.close()
    print(json.dumps(sorted(answered)))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2])))
