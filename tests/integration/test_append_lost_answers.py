"""The answer to a commit is lost, or one of a group is poison: each command happens once or not at all."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
import pytest

from keyledger.errors import Refusal
from keyledger.server.ids import new_id
from keyledger.server.postgres import Pool, open_pool
from services.keys.adapters.log import PostgresLog
from services.keys.adapters.states import PostgresStates
from services.keys.ports import AlreadyAnswered, Appended, Command, NewAnswer, NewEvent, VersionConflict
from tests.faults.checker import log_violations
from tests.faults.history import read_log
from tests.support.appending import NOW, append, blocked, command
from tests.support.gate import Gate
from tests.support.keys import as_role, migrated
from tests.support.waiting import until


class House:
    """A log behind a gate, and ways around it."""

    def __init__(self, gate: Gate, log: PostgresLog, pool: Pool, admin: asyncpg.Connection, dsn: str) -> None:
        self.gate, self.log, self.pool, self.admin, self.dsn = gate, log, pool, admin, dsn

    @property
    def kept(self) -> int:
        """How many of the pool's connections a log keeps for itself."""
        return self.pool.get_size() - self.pool.get_idle_size()

    async def positions(self, asked: Command) -> list[int]:
        """Where the command stands in the log."""
        rows = await self.admin.fetch(
            "SELECT position FROM ledger.event WHERE command_id = $1 ORDER BY position", asked.command_id
        )
        return [row["position"] for row in rows]

    async def recorded(self, *asked: Command) -> None:
        """Wait until all of them are committed, whoever has been told."""

        async def there() -> bool:
            return all([await self.positions(each) for each in asked])

        await until(there)

    async def waiting_for_a_lock(self) -> None:
        async def there() -> bool:
            return await blocked(self.admin)

        await until(there)

    async def hold_answers(self) -> None:
        """From here on what is sent arrives and no answer comes back."""
        # a statement that is prepared needs no answer to be executed
        await self.log.append(command())
        self.gate.freeze(only_answers=True)

    async def restart(self) -> None:
        """Cut what is open, and let new connections through."""
        await self.gate.cut()
        self.gate.thaw()
        await self.gate.open()

    async def sound(self) -> int:
        """The log is dense and chained; its head."""
        found = await read_log(self.dsn)
        assert log_violations(found) == []
        return found.head_position


@pytest.fixture
async def house(database: str) -> AsyncIterator[House]:
    await migrated(database)
    admin = await asyncpg.connect(database, timeout=5)
    async with Gate(database) as gate:
        pool = await open_pool(as_role(database, port=gate.port), name="test", least=2)
        async with PostgresLog(pool) as log:
            yield House(gate, log, pool, admin, database)
        pool.terminate()
    await admin.close()


@asynccontextmanager
async def head_locked(house: House) -> AsyncGenerator[asyncpg.Connection]:
    """While another connection holds the head, as an append that has not committed yet."""
    other = await asyncpg.connect(house.dsn, timeout=5)
    try:
        async with other.transaction():
            await other.execute("SELECT FROM ledger.log_head FOR UPDATE")
            yield other
    finally:
        await other.close()


async def outcome(log: PostgresLog, asked: Command) -> Appended | Exception:
    try:
        return await log.append(asked)
    except (VersionConflict, AlreadyAnswered, Refusal) as error:
        return error


async def test_what_was_committed_and_not_answered_is_found_by_its_command(house: House) -> None:
    asked = [command() for _ in range(20)]
    await house.hold_answers()
    appending = asyncio.gather(*map(house.log.append, asked))
    await house.recorded(asked[0])
    await house.restart()
    done = await appending
    assert [[each.position] for each in done] == [await house.positions(each) for each in asked]
    assert await house.sound() == 21


