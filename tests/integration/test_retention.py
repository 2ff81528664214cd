"""`keyledger usage retain` and `usage prove`: old days go, what was counted stays, and it can be told."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyledger.clock import SECOND
from keyledger.errors import Refusal
from keyledger.events import Epoch
from keyledger.server.postgres import Pool, close_pool, open_pool
from keyledger.wire import Use, UseBatch
from services.keys.adapters.feed import UseLogSource
from services.keys.adapters.uses import PostgresUseLog
from services.usage.adapters import deriving
from services.usage.adapters.postgres import PostgresUsage
from services.usage.adapters.retention import NotFolded, Retention
from services.usage.domain.derivation import Derivation
from services.usage.domain.parking import Parked
from services.usage.domain.period import MINUTE, SIZES, Granularity, Period
from services.usage.domain.retention import DAY, Policy, cut
from services.usage.domain.series import Question, Reading
from services.usage.domain.tally import tally
from tests.support.command import Done, keyledger
from tests.support.keys import as_role, migrated
from tests.support.tampering import tamper

WS = "ws_0000000000000000000001"
KEYS = [f"key_{number:022d}" for number in range(3)]
TODAY = 20_000 * DAY
DAYS = 12
_STEPS = ["send", "send", "send", "again", "fold", "days pass", "retain"]
POLICY = Policy(log_days=4, minute_days=2, hour_days=6)


class Scene:
    """Twelve days of uses, a batch or two a day, folded by the service's own store."""

    def __init__(self, admin_dsn: str, keys: Pool, usage: Pool, now: int) -> None:
        self.admin_dsn = admin_dsn
        self.uses = PostgresUseLog(keys)
        self.source = UseLogSource(keys)
        self.store = PostgresUsage(usage)
        self.now = now
        self.seq = self.examples = 0

    async def record(self, received: int, *uses: Use) -> None:
        await self.uses.record(UseBatch("boot", self.seq, uses), now=received)
        self.seq += 1

    async def fill(self) -> None:
        """Each day's batch has uses of that day, and one that is a day late."""
        for day in range(DAYS):
            moment = self.now - (DAYS - 1 - day) * DAY
            await self.record(moment, *self.day(moment), self.day(moment - DAY)[0])

    def day(self, moment: int) -> list[Use]:
        return [
            Use(
                WS,
                key,
                "live",
                (at := moment - hours * 60 * MINUTE) - at % MINUTE,
                outcome,
                n + 1,
                n,
                at,
                owner,
            )
            for n, key in enumerate(KEYS)
            for hours, outcome, owner in ((0, "VALID", ""), (2, "RATE_LIMITED", "u1"))
        ]

    async def pass_over(self, received: int, *uses: Use) -> None:
        """Record a batch that the fold passes over."""
        await self.fold()
        await self.record(received, *uses)
        epoch, position = (await self.source.head()).epoch, self.seq
        parked = [Parked(position, len(uses), "count")]
        assert await self.store.fold(epoch, position - 1, position, tally(()), parked=parked)

    async def fold(self) -> None:
        epoch: Epoch = (await self.source.head()).epoch
        position = await self.store.begin(epoch, 10_000)
        while batches := await self.source.batches(position, 5):
            told = tally(each for batch in batches for each in batch.uses)
            assert await self.store.fold(epoch, position, batches[-1].position, told)
            position = batches[-1].position

    async def retain(self, policy: Policy = POLICY) -> tuple[int, ...]:
        async with Retention.open(self.admin_dsn) as work:
            return (await work.run(cut(policy, self.now), lambda _: None)).days

    async def read(self, granularity: Granularity) -> Reading:
        period = Period(self.now - 20 * DAY - self.now % DAY, self.now + DAY, granularity)
        groups = ("key", "outcome", "environment", "external_id")
        return await self.store.read(Question(WS, None, period, groups), None, 100_000)

    async def derive(self) -> Derivation:
        start = self.now - self.now % DAY - 20 * DAY
        async with deriving.reading(self.admin_dsn) as connection:
            return await deriving.derive(connection, WS, start, start + 40 * DAY)

    async def command(self, folder: Path, *words: str) -> Done:
        return await keyledger("usage", *words, home=folder / "none", KEYLEDGER_POSTGRES=self.admin_dsn)


