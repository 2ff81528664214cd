"""Thirty-two writers, rollbacks, killed backends: the log stays dense, and who reads its tail misses nothing.

Half of the writers are two processes' logs with their groups; half hold transactions of their own open, and
roll some of them back.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from contextlib import AsyncExitStack

import asyncpg

from keyledger.errors import Refusal
from keyledger.server.ids import new_id
from keyledger.server.postgres import AWAY, UNDONE, Pool, open_pool
from services.keys.adapters.log import PostgresLog
from services.keys.ports import Command, VersionConflict
from tests.faults.checker import command_violations, log_violations
from tests.faults.conftest import Figures
from tests.faults.history import History, Operation, Outcome, read_log
from tests.support.appending import append, command
from tests.support.keys import migrated

SECONDS = 6.0
KILL_EVERY = 0.05
CALLERS = 8
"""Of each of two logs; twice as many writers have a connection of their own."""
STREAMS = 48
ROLLED_BACK = 0.3
_VERSION = "SELECT version FROM ledger.stream WHERE id = $1"
_KILL = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND usename = 'keyledger_keys' ORDER BY random() LIMIT 1
"""
_TAIL = "SELECT position FROM ledger.event WHERE position > $1 ORDER BY position"


class Storm:
    """What all writers share; `admin` reads and kills."""

    def __init__(self, dice: random.Random, admin: Pool) -> None:
        self.dice = dice
        self.admin = admin
        self.history = History()
        self.waits: list[float] = []
        self.kills = 0
        self.ends = time.monotonic() + SECONDS
        self._versions: dict[str, int] = {new_id("key"): 0 for _ in range(STREAMS)}

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.ends

    def commands(self, count: int) -> list[Command]:
        """Commands on streams that others write to as well; a version may be out of date."""
        chosen = self.dice.sample(sorted(self._versions), count)
        return [command(stream, self._versions[stream]) for stream in chosen]

    def note(
        self, asked: Command, started: float, outcome: Outcome, version: int = 0, position: int = 0
    ) -> None:
        """What came of a command."""
        ended = time.monotonic()
        self.history.add(
            Operation(
                kind="patch",
                name=asked.events[0].request_id,
                started=started,
                ended=ended,
                outcome=outcome,
                key_id=asked.stream_id,
                position=position,
                version=version,
            )
        )
        if outcome == "acked":
            self.waits.append(ended - started)
            self._versions[asked.stream_id] = max(self._versions[asked.stream_id], version)

    async def look(self, stream: str) -> None:
        """Learn the stream's version, which another writer has moved."""
        self._versions[stream] = await self.admin.fetchval(_VERSION, stream) or 0


async def grouped(storm: Storm, log: PostgresLog) -> None:
    """One caller of a process's log."""
    while not storm.over:
        (asked,) = storm.commands(1)
        started = time.monotonic()
        try:
            done = await log.append(asked)
        except VersionConflict:
            storm.note(asked, started, "refused")
            await storm.look(asked.stream_id)
        except Refusal as refusal:
            storm.note(asked, started, "unknown" if refusal.code == "outcome_unknown" else "refused")
        else:
            storm.note(asked, started, "acked", done.version, done.position)


async def alone(storm: Storm, dsn: str) -> None:
    """A writer with transactions of its own; it connects again when its backend was killed."""
    while not storm.over:
        try:
            connection = await asyncpg.connect(dsn, timeout=5, command_timeout=10)
        except AWAY:
            continue
        try:
            while not storm.over:
                await transaction(storm, connection)
        except (*AWAY, *UNDONE):
            continue
        finally:
            connection.terminate()


async def transaction(storm: Storm, connection: asyncpg.Connection) -> None:
    """A few commands in one transaction, committed or rolled back."""
    asked, started = storm.commands(storm.dice.choice((1, 1, 3))), time.monotonic()
    committing = False
    opened = connection.transaction()
    try:
        await opened.start()
        rows = await append(connection, *asked)
        if storm.dice.random() < ROLLED_BACK:
            await opened.rollback()
        else:
            committing = True
            await opened.commit()
    except (*AWAY, *UNDONE):
        for each in asked:
            storm.note(each, started, "unknown" if committing else "refused")
        raise
    for each, row in zip(asked, rows, strict=True):
        if not committing or row["outcome"] != "done":
            storm.note(each, started, "refused")
            await storm.look(each.stream_id)
        else:
            storm.note(each, started, "acked", row["version"], row["position"])


async def killing(storm: Storm) -> None:
    """Kill a backend of the run-time role again and again, in the middle of whatever it does."""
    while not storm.over:
        storm.kills += bool(await storm.admin.fetchval(_KILL))
        await asyncio.sleep(KILL_EVERY * storm.dice.uniform(0.2, 1.8))


async def tailing(storm: Storm, seen: list[int]) -> None:
    """Follow the log as a reader does, by the last position it saw."""
    while not storm.over:
        seen += [row["position"] for row in await storm.admin.fetch(_TAIL, seen[-1] if seen else 0)]


async def test_a_storm_of_writers_leaves_a_dense_log_and_a_reader_that_missed_nothing(
    database: str, figures: Figures
) -> None:
    role = await migrated(database)
    async with AsyncExitStack() as stack:
        pools = [await open_pool(role, name=f"storm-{number}") for number in range(2)]
        admin = await asyncpg.create_pool(database, min_size=4, max_size=12, command_timeout=20)
        for pool in (*pools, admin):
            stack.callback(pool.terminate)
        logs = [await stack.enter_async_context(PostgresLog(pool)) for pool in pools]
        storm, seen = Storm(figures.dice, admin), list[int]()
        async with asyncio.TaskGroup() as tasks:
            for log in logs:
                for _ in range(CALLERS):
                    tasks.create_task(grouped(storm, log))
            for _ in range(2 * CALLERS):
                tasks.create_task(alone(storm, role))
            tasks.create_task(killing(storm))
            tasks.create_task(tailing(storm, seen))
        seen += [row["position"] for row in await admin.fetch(_TAIL, seen[-1] if seen else 0)]

    log = await read_log(database)
    ends = Counter(each.outcome for each in storm.history.operations)
    figures(
        committed=len(log.events),
        acknowledged=ends["acked"],
        refused_or_rolled_back=ends["refused"],
        unknown=ends["unknown"],
        backends_killed=storm.kills,
        p99_ms=statistics.quantiles(storm.waits, n=100)[98] * 1000,
        median_ms=statistics.median(storm.waits) * 1000,
        missed_by_the_tail=len({event.position for event in log.events} - set(seen)),
    )
    assert log_violations(log) == []
    assert command_violations(storm.history, log) == []
    assert seen == [event.position for event in log.events]
    assert min(ends["acked"], ends["refused"], storm.kills) > 10