async def test_what_was_lost_before_its_commit_is_tried_again_and_happens_once(house: House) -> None:
    asked = [command() for _ in range(20)]
    async with head_locked(house):
        appending = asyncio.gather(*map(house.log.append, asked))
        await house.waiting_for_a_lock()
        await house.admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keyledger-test'"
        )
    done = await appending
    assert [[each.position] for each in done] == [await house.positions(each) for each in asked]
    assert await house.sound() == 20


async def test_a_first_try_that_still_runs_when_the_second_comes_counts_once(house: House) -> None:
    """The connection is gone, its backend is not: it commits while the retry waits behind its locks."""
    asked = command()
    async with head_locked(house):
        appending = asyncio.create_task(house.log.append(asked))
        await house.waiting_for_a_lock()
        await house.restart()

        async def both_wait() -> bool:
            waiting: int | None = await house.admin.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'keyledger-test' "
                "AND wait_event_type = 'Lock'"
            )
            return waiting == 2

        await until(both_wait)
    done = await appending
    assert await house.positions(asked) == [done.position]
    assert await house.sound() == 1


async def test_a_command_whose_fate_cannot_be_told_has_an_unknown_outcome(house: House) -> None:
    asked = command()
    await house.hold_answers()
    appending = asyncio.create_task(outcome(house.log, asked))
    await house.recorded(asked)
    await house.gate.cut()
    told = await appending
    assert isinstance(told, Refusal)
    assert told.code == "outcome_unknown"
    house.gate.thaw()
    await house.gate.open()
    assert isinstance(await outcome(house.log, command()), Appended)
    assert len(await house.positions(asked)) == 1


async def test_a_lock_that_does_not_come_says_nothing_about_the_first_try(house: House) -> None:
    """Told as not written, it would be written after all once the lock is free."""
    asked = command()
    async with head_locked(house):
        appending = asyncio.create_task(outcome(house.log, asked))
        await house.waiting_for_a_lock()
        await house.restart()
        told = await appending
    assert isinstance(told, Refusal)
    assert told.code == "outcome_unknown"


async def test_an_answer_that_was_kept_and_lost_is_the_command_s_own(house: House) -> None:
    answer = NewAnswer(secrets.token_bytes(32), b"hash", b"sealed", NOW * 2)
    asked = command(answer=answer)
    await house.hold_answers()
    appending = asyncio.create_task(outcome(house.log, asked))
    await house.recorded(asked)
    await house.restart()
    done = await appending
    assert isinstance(done, Appended)
    kept = await PostgresStates(house.pool).answer(answer.id, now=NOW)
    assert kept is not None
    assert kept.position == done.position
    assert isinstance(await outcome(house.log, command(answer=answer)), AlreadyAnswered)


_WRITERS = """
    SELECT pid FROM pg_stat_activity WHERE application_name = 'keyledger-test' AND query LIKE '%append%'
"""


async def test_a_connection_that_was_lost_between_two_groups_is_replaced(house: House) -> None:
    await house.log.append(command())
    (before,) = await house.admin.fetch(_WRITERS)
    await house.admin.execute("SELECT pg_terminate_backend($1)", before["pid"])

    async def gone() -> bool:
        return not await house.admin.fetch(_WRITERS)

    await until(gone)
    asked = [command() for _ in range(3)]
    done = await asyncio.gather(*map(house.log.append, asked))
    assert [[each.position] for each in done] == [await house.positions(each) for each in asked]
    await house.log.append(command())
    assert house.kept == 1
    assert await house.sound() == 5


async def test_a_connection_that_was_cut_while_it_waited_for_an_answer_is_replaced(house: House) -> None:
    for _ in range(3):
        asked = command()
        await house.hold_answers()
        appending = asyncio.create_task(house.log.append(asked))
        await house.recorded(asked)
        await house.restart()
        assert [(await appending).position] == await house.positions(asked)
    assert isinstance(await outcome(house.log, command()), Appended)
    assert house.kept == 1
    assert await house.sound() == 7


