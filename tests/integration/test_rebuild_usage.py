"""`keyledger project rebuild --only usage`: counters are what the use log adds up to, while others go on."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from keyledger.clock import SECOND, SystemClock
from keyledger.events import Epoch
from keyledger.server.postgres import Pool, close_pool, open_pool
from keyledger.verification.ports import USE_LIVE_SUBJECT
from keyledger.wire import Page, Use, UseBatch, unframe
from services.keys.adapters.feed import UseLogSource
from services.keys.adapters.uses import PostgresUseLog
from services.usage.adapters import deriving
from services.usage.adapters.postgres import PostgresUsage
from services.usage.consumer import Metrics, UseConsumer
from services.usage.domain.derivation import Derivation
from services.usage.domain.period import Period
from services.usage.domain.series import Question
from tests.support.command import Done, keyledger
from tests.support.keys import as_role, migrated
from tests.support.memory_bus import MemoryBus
from tests.support.tampering import superuser, tamper
from tests.support.waiting import until

WS = "ws_0000000000000000000001"
DAY = 86_400 * SECOND
START = 20_000 * DAY
WHOLE = Period(START, START + 3 * DAY, "hour")
_IDENTITY = """
    SELECT c.relname, c.relacl::text, c.reloptions, c.relrowsecurity,
           (SELECT array_agg(i.indexrelid::regclass::text || pg_get_indexdef(i.indexrelid) ORDER BY 1)
              FROM pg_index i WHERE i.indrelid = c.oid) AS indexes,
           (SELECT array_agg(p.policyname || p.roles::text || p.cmd || coalesce(p.qual, '') ORDER BY 1)
              FROM pg_policies p WHERE p.schemaname = 'usage' AND p.tablename = c.relname) AS policies
      FROM pg_class c WHERE c.relnamespace = 'usage'::regnamespace AND c.relkind = 'r' ORDER BY 1
"""


class Feed:
    """The use log as the key service serves it, without HTTP between."""

    def __init__(self, source: UseLogSource) -> None:
        self._source = source

    async def page(self, after: int, limit: int) -> tuple[Page, list[memoryview]]:
        head, *records = unframe(await self._source.uses(after, limit))
        return msgspec.msgpack.decode(head, type=Page), records


class Scene:
    """A use log that grows, the service's own consumer that folds it at once, and a reader."""

    def __init__(self, admin_dsn: str, keys: Pool, usage: Pool) -> None:
        self.admin_dsn = admin_dsn
        self.uses = PostgresUseLog(keys)
        self.source = UseLogSource(keys)
        self.store = PostgresUsage(usage)
        self.bus = MemoryBus()
        self.consumer = UseConsumer(
            self.store, Feed(self.source), self.bus, SystemClock(), Metrics(CollectorRegistry())
        )
        self.count = self.recorded = self.reads = 0
        self.stop = asyncio.Event()

    async def record(self) -> None:
        """Record a batch of uses of several keys, hours and outcomes."""
        number = self.recorded
        uses = tuple(
            Use(
                WS,
                f"key_{(number + step) % 7:022d}",
                "live",
                START + (number * 7 + step) % 2000 * 60 * SECOND,
                ("VALID", "REVOKED")[step % 2],
                step + 1,
                step,
                START + number * SECOND,
            )
            for step in range(4)
        )
        await self.uses.record(UseBatch("boot", number, uses), now=START + number)
        self.recorded += 1
        self.count += 10
        (batch,) = await self.source.batches(number, 1)
        line = (await self.source.head()).epoch.line.hex()
        await self.bus.publish(f"{USE_LIVE_SUBJECT}.{line}", msgspec.msgpack.encode(batch))

    async def poison(self) -> None:
        """Record, as a key service from before its rules did, a batch of a sound use and two that are not."""
        change = msgspec.structs.replace
        sound = Use(WS, f"key_{0:022d}", "live", START, "VALID", 1, 1, START + 9 * DAY)
        # the key's text is fit for the log and too long for an index
        long = secrets.token_hex(8_000)
        bad = (change(sound, count=2**62), change(sound, count=-5), change(sound, key_id=long))
        await self.uses.record(UseBatch("boot", self.recorded, (sound, bad[self.recorded % 3])), now=START)
        self.recorded += 1

    async def derive(self) -> Derivation:
        async with deriving.reading(self.admin_dsn) as connection:
            return await deriving.derive(connection, WS, START, START + 30 * DAY)

    async def totals(self) -> int:
        reading = await self.store.read(Question(WS, None, WHOLE, ()), None, 10)
        return reading.totals.count

    async def keep_recording(self) -> None:
        while not self.stop.is_set():
            await self.record()
            self.reads += 1
            assert await self.totals() <= self.count
            await asyncio.sleep(0)

    async def folded(self) -> None:
        async def up_to_date() -> bool:
            epoch = (await self.source.head()).epoch
            return await self.store.position(epoch.line) == self.recorded

        await until(up_to_date, within=20, describe="every batch folded")

    async def rebuild(self, folder: Path) -> Done:
        return await keyledger(
            "project", "rebuild", "--only", "usage", home=folder / "none", KEYLEDGER_POSTGRES=self.admin_dsn
        )

    async def identity(self) -> list[Any]:
        async with superuser(self.admin_dsn) as admin:
            return [tuple(row) for row in await admin.fetch(_IDENTITY)]


