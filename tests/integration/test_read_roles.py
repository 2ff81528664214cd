"""Row security behind the roles that people read with, and a past that no role changes."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from keyledger.events import Epoch
from keyledger.server.postgres import open_pool
from keyledger.wire import Use, UseBatch
from services.keys.adapters.log import PostgresLog
from services.keys.adapters.states import PostgresStates
from services.keys.adapters.uses import PostgresUseLog
from services.keys.ports import KeyFilter
from services.usage.adapters.deriving import derive
from services.usage.adapters.postgres import PostgresUsage
from services.usage.domain.tally import tally
from tests.support import servers_fresh as fresh
from tests.support.appending import command
from tests.support.keys import as_role, migrated

ONE, OTHER = "ws_" + "1" * 22, "ws_" + "2" * 22
SECRET = "the digest and the proof"
BODY = b'{"name":"billing","environment":"live","secrets":[{"proof":"the digest and the proof"}]}'
#: What a reader may ask for, one workspace's rows in each.
READABLE = {
    "ledger.event": "SELECT workspace_id FROM ledger.event",
    "ledger.stream": "SELECT workspace_id FROM ledger.stream",
    "ledger.use_record": "SELECT workspace_id FROM ledger.use_record",
    "ledger.membership": "SELECT workspace_id FROM ledger.membership",
    "ledger.keys_of_workspace": "SELECT workspace_id FROM ledger.keys_of_workspace()",
    "usage.use_minute": "SELECT workspace_id FROM usage.use_minute",
    "usage.use_hour": "SELECT workspace_id FROM usage.use_hour",
    "usage.use_day": "SELECT workspace_id FROM usage.use_day",
    "usage.all_hour": "SELECT workspace_id FROM usage.all_hour",
    "usage.by_hour": "SELECT workspace_id FROM usage.by_hour",
    "usage.of_workspace_by_day": "SELECT workspace_id FROM usage.of_workspace_by_day",
    "usage.last_use": "SELECT workspace_id FROM usage.last_use",
    "usage.key_last_used": "SELECT workspace_id FROM usage.key_last_used",
}


@pytest.fixture(scope="module")
async def filled(postgres_server: str) -> AsyncIterator[str]:
    """The administrator's DSN of a database with two workspaces in every table that readers read."""
    async with fresh.database(postgres_server) as dsn:
        pool = await open_pool(await migrated(dsn), name="test")
        uses = [Use(ws, "key_1", "live", 0, "VALID", 1, 1, 1) for ws in (ONE, OTHER)]
        async with PostgresLog(pool) as log:
            for workspace in (ONE, OTHER):
                await log.append(command(workspace=workspace, body=BODY))
            await PostgresUseLog(pool).record(UseBatch("boot", 0, tuple(uses)), now=1)
        await pool.close()
        admin = await asyncpg.connect(dsn, timeout=5)
        await admin.execute(
            "INSERT INTO ledger.membership SELECT ws, 'user_1', 'owner', 1, '', 2 FROM unnest($1::text[]) ws",
            [ONE, OTHER],
        )
        await admin.close()
        pool = await open_pool(as_role(dsn, "keyledger_usage"), name="test")
        epoch = Epoch(1, b"line-one")
        await PostgresUsage(pool).begin(epoch, 0)
        assert await PostgresUsage(pool).fold(epoch, 0, 1, tally(uses))
        await pool.close()
        yield dsn


@asynccontextmanager
async def login(admin_dsn: str, *roles: str) -> AsyncGenerator[asyncpg.Connection]:
    """A person's own login that was granted these roles."""
    name = f"person_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(admin_dsn, timeout=5)
    await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'test'")
    for role in roles:
        await admin.execute(f"GRANT {role} TO {name}")
    connection = await asyncpg.connect(as_role(admin_dsn, name), timeout=5)
    try:
        yield connection
    finally:
        await connection.close()
        await admin.execute(f"DROP ROLE {name}")
        await admin.close()


async def rows(connection: asyncpg.Connection, statement: str) -> list[str]:
    return sorted(row["workspace_id"] for row in await connection.fetch(statement))


@pytest.mark.parametrize("statement", READABLE.values(), ids=READABLE)
async def test_a_reader_sees_the_workspace_it_names_and_no_other(filled: str, statement: str) -> None:
    async with login(filled, "keyledger_reader") as reader:
        assert await rows(reader, statement) == [], "nothing is named yet"
        for workspace in (ONE, OTHER):
            await reader.execute("SELECT set_config('keyledger.workspace_id', $1, false)", workspace)
            assert await rows(reader, statement) == [workspace]
        async with reader.transaction():
            await reader.execute("SET LOCAL keyledger.workspace_id = ''")
            assert await rows(reader, statement) == []
        await reader.execute("RESET keyledger.workspace_id")
        assert await rows(reader, statement) == []