async def test_a_log_that_is_closed_leaves_the_pool_whole(house: House) -> None:
    """With a group under way, whose callers are told, and without."""
    async with PostgresLog(house.pool) as idle:
        await idle.append(command())
    async with head_locked(house):
        async with PostgresLog(house.pool) as busy:
            appending = [asyncio.create_task(outcome(busy, command())) for _ in range(3)]
            await house.waiting_for_a_lock()
            appending += [asyncio.create_task(outcome(busy, command()))]
            await asyncio.sleep(0)
        told = await asyncio.gather(*appending)
    assert [getattr(each, "code", "") for each in told] == ["outcome_unknown"] * 3 + ["unavailable"]
    assert house.kept == 0


POISON: dict[str, dict[str, Any]] = {
    "a state that is no JSON": {"body": b'{"name": '},
    "a state that JSON cannot hold": {"body": b'{"name":"\\u0000"}'},
    "a state that is no text": {"body": b"\xff\xfe"},
    "an actor that is no text": {"events": (NewEvent("key_changed", 1, "\ud800", "req", b"{}"),)},
    "a type with a zero byte": {"events": (NewEvent("key\x00", 1, "actor", "req", b"{}"),)},
    "a schema version out of range": {"events": (NewEvent("key_changed", 2**20, "a", "req", b"{}"),)},
    "a moment out of range": {"now": 2**70},
    "a kind that is none": {"kind": "nonsense"},
    "a stamp without a place": {"stamps": (("a", "b"),), "body": b"[1]"},
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
async def test_a_poisoned_companion_costs_only_itself(house: House, poison: dict[str, Any]) -> None:
    """A group holds it back with all the others; each is then run alone, and its words are in no log line."""
    asked = [command() for _ in range(12)]
    asked[5] = command(**poison)
    outcomes = await asyncio.gather(*(outcome(house.log, each) for each in asked))
    assert [isinstance(each, Appended) for each in outcomes] == [number != 5 for number in range(12)]
    assert getattr(outcomes[5], "code", "") == "internal_error"
    assert isinstance(await outcome(house.log, command()), Appended)
    assert await house.sound() == 12


async def test_a_command_whose_stream_is_locked_elsewhere_costs_only_itself(house: House) -> None:
    stuck = new_id("key")
    await house.log.append(command(stuck))
    other = await asyncpg.connect(house.dsn, timeout=5)
    try:
        async with other.transaction():
            await other.execute("SELECT FROM ledger.stream WHERE id = $1 FOR UPDATE", stuck)
            asked = [command(), command(stuck, 1), command()]
            told = await asyncio.gather(*(outcome(house.log, each) for each in asked))
    finally:
        await other.close()
    assert [isinstance(each, Appended) for each in told] == [True, False, True]
    assert getattr(told[1], "code", "") == "unavailable"
    assert isinstance(await outcome(house.log, command(stuck, 1)), Appended)
    assert await house.sound() == 4


async def test_a_stream_is_not_another_workspace_s_to_append_to(house: House) -> None:
    mine = command()
    await house.log.append(mine)
    for version in (0, 1):
        theirs = command(mine.stream_id, version, workspace=new_id("ws"))
        assert isinstance(await outcome(house.log, theirs), VersionConflict)
    state, _ = await PostgresStates(house.pool).get(mine.stream_id)
    assert state is not None
    assert (state.workspace_id, state.version) == (mine.workspace_id, 1)
    assert msgspec.json.decode(state.body)["name"] == "k"
    assert await house.sound() == 1


async def test_a_run_time_connection_in_a_transaction_of_its_own_keeps_the_rules(house: House) -> None:
    """The function promises its order to any caller, not only to the adapter."""
    role = await asyncpg.connect(as_role(house.dsn), timeout=5)
    try:
        async with role.transaction():
            first = await append(role, command(), command())
            second = await append(role, command())
        assert [row["position"] for row in (*first, *second)] == [1, 2, 3]
    finally:
        await role.close()
    assert await house.sound() == 3