@asynccontextmanager
async def scene_at(database: str, now: int) -> AsyncGenerator[Scene]:
    keys = await open_pool(await migrated(database), name="keys")
    usage = await open_pool(as_role(database, "keyledger_usage"), name="usage")
    yield Scene(database, keys, usage, now)
    await close_pool(usage)
    await close_pool(keys)


@pytest.fixture
async def scene(database: str) -> AsyncIterator[Scene]:
    async with scene_at(database, TODAY + 5 * 60 * MINUTE) as scene:
        yield scene


async def partitions(scene: Scene) -> int:
    connection = await asyncpg.connect(scene.admin_dsn)
    found: int = await connection.fetchval(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'ledger.use_record'::regclass"
    )
    await connection.close()
    return found


async def test_old_days_go_and_hours_and_days_are_counted_as_before(scene: Scene) -> None:
    await scene.fill()
    await scene.fold()
    before = {name: await scene.read(name) for name in SIZES}
    assert await partitions(scene) == DAYS
    gone = await scene.retain()
    assert gone == tuple(range(TODAY // DAY - DAYS + 1, TODAY // DAY - POLICY.log_days))
    assert await partitions(scene) == DAYS - len(gone)
    assert (await scene.read("day")).points == before["day"].points
    kept: list[tuple[Granularity, int]] = [("hour", POLICY.hour_days), ("minute", POLICY.minute_days)]
    for granularity, days in kept:
        reading, first = await scene.read(granularity), TODAY - days * DAY
        assert reading.kept_from[granularity] == first
        assert reading.points == [p for p in before[granularity].points if p.mark.start >= first]
    assert await scene.retain() == ()


async def test_a_day_that_is_not_folded_stays_and_so_do_those_after_it(scene: Scene) -> None:
    await scene.fill()
    with pytest.raises(NotFolded):
        await scene.retain()
    assert await partitions(scene) == DAYS
    await scene.fold()
    assert await scene.retain()


async def test_the_newest_day_stays_however_old_it_is(scene: Scene) -> None:
    await scene.record(scene.now - 10 * DAY, *scene.day(scene.now - 10 * DAY))
    await scene.fold()
    assert await scene.retain() == ()
    assert len(await scene.source.batches(0, 10)) == 1


async def test_paging_the_feed_goes_on_and_what_is_gone_is_refused(scene: Scene) -> None:
    await scene.fill()
    await scene.fold()
    gone = len(await scene.retain())
    with pytest.raises(Refusal) as refused:
        await scene.source.batches(gone - 1, 10)
    assert (refused.value.code, refused.value.field) == ("invalid_request", "after")
    kept = await scene.source.batches(gone, 100)
    assert [batch.position for batch in kept] == list(range(gone + 1, DAYS + 1))
    await scene.record(scene.now, *scene.day(scene.now))
    assert (await scene.source.batches(DAYS, 10))[0].position == DAYS + 1
    assert all(batch.uses for batch in kept)


async def test_a_page_of_the_feed_is_bounded_in_uses_and_has_whole_batches(scene: Scene) -> None:
    await scene.fill()
    pool = await open_pool(as_role(scene.admin_dsn), name="test")
    source = UseLogSource(pool, page_uses=2 * 7 + 3)
    told: list[int] = []
    while batches := await source.batches(told[-1] if told else 0, 10):
        assert [len(batch.uses) for batch in batches] == [7, 7][: len(batches)]
        told += [batch.position for batch in batches]
    assert told == list(range(1, DAYS + 1))
    await close_pool(pool)


async def test_the_counters_can_be_derived_and_rebuilt_though_days_are_gone(
    scene: Scene, tmp_path: Path
) -> None:
    await scene.fill()
    await scene.fold()
    whole = await scene.derive()
    assert (whole.first, whole.carried) == (None, 0)
    await scene.retain()
    after = await scene.derive()
    assert after.first is None, after
    assert (after.uses, after.position) == (whole.uses, whole.position)
    assert after.carried > 0
    before = {name: (await scene.read(name)).points for name in SIZES}
    done = await keyledger(
        "project", "rebuild", "--only", "usage", home=tmp_path / "none", KEYLEDGER_POSTGRES=scene.admin_dsn
    )
    done.good()
    assert {name: (await scene.read(name)).points for name in SIZES} == before
    assert (await scene.store.last_used(WS, KEYS))[0] == dict.fromkeys(KEYS, scene.now)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(_STEPS), st.integers(0, 3), st.integers(0, 40)), max_size=25))
