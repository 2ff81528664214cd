"""A service's deleted workspaces: wait until one is erased, and look at what is left of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
import msgspec

from keyledger import wire
from keyledger.events import Epoch
from keyledger.server import jetstream
from keyledger.server.jetstream import StoredMessage
from keyledger.verification.bus import NatsBus
from keyledger.wire import Followed
from tests.support.keys import House
from tests.support.waiting import until


@asynccontextmanager
async def administrator(here: House) -> AsyncGenerator[asyncpg.Connection]:
    connection = await asyncpg.connect(here.admin_dsn, timeout=5)
    try:
        yield connection
    finally:
        await connection.close()


async def erased(here: House, ws: str) -> None:
    """Wait until nothing is left to do for this workspace."""
    async with administrator(here) as connection:

        async def done() -> bool:
            return bool(
                await connection.fetchval(
                    "SELECT rows_gone AND purged FROM ledger.erasure WHERE workspace_id = $1", ws
                )
            )

        await until(done, within=15)


@asynccontextmanager
async def broker(here: House) -> AsyncGenerator[NatsBus]:
    bus = await NatsBus.connect(here.nats, name="test", inbox_prefix="_INBOX_test")
    try:
        yield bus
    finally:
        await bus.close()


async def line_of(here: House) -> Epoch:
    async with administrator(here) as connection:
        head = await connection.fetchrow("SELECT * FROM ledger.log_head")
    assert head is not None
    return Epoch(head["epoch_number"], head["epoch_line"])


async def messages(bus: NatsBus, stream: str) -> list[StoredMessage]:
    """All that a stream holds."""
    state = (await jetstream.info(bus, stream)).state
    numbers = range(state.first_seq, state.last_seq + 1)
    found = [await jetstream.message(bus, stream, sequence) for sequence in numbers]
    return [message for message in found if message is not None]


async def followed(here: House) -> list[Followed]:
    answer = await here.follower("GET", "/v1/feed?after=0&limit=10000")
    _, *records = wire.unframe(answer.content)
    return [msgspec.msgpack.decode(record, type=Followed) for record in records]