@pytest.fixture
async def scene(database: str) -> AsyncIterator[Scene]:
    keys = await open_pool(await migrated(database), name="keys")
    usage = await open_pool(as_role(database, "keyledger_usage"), name="usage")
    scene = Scene(database, keys, usage)
    following = asyncio.create_task(scene.consumer.run())
    yield scene
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await close_pool(usage)
    await close_pool(keys)


async def test_wrong_counters_are_mended_while_others_record_fold_and_read(
    scene: Scene, tmp_path: Path
) -> None:
    for _ in range(300):
        await scene.record()
    await scene.folded()
    before = await scene.identity()
    await tamper(scene.admin_dsn, "UPDATE usage.use_hour SET count = count + 5")
    await tamper(scene.admin_dsn, "UPDATE usage.all_hour SET count = count + 5")
    await tamper(scene.admin_dsn, "DELETE FROM usage.use_day")
    await tamper(scene.admin_dsn, "UPDATE usage.key_last_used SET last_at = last_at + 1")
    assert await scene.totals() > scene.count

    recorded, position = scene.recorded, scene.consumer.position
    # the readers' own check would meet the forged hours
    await tamper(scene.admin_dsn, "UPDATE usage.all_hour SET count = 0")
    going_on = asyncio.create_task(scene.keep_recording())
    done = await scene.rebuild(tmp_path)
    scene.stop.set()
    await going_on
    said = done.good()
    assert "usage: the counters are what the use log adds up to" in said
    assert scene.recorded > recorded + 20, "nothing was recorded meanwhile"

    await scene.folded()
    assert scene.consumer.position > position
    print(said)
    assert await scene.totals() == scene.count
    assert "usage: the counters" in (await scene.rebuild(tmp_path)).good()
    assert await scene.totals() == scene.count
    assert await scene.identity() == before, "rights, policies, settings and index names stayed"


async def test_each_use_is_counted_once_when_a_fold_waits_for_the_swap(scene: Scene, tmp_path: Path) -> None:
    """The consumer folds nearly without pause; five swaps in a row are met in every place."""
    going_on = asyncio.create_task(scene.keep_recording())
    for _ in range(5):
        (await scene.rebuild(tmp_path)).good()
    scene.stop.set()
    await going_on
    await scene.folded()
    assert await scene.totals() == scene.count