async def test_every_day_s_sum_is_what_was_sent_whatever_comes_twice_late_or_between_retentions(
    scene: Scene, steps: list[tuple[str, int, int]]
) -> None:
    """Verifiers send, send again and report hours late; days pass, are folded, and go."""
    scene.examples += 1
    workspace = f"ws_{scene.examples:022d}"
    sent, kept = Counter[int](), dict[str, list[UseBatch]]()
    for step, who, hours in steps:
        boot = f"{workspace}-{who}"
        batches = kept.setdefault(boot, [])
        if step == "send":
            at = scene.now - hours * 60 * MINUTE
            use = Use(
                workspace, KEYS[who % 3], "live", at - at % MINUTE, "VALID", who + 1, 1, at, f"u{hours % 2}"
            )
            batches.append(UseBatch(boot, len(batches), (use, use)))
            sent[at - at % DAY] += 2 * (who + 1)
            assert await scene.uses.record(batches[-1], now=scene.now) == len(batches)
        elif step == "again" and batches:
            assert await scene.uses.record(batches[hours % len(batches)], now=scene.now) == len(batches)
        elif step == "days pass":
            scene.now += (1 + who) * DAY
        elif step == "retain":
            with contextlib.suppress(NotFolded):
                await scene.retain()
        elif step == "fold":
            await scene.fold()
    await scene.fold()
    period = Period(TODAY - 100 * DAY, scene.now - scene.now % DAY + DAY, "day")
    points = (await scene.store.read(Question(workspace, None, period, ()), None, 100_000)).points
    assert {point.mark.start: point.count.count for point in points} == sent
    async with deriving.reading(scene.admin_dsn) as connection:
        derived = await deriving.derive(connection, workspace, period.start, period.end)
    assert (derived.first, derived.uses) == (None, sent.total())


@pytest.mark.parametrize(
    ("statement", "granularity", "derived", "kept"),
    [
        ("UPDATE usage.use_day SET count = count + 5 WHERE key_id LIKE '%1' AND bucket = $1", "day", 2, 7),
        ("DELETE FROM usage.use_minute WHERE key_id LIKE '%1' AND bucket >= $1", "minute", 2, 0),
        ("UPDATE usage.all_hour SET cost = cost + 1 WHERE outcome = 'VALID' AND bucket >= $1", "hour", 6, 6),
        ("UPDATE ledger.use_record SET count = 9 WHERE outcome = 'VALID' AND minute >= $1", "day", 9, 1),
    ],
)
async def test_the_first_difference_is_named(
    scene: Scene, statement: str, granularity: str, derived: int, kept: int
) -> None:
    await scene.record(scene.now, *scene.day(scene.now))
    await scene.fold()
    assert (await scene.derive()).first is None
    await tamper(scene.admin_dsn, statement, TODAY)
    first = (await scene.derive()).first
    assert first is not None
    assert (first.granularity, first.derived.count, first.kept.count) == (granularity, derived, kept)


async def test_what_was_passed_over_is_not_carried_on_as_if_it_were_counted(scene: Scene) -> None:
    await scene.pass_over(scene.now - 8 * DAY, *scene.day(scene.now - 8 * DAY))
    await scene.record(scene.now - 8 * DAY, *scene.day(scene.now - 8 * DAY))
    await scene.pass_over(scene.now, *scene.day(scene.now))
    await scene.fold()
    before = await scene.derive()
    assert (before.first, before.uses, before.parked) == (None, 12, 12)
    async with Retention.open(scene.admin_dsn) as work:
        gone = await work.run(cut(POLICY, scene.now), lambda _: None)
    assert (len(gone.days), gone.parked) == (1, 1)
    after = await scene.derive()
    assert (after.first, after.uses, after.carried, after.parked) == (None, 12, 12, 6)
    assert await scene.store.parked() == 1


