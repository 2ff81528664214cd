"""The database chains as the library does: same hashes, dense positions, and nothing is ever rewritten."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import msgspec
import pytest

from keyledger.events import GENESIS, Recorded, chain_hash
from keyledger.server.postgres import Pool, migrate, open_pool
from services.keys.adapters import log as adapter
from services.keys.adapters.log import PostgresLog
from services.keys.ports import Command, NewEvent, VersionConflict
from tests.contract.wire_examples import AT, CHAIN, EPOCH_LINE, KEY, WS, golden

MIGRATIONS = Path(adapter.__file__).parent / "migrations"
_EVENTS = "SELECT * FROM ledger.event ORDER BY position"
_HASH = "SELECT ledger.chain_hash($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"


@pytest.fixture
async def admin(database: str) -> AsyncIterator[asyncpg.Connection]:
    """An administrator's connection to a migrated database."""
    await migrate(
        database, [MIGRATIONS], role_passwords={"keyledger_keys": "test", "keyledger_usage": "test"}
    )
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
async def pool(admin: asyncpg.Connection, database: str) -> AsyncIterator[Pool]:
    """The key service's pool, as its run-time role."""
    del admin
    parts = urlsplit(database)
    host = parts.netloc.rpartition("@")[2]
    opened = await open_pool(parts._replace(netloc=f"keyledger_keys:test@{host}").geturl(), name="test")
    yield opened
    await opened.close()


@pytest.fixture
async def log(pool: Pool) -> AsyncIterator[PostgresLog]:
    """The log as the key service writes it."""
    async with PostgresLog(pool) as opened:
        yield opened


def command(
    number: int, *events: NewEvent, stream: str = KEY, version: int = 0, workspace: str = WS, now: int = AT
) -> Command:
    return Command(
        command_id=UUID(int=number),
        stream_id=stream,
        kind="workspace" if stream.startswith("ws_") else "key",
        workspace_id=workspace,
        expected_version=version,
        now=now,
        events=events,
        body=b'{"id":"x","created_at":-1}',
        stamps=(("created_at",),),
    )


def event(number: int, data: bytes = b"{}") -> NewEvent:
    return NewEvent("key_changed", 1, f"actor-{number}", f"req_{number}", data)


async def read(admin: asyncpg.Connection) -> list[Recorded]:
    """Every event, each with the hash of the one before it."""
    previous, found = GENESIS, list[Recorded]()
    for row in await admin.fetch(_EVENTS):
        fields = {field: row[field] for field in Recorded.__struct_fields__ if field != "previous_hash"}
        found.append(Recorded(**fields, previous_hash=previous))
        previous = row["hash"]
    return found


async def test_the_golden_chain_has_the_same_hashes_in_sql(admin: asyncpg.Connection) -> None:
    previous = GENESIS
    for link, expected in zip(CHAIN, golden("chain.json"), strict=True):
        previous = await admin.fetchval(
            _HASH,
            previous,
            EPOCH_LINE,
            link.position,
            link.stream_id,
            link.version,
            link.type,
            link.schema_version,
            link.workspace_id,
            link.actor,
            link.request_id,
            link.at,
            link.data,
        )
        assert isinstance(previous, bytes)
        assert previous.hex() == expected


async def test_what_is_appended_is_chained_from_genesis_at_dense_positions(
    log: PostgresLog, admin: asyncpg.Connection
) -> None:
    """One after the other: events of one command, odd bytes, a conflict and a clock that goes back."""
    first = await log.append(command(1, event(1), event(2, bytes(range(256))), stream=WS))
    assert (first.version, first.position, first.at) == (2, 2, AT)
    second = await log.append(command(2, event(3, b""), now=AT - 5_000_000))
    assert (second.version, second.position, second.at) == (1, 3, AT), "time does not go back in the log"
    with pytest.raises(VersionConflict):
        await log.append(command(3, event(4), version=9))
    with pytest.raises(VersionConflict):
        await log.append(command(4, event(5), version=1, workspace="ws_other"))
    third = await log.append(command(5, event(6, "Ünïcode 🔑".encode()), version=1, now=AT + 7))
    assert (third.version, third.position, third.at) == (2, 4, AT + 7)

    found = await read(admin)
    assert [one.position for one in found] == [1, 2, 3, 4]
    assert [(one.stream_id, one.version) for one in found] == [(WS, 1), (WS, 2), (KEY, 1), (KEY, 2)]
    assert [one.request_id for one in found] == ["req_1", "req_2", "req_3", "req_6"]
    assert [one.data for one in found][1:3] == [bytes(range(256)), b""]
    for one in found:
        assert one.hash == chain_hash(one.previous_hash, first.epoch.line, one)
    head = await admin.fetchrow("SELECT * FROM ledger.log_head")
    assert head is not None
    assert (head["position"], head["hash"], head["at"]) == (4, found[-1].hash, AT + 7)