async def test_what_cannot_be_counted_is_left_out_by_fold_proof_and_rebuild_alike(
    scene: Scene, tmp_path: Path
) -> None:
    for _ in range(3):
        await scene.record()
        await scene.poison()
    for _ in range(3):
        await scene.poison()
    await scene.record()
    await scene.folded()
    assert await scene.totals() == scene.count

    async def alike() -> None:
        found = await scene.derive()
        assert (found.first, found.uses, found.last_uses.differing) == (None, scene.count, 0)
        assert (found.parked, await scene.store.parked()) == (12, 6)

    await alike()
    said = (await scene.rebuild(tmp_path)).good()
    assert "6 batches are left out" in said
    assert await scene.totals() == scene.count
    await alike()

    # what was mended in the log, or can be counted by now, is counted by the next rebuild
    await tamper(scene.admin_dsn, "UPDATE ledger.use_record SET count = 1 WHERE count NOT BETWEEN 1 AND 4")
    await tamper(scene.admin_dsn, "UPDATE ledger.use_record SET key_id = 'key_1' WHERE length(key_id) > 99")
    assert "left out" not in (await scene.rebuild(tmp_path)).good()
    assert await scene.totals() == scene.count + 12
    assert await scene.store.parked() == 0
    assert (await scene.derive()).first is None


async def test_last_uses_are_proved_and_rebuilt_by_who_held_the_secret(scene: Scene, tmp_path: Path) -> None:
    key, never = f"key_{1:022d}", f"key_{2:022d}"
    uses = (
        Use(WS, key, "live", START, "VALID", 1, 1, START + 5),
        Use(WS, key, "live", START, "NOT_FOUND", 1, 1, START + 50),
        Use(WS, never, "live", START, "NOT_FOUND", 1, 1, START + 50),
    )
    await scene.uses.record(UseBatch("boot", 0, uses), now=START)
    scene.recorded = 1
    await scene.folded()
    for _ in range(2):
        assert (await scene.store.last_used(WS, [key, never]))[0] == {key: START + 5}
        found = (await scene.derive()).last_uses
        assert (found.keys, found.differing) == (1, 0)
        (await scene.rebuild(tmp_path)).good()
    await tamper(scene.admin_dsn, "UPDATE usage.key_last_used SET last_at = last_at + 1")
    found = (await scene.derive()).last_uses
    assert (found.differing, found.key_id, found.derived, found.kept) == (1, key, START + 5, START + 6)
    command = ("usage", "prove", "--workspace", WS, "--month", "2024-10")
    failed = await keyledger(*command, home=tmp_path / "none", KEYLEDGER_POSTGRES=scene.admin_dsn)
    assert f"DIFFERENCE at the last use of {key}" in failed.failed()


async def test_deleted_workspaces_are_not_counted_again(scene: Scene, tmp_path: Path) -> None:
    for _ in range(10):
        await scene.record()
    await scene.folded()
    await tamper(scene.admin_dsn, "INSERT INTO ledger.erasure (workspace_id, position) VALUES ($1, 1)", WS)
    (await scene.rebuild(tmp_path)).good()
    assert await scene.totals() == 0


async def test_a_table_with_what_cannot_be_carried_over_is_left_alone(scene: Scene, tmp_path: Path) -> None:
    connection = await asyncpg.connect(scene.admin_dsn)
    await connection.execute("CREATE VIEW public.mine AS SELECT * FROM usage.use_day")
    await connection.close()
    assert "the database refuses" in (await scene.rebuild(tmp_path)).failed()
    await scene.record()
    await scene.folded()
    assert await scene.totals() == scene.count


async def test_a_line_that_begins_after_the_swap_goes_on_where_it_was_left(
    scene: Scene, tmp_path: Path
) -> None:
    for _ in range(3):
        await scene.record()
    await scene.folded()
    (await scene.rebuild(tmp_path)).good()
    assert await scene.store.begin(Epoch(2, b"\x02" * 8), 100) == 3