async def test_a_reader_sees_no_digest_no_proof_and_nothing_sealed(filled: str) -> None:
    async with login(filled, "keyledger_reader") as reader:
        await reader.execute("SELECT set_config('keyledger.workspace_id', $1, false)", ONE)
        for statement in (
            "SELECT data FROM ledger.event",
            "SELECT * FROM ledger.event",
            "SELECT body FROM ledger.state",
            "SELECT * FROM ledger.workspace_key",
            "SELECT * FROM ledger.idempotency",
            "SELECT * FROM ledger.log_head",
            "SELECT * FROM ledger.ended_session",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.fetch(statement)
        (key,) = await reader.fetch("SELECT * FROM ledger.keys_of_workspace()")
        assert (key["name"], key["environment"], key["enabled"]) == ("billing", "live", True)
        assert SECRET not in str(dict(key))


async def test_an_operator_sees_every_workspace_and_no_wrapped_key(filled: str) -> None:
    async with login(filled, "keyledger_operator") as operator:
        for name, statement in READABLE.items():
            if name.partition(".")[2] != "keys_of_workspace":
                assert await rows(operator, statement) == [ONE, OTHER], name
        assert await rows(operator, "SELECT workspace_id FROM ledger.state") == [ONE, OTHER]
        assert await operator.fetchval("SELECT position FROM ledger.log_head") == 2
        for table in ("workspace_key", "idempotency", "ended_session"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await operator.fetch(f"SELECT * FROM ledger.{table}")


async def test_who_was_granted_nothing_sees_nothing(filled: str) -> None:
    async with login(filled) as nobody:
        for statement in READABLE.values():
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await nobody.fetch(statement)


async def test_the_services_own_roles_read_every_row(filled: str) -> None:
    """Their queries name the workspace, or follow the whole log."""
    pool = await open_pool(as_role(filled), name="test")
    states = PostgresStates(pool)
    for workspace in (ONE, OTHER):
        found, head = await states.keys(workspace, KeyFilter(1), before=None, limit=10)
        assert [state.workspace_id for state in found] == [workspace]
        assert head.position == 2
        told, _ = await states.events(workspace, None, after=0, limit=10)
        assert [event.workspace_id for event in told] == [workspace]
    assert await pool.fetchval("SELECT count(*) FROM ledger.use_record") == 2
    await pool.close()


@pytest.mark.parametrize("role", ["keyledger_reader", "keyledger_operator"])
async def test_who_reads_writes_nothing(filled: str, role: str) -> None:
    async with login(filled, role) as reader:
        for statement in (
            "INSERT INTO ledger.event SELECT * FROM ledger.event",
            "UPDATE ledger.event SET actor = 'x'",
            "DELETE FROM ledger.event",
            "TRUNCATE ledger.event",
            "UPDATE ledger.state SET version = 9",
            "DELETE FROM ledger.erasure",
            "DELETE FROM ledger.use_record",
            "DELETE FROM usage.use_day",
            "SELECT ledger.append('{}', '{}')",
            "SELECT ledger.erase_some(1, 1)",
            f"SELECT ledger.stream_purged('{ONE}')",
            "SELECT ledger.forget_answers(0)",
            "SET ROLE keyledger_owner",
            "SET ROLE keyledger_keys",
            "CREATE TABLE ledger.mine (a int)",
            "ALTER TABLE ledger.event DISABLE ROW LEVEL SECURITY",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger.event SET actor = 'x'",
        "UPDATE ledger.event SET data = '' WHERE false OR position = 1",
        "DELETE FROM ledger.event",
        "DELETE FROM ledger.event USING ledger.state",
        "TRUNCATE ledger.event",
        "TRUNCATE ledger.event, ledger.state",
    ],
)
async def test_no_role_at_all_changes_the_past(filled: str, statement: str) -> None:
    """Rights stop the run-time roles, triggers the owner and even the administrator."""
    admin = await asyncpg.connect(filled, timeout=5)
    try:
        before = await admin.fetch("SELECT * FROM ledger.event ORDER BY position")
        for role in (
            *("keyledger_keys", "keyledger_usage", "keyledger_dashboard"),
            *("keyledger_reader", "keyledger_operator"),
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with admin.transaction():
                    await admin.execute(f"SET LOCAL ROLE {role}")
                    await admin.execute(statement)
        for role in ("keyledger_owner", "CURRENT_USER"):
            with pytest.raises(asyncpg.RestrictViolationError):
                async with admin.transaction():
                    if role != "CURRENT_USER":
                        await admin.execute(f"SET LOCAL ROLE {role}")
                    await admin.execute(statement)
        assert await admin.fetch("SELECT * FROM ledger.event ORDER BY position") == before
    finally:
        await admin.close()


async def test_every_table_with_a_workspace_is_closed_to_readers_or_under_row_security(filled: str) -> None:
    """A table that is added later must not be open by accident."""
    admin = await asyncpg.connect(filled, timeout=5)
    try:
        tables = await admin.fetch(
            "SELECT c.oid::regclass::text AS name, c.relrowsecurity AS secured FROM pg_class c "
            "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'workspace_id' "
            "WHERE c.relkind = 'r' AND c.relnamespace::regnamespace::text IN ('ledger', 'usage') "
            "AND (has_table_privilege('keyledger_reader', c.oid, 'SELECT') "
            "OR has_any_column_privilege('keyledger_reader', c.oid, 'SELECT'))"
        )
    finally:
        await admin.close()
    assert {table["name"] for table in tables} >= {"ledger.event", "usage.use_day"}
    assert [table["name"] for table in tables if not table["secured"]] == []


async def test_an_operator_may_prove_the_counters_and_a_reader_may_not(filled: str) -> None:
    whole_day = (ONE, 0, 86_400_000_000)
    async with login(filled, "keyledger_operator") as connection:
        found = await derive(connection, *whole_day)
    assert (found.uses, found.first) == (1, None)
    async with login(filled, "keyledger_reader") as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await derive(connection, *whole_day)
