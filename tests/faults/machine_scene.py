"""What all examples of the machine share: a log in Postgres, and what two key services have open on it."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import msgspec

from keyledger import wire
from keyledger.errors import Refusal
from keyledger.events import KeyText, private_place
from keyledger.server.ids import new_id
from keyledger.server.postgres import open_pool
from keyledger.server.seal import Sealer, seal_text
from keyledger.verification.ports import FeedUnavailable
from keyledger.wire import Head, HeadQuestion, Page
from services.keys.adapters.feed import KeyLogSource
from services.keys.adapters.log import PostgresLog
from services.keys.adapters.uses import PostgresUseLog
from services.keys.ports import Command, NewEvent
from tests.support.appending import command
from tests.support.keys import Home

NOW = 1_800_000_000_000_000
TAIL = "SELECT position, hash FROM ledger.event WHERE position > $1 ORDER BY position"


class Scene:
    """What all examples share: one database, and what two key services would have open on it."""

    def __init__(self, runner: asyncio.Runner, dsn: str, role: str, home: Home) -> None:
        self.runner = runner
        self.dsn = dsn
        self.role = role
        self.sealer = Sealer(bytes.fromhex(home.seal.read_text()))
        self.workspace = home.bootstrapped()["workspace_id"]
        self.seen: list[bytes] = []
        """The hashes that a reader of the tail has met, in the order in which it did."""
        self.uses_sent = Counter[str]()
        self.done = Counter[str]()

    async def open(self, stack: AsyncExitStack) -> None:
        """Open the pools and logs; `stack` closes them."""
        self.admin = await asyncpg.create_pool(self.dsn, min_size=1, max_size=3, command_timeout=20)
        self.watcher = await asyncpg.connect(self.dsn, timeout=5)
        stack.callback(self.watcher.terminate)
        pools = [await open_pool(self.role, name="machine") for _ in range(2)]
        for pool in (self.admin, *pools):
            stack.callback(pool.terminate)
        self.logs = [await stack.enter_async_context(PostgresLog(pool)) for pool in pools]
        self.sources = [KeyLogSource(pool, self.sealer) for pool in pools]
        self.uses = [PostgresUseLog(pool) for pool in pools]
        wrapped = await self.admin.fetchval("SELECT wrapped FROM ledger.workspace_key")
        self.data_key = self.sealer.unwrap(self.workspace, wrapped)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run this, and everything in the background, until it is done."""
        return self.runner.run(work)

    async def look(self) -> None:
        """Read the log on from where its tail was."""
        for row in await self.admin.fetch(TAIL, len(self.seen)):
            assert row["position"] == len(self.seen) + 1, "the reader of the tail has missed an event"
            self.seen.append(row["hash"])

    def creation(self) -> Command:
        """A key that anyone can read."""
        stream = new_id("key")
        text = msgspec.json.encode(KeyText(name="k"))
        sealed = seal_text(self.data_key, text, private_place(stream, 1, "key_created"))
        data = {"environment": "live", "scopes": ["*"], "secret": {"hint": "h", "digests": {}}}
        return self.command(stream, 0, "key_created", data | {"private": sealed})

    def command(self, stream: str, version: int, tag: str, data: dict[str, Any]) -> Command:
        """One event on a stream that stands at this version."""
        event = NewEvent(tag, 1, "system", secrets.token_hex(8), msgspec.json.encode(data))
        return command(stream, version, workspace=self.workspace, events=(event,))


class Served:
    """`Source` of a follower: what the feed of a key service answers."""

    def __init__(self, source: KeyLogSource) -> None:
        self._source = source

    async def page(self, after: int, limit: int) -> tuple[Page, list[memoryview]]:
        try:
            first, *records = wire.unframe(await self._source.page(after, limit))
        except Refusal as refusal:
            # a 503, which a follower takes as a service that cannot be asked just now
            raise FeedUnavailable(refusal.code) from None
        return msgspec.msgpack.decode(first, type=Page), records

    async def head(self, question: HeadQuestion) -> Head:
        try:
            head = await self._source.head()
        except Refusal as refusal:
            raise FeedUnavailable(refusal.code) from None
        return Head(question.nonce, head.epoch.number, head.epoch.line, head.position, head.hash, NOW)