async def test_a_sum_beyond_what_its_number_holds_keeps_no_day(scene: Scene) -> None:
    for days in (9, 8, 8):
        at = scene.now - days * DAY
        at -= at % DAY
        use = Use(WS, KEYS[0], "live", at, "VALID", 1, 2**61, at)
        for uses in ((use, use), (use,)):
            await scene.record(at, *uses)
            await scene.fold()
    await scene.record(scene.now, *scene.day(scene.now))
    await scene.fold()
    assert (await scene.derive()).first is None
    assert len(await scene.retain()) == 2
    # two days become one hour's, and that becomes a day's
    assert len(await scene.retain(Policy(log_days=3, minute_days=2, hour_days=3))) == 0
    after = await scene.derive()
    assert (after.first, after.carried) == (None, 9)
    totals = (await scene.read("day")).totals
    assert totals.cost == 2**63 - 1
    assert (await scene.store.parked()) == 0


async def test_a_deleted_workspace_leaves_nothing_in_what_is_carried_on(scene: Scene) -> None:
    await scene.fill()
    await scene.fold()
    await scene.retain()
    connection = await asyncpg.connect(scene.admin_dsn)
    try:
        count = "SELECT (SELECT count(*) FROM ledger.use_carried) + (SELECT count(*) FROM ledger.use_record)"
        assert await connection.fetchval(count) > 0
        await connection.execute("INSERT INTO ledger.erasure (workspace_id, position) VALUES ($1, 1)", WS)
        while await connection.fetchval("SELECT ledger.erase_some(5, $1)", scene.now):
            pass
        assert await connection.fetchval(count) == 0
    finally:
        await connection.close()


async def test_the_commands_say_what_they_did(database: str, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    async with scene_at(database, int(now.timestamp()) * SECOND) as scene:
        await scene.fill()
        await scene.fold()
        words = ["retain", "--log-days", "4", "--minute-days", "2", "--hour-days", "6"]
        oldest = now - timedelta(days=DAYS - 1)
        assert (
            f"days of the use log dropped: {oldest:%Y-%m-%d}, "
            in (await scene.command(tmp_path, *words)).good()
        )
        month = ["prove", "--workspace", WS, "--month", f"{now:%Y-%m}"]
        assert "are what the use log adds up to" in (await scene.command(tmp_path, *month)).good()
        await tamper(scene.admin_dsn, "UPDATE usage.use_day SET count = count + 1")
        failed = (await scene.command(tmp_path, *month)).failed()
        assert failed.startswith("keyledger: DIFFERENCE at the day of ")
        assert "the counter" in failed


async def test_that_there_is_nothing_to_prove_is_said_and_of_nobody_is_an_error(
    scene: Scene, tmp_path: Path
) -> None:
    month = ("--month", "2031-01")
    failed = (await scene.command(tmp_path, "prove", "--workspace", WS, *month)).failed()
    assert failed == f"keyledger: --workspace: there is no {WS}"
    connection = await asyncpg.connect(scene.admin_dsn)
    try:
        await connection.execute("INSERT INTO ledger.state VALUES ($1, 'workspace', $1, 1, 1, 1, '{}')", WS)
        said = (await scene.command(tmp_path, "prove", "--workspace", WS, *month)).good()
        assert said.splitlines()[-1] == "nothing was used in 2031-01: there is nothing to prove, at batch 0"
        await connection.execute("INSERT INTO ledger.erasure (workspace_id, position) VALUES ($1, 1)", WS)
    finally:
        await connection.close()
    failed = (await scene.command(tmp_path, "prove", "--workspace", WS, *month)).failed()
    assert failed == f"keyledger: --workspace: {WS} was deleted, and nothing of it is counted"


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["retain", "--minute-days", "1"], "--minute-days"),
        (["retain", "--log-days", "30"], "--log-days"),
        (["retain", "--hour-days", "89"], "--hour-days"),
        (["prove", "--workspace", WS, "--month", "2026-13"], "--month"),
        (["prove", "--workspace", "ws_1", "--month", "2026-11"], "--workspace"),
    ],
)
async def test_a_bad_option_is_named(tmp_path: Path, words: list[str], field: str) -> None:
    done = await keyledger(
        "usage", *words, home=tmp_path, KEYLEDGER_POSTGRES="postgresql://nobody@127.0.0.1:1/x"
    )
    assert done.failed().startswith(f"keyledger: {field}")