async def test_concurrent_commands_leave_no_hole_and_no_fork(
    log: PostgresLog, admin: asyncpg.Connection, pool: Pool
) -> None:
    """Two writers, as two processes would be; half of the commands are refused."""
    async with PostgresLog(pool) as other:
        asked = [
            (log if number % 2 else other).append(
                command(number, event(number), stream=f"key_{number}", version=9 if number % 4 == 0 else 0)
            )
            for number in range(1, 81)
        ]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(outcome, VersionConflict) for outcome in outcomes) == 20
    found = await read(admin)
    assert [one.position for one in found] == list(range(1, 61))
    line = await admin.fetchval("SELECT epoch_line FROM ledger.log_head")
    assert isinstance(line, bytes)
    for one in found:
        assert one.hash == chain_hash(one.previous_hash, line, one)


async def test_the_state_beside_the_log_takes_the_moment_of_the_commit(
    log: PostgresLog, admin: asyncpg.Connection
) -> None:
    await log.append(command(1, event(1), stream=WS, now=AT + 9))
    appended = await log.append(command(2, event(2), now=AT))
    state = await admin.fetchrow("SELECT * FROM ledger.state WHERE stream_id = $1", KEY)
    assert state is not None
    assert msgspec.json.decode(state["body"]) == {"id": "x", "created_at": appended.at}
    assert appended.at == AT + 9
    assert (state["version"], state["position"], state["created_position"]) == (1, 2, 2)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger.event SET actor = 'someone else' WHERE position = 1",
        "DELETE FROM ledger.event WHERE position = 1",
        "TRUNCATE ledger.event",
        "TRUNCATE ledger.event CASCADE",
    ],
)
async def test_not_even_an_administrator_rewrites_the_log(
    log: PostgresLog, admin: asyncpg.Connection, statement: str
) -> None:
    """Someone who drops the triggers first can; the chain then tells, against a head kept elsewhere."""
    await log.append(command(1, event(1)))
    before = await read(admin)
    with pytest.raises(asyncpg.RestrictViolationError):
        await admin.execute(statement)
    assert await read(admin) == before


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO ledger.event SELECT * FROM ledger.event",
        "UPDATE ledger.event SET actor = ''",
        "DELETE FROM ledger.event",
        "TRUNCATE ledger.event",
        "UPDATE ledger.log_head SET position = 0",
        "INSERT INTO ledger.state SELECT * FROM ledger.state",
        "DELETE FROM ledger.state",
        "INSERT INTO ledger.stream VALUES ('key_x', 'ws_x', 0)",
        "DELETE FROM ledger.workspace_key",
        "DELETE FROM ledger.idempotency",
        "INSERT INTO ledger.use_batch VALUES (1, 'boot', 0, 0)",
        "ALTER TABLE ledger.event DISABLE TRIGGER ALL",
        "SET ROLE keyledger_owner",
        "CREATE TABLE ledger.mine ()",
    ],
)
async def test_the_run_time_role_writes_only_through_the_append(
    log: PostgresLog, pool: Pool, admin: asyncpg.Connection, statement: str
) -> None:
    await log.append(command(1, event(1)))
    before = await read(admin)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await pool.execute(statement)
    assert await read(admin) == before


async def test_the_usage_role_sees_nothing_of_the_log(admin: asyncpg.Connection) -> None:
    async with admin.transaction():
        await admin.execute("SET LOCAL ROLE keyledger_usage")
        for statement in ("SELECT * FROM ledger.event", "SELECT ledger.forget_answers(0)"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with admin.transaction():
                    await admin.execute(statement)
