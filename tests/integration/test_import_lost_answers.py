"""The answer to an import's commit is lost: its keys are there once, all of them, and its caller hears so."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest

from keyledger.errors import Refusal
from keyledger.server.postgres import Pool, open_pool
from services.keys.adapters.imports import PostgresImports
from services.keys.adapters.states import PostgresStates
from services.keys.ports import Appended, Command, TokensTaken
from tests.faults.checker import log_violations
from tests.faults.history import read_log
from tests.support.appending import command
from tests.support.gate import Gate
from tests.support.keys import as_role, migrated
from tests.support.waiting import until

KEYS = 3
#: A commit that waits for as long as somebody holds the advisory lock.
SLOW_COMMIT = """
    CREATE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON ledger.foreign_token
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_at_commit();
"""
_AT_LOCKS = """
    SELECT array_agg(wait_event ORDER BY wait_event) FROM pg_stat_activity
     WHERE application_name = 'keyledger-test' AND wait_event_type = 'Lock'
"""


class House:
    """Imports behind a gate, a commit that can be held up, and ways around both."""

    def __init__(self, gate: Gate, pool: Pool, admin: asyncpg.Connection, dsn: str) -> None:
        self.gate, self.pool, self.admin, self.dsn = gate, pool, admin, dsn
        self.commits = 0
        self.imports = PostgresImports(pool, on_commit=self._committed)
        self.names = [secrets.token_bytes(32) for _ in range(KEYS)]
        self.commands = [command() for _ in range(KEYS)]

    def _committed(self) -> None:
        self.commits += 1

    def append(self) -> "asyncio.Task[Sequence[Appended] | Exception]":
        """Begin to import; what comes of it."""

        async def outcome() -> Sequence[Appended] | Exception:
            try:
                return await self.imports.append(self.names, self.commands)
            except (Refusal, TokensTaken) as error:
                return error

        return asyncio.create_task(outcome())

    @asynccontextmanager
    async def held_up(self) -> AsyncGenerator[None]:
        """Nothing commits meanwhile."""
        await self.admin.execute("SELECT pg_advisory_lock(42)")
        try:
            yield
        finally:
            await self.admin.execute("SELECT pg_advisory_unlock(42)")

    async def waiting(self, *events: str) -> None:
        """Wait until the import's connections wait for these locks."""

        async def there() -> bool:
            return (await self.admin.fetchval(_AT_LOCKS) or []) == list(events)

        await until(there, describe=f"waiting for {events}")

    async def positions(self, commands: Sequence[Command]) -> list[int]:
        """Where the commands stand in the log."""
        rows = await self.admin.fetch(
            "SELECT position FROM ledger.event WHERE command_id = ANY ($1) ORDER BY position",
            [each.command_id for each in commands],
        )
        return [row["position"] for row in rows]

    async def recorded(self) -> None:
        """Wait until the keys are committed, whoever has been told."""

        async def there() -> bool:
            return len(await self.positions(self.commands)) == KEYS

        await until(there)

    async def restart(self) -> None:
        """Cut what is open, and let new connections through."""
        await self.gate.cut()
        self.gate.thaw()
        await self.gate.open()

    async def is_told(self, done: Sequence[Appended] | Exception) -> None:
        """The import succeeded, once, and its caller knows where."""
        assert not isinstance(done, Exception), done
        assert [each.position for each in done] == [1, 2, 3] == await self.positions(self.commands)
        assert {each.version for each in done} == {1}
        assert self.commits == 1
        assert {each.epoch for each in done} == {(await PostgresStates(self.pool).head()).epoch}
        assert log_violations(await read_log(self.dsn)) == []
        assert await self.imports.taken(self.names) == [0, 1, 2]
        assert [await self.imports.key_of(name) for name in self.names] == [
            each.stream_id for each in self.commands
        ]


@pytest.fixture
async def house(database: str) -> AsyncIterator[House]:
    await migrated(database)
    admin = await asyncpg.connect(database, timeout=5)
    await admin.execute(SLOW_COMMIT)
    async with Gate(database) as gate:
        pool = await open_pool(as_role(database, port=gate.port), name="test", least=2)
        yield House(gate, pool, admin, database)
        pool.terminate()
    await admin.close()


async def test_what_was_committed_and_not_answered_is_found_by_its_commands(house: House) -> None:
    async with house.held_up():
        importing = house.append()
        await house.waiting("advisory")
        house.gate.freeze(only_answers=True)
    await house.recorded()
    await house.restart()
    await house.is_told(await importing)


async def test_what_was_lost_before_its_commit_is_tried_again_and_happens_once(house: House) -> None:
    async with house.held_up():
        importing = house.append()
        await house.waiting("advisory")
        await house.admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keyledger-test'"
        )
    await house.is_told(await importing)


async def test_a_first_try_that_still_commits_when_the_second_comes_counts_once(house: House) -> None:
    async with house.held_up():
        importing = house.append()
        await house.waiting("advisory")
        await house.restart()
        await house.waiting("advisory", "transactionid")
    await house.is_told(await importing)


async def test_an_import_whose_fate_cannot_be_told_has_an_unknown_outcome(house: House) -> None:
    async with house.held_up():
        importing = house.append()
        await house.waiting("advisory")
        await house.gate.cut()
        told = await importing
    assert isinstance(told, Refusal)
    assert told.code == "outcome_unknown"
    await house.recorded()
    await house.gate.open()
    again = await house.append()
    assert isinstance(again, TokensTaken)
    assert again.places == (0, 1, 2)


async def test_a_connection_lost_before_everything_was_sent_wrote_nothing(house: House) -> None:
    other = await asyncpg.connect(house.dsn, timeout=5)
    async with other.transaction():
        await other.execute("SELECT FROM ledger.log_head FOR UPDATE")
        importing = house.append()
        await house.waiting("transactionid")
        await house.gate.cut()
        told = await importing
    await other.close()
    assert isinstance(told, Refusal)
    assert told.code == "unavailable"
    await house.gate.open()
    await house.is_told(await house.append())
