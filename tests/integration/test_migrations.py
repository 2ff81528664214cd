"""Bringing a database up to date: once, one at a time, with roles that can do no more than they need."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from keyledger.server.postgres import ROLES, MigrationError, migrate
from services.cli.provision import FOLDERS
from tests.support.keys import ROLE_PASSWORDS, as_role, migrated

LOG_TABLES = "log_head epoch stream event state workspace_key idempotency".split()
USE_TABLES = "use_head use_source use_batch use_record".split()


@pytest.fixture
async def role(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection as the key service's run-time role to a migrated database."""
    connection = await asyncpg.connect(await migrated(database), timeout=5)
    yield connection
    await connection.close()


async def test_a_second_time_applies_nothing(database: str) -> None:
    first = await migrate(database, FOLDERS, role_passwords=ROLE_PASSWORDS)
    assert list(dict.fromkeys(name.partition("/")[0] for name in first)) == ["keys", "usage", "dashboard"]
    assert {"keys/0001_log.sql", "keys/0002_use_log.sql"} <= set(first)
    assert await migrate(database, FOLDERS, role_passwords=ROLE_PASSWORDS) == []


async def test_of_two_at_once_one_applies_and_the_other_waits(database: str) -> None:
    answers = await asyncio.gather(
        *(migrate(database, FOLDERS, role_passwords=ROLE_PASSWORDS) for _ in range(4))
    )
    assert sorted(map(len, answers))[:3] == [0, 0, 0]
    assert max(map(len, answers)) >= 3


def copied(folder: Path) -> Path:
    """The key service's migrations in a place where they may be changed."""
    target = folder / "keys" / "adapters" / "migrations"
    shutil.copytree(FOLDERS[0], target)
    return target


async def test_a_file_that_was_applied_and_changed_is_an_error(database: str, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    await migrate(database, [folder])
    file = folder / "0002_use_log.sql"
    file.write_text(file.read_text() + "\n-- a word more\n")
    with pytest.raises(MigrationError, match=r"keys/0002_use_log\.sql .*changed"):
        await migrate(database, [folder])


async def test_a_file_that_fails_leaves_nothing_and_is_named(database: str, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    bad = folder / "9999_bad.sql"
    bad.write_text("CREATE TABLE ledger.half (a int);\nSELECT nothing;\n")
    with pytest.raises(MigrationError, match=r"keys/9999_bad\.sql"):
        await migrate(database, [folder])
    bad.write_text("CREATE TABLE ledger.half (a int);\n")
    assert await migrate(database, [folder]) == ["keys/9999_bad.sql"]


async def test_the_roles_have_no_power_over_the_server(database: str, role: asyncpg.Connection) -> None:
    rows = await role.fetch("SELECT * FROM pg_roles WHERE rolname = ANY($1)", list(ROLES))
    assert {row["rolname"] for row in rows} == set(ROLES)
    for row in rows:
        powers = ("rolsuper", "rolcreatedb", "rolcreaterole", "rolreplication", "rolbypassrls")
        assert not any(row[power] for power in powers)
    # roles are the server's: other databases may have let the dashboard's log in
    logins = {row["rolname"] for row in rows if row["rolcanlogin"]}
    assert logins - {"keyledger_dashboard"} == set(ROLE_PASSWORDS)
    member = (
        "SELECT m.member::regrole::text, m.roleid::regrole::text FROM pg_auth_members m "
        "WHERE m.member::regrole::text = ANY($1)"
    )
    # who may see how long others' transactions take is the one as whom nobody can log in
    members = [tuple(row) for row in await role.fetch(member, list(ROLES))]
    assert members == [("keyledger_owner", "pg_read_all_stats")]
    assert (await role.fetchval("SELECT current_user")) == "keyledger_keys"


@pytest.mark.parametrize("table", LOG_TABLES + USE_TABLES)
async def test_the_run_time_role_reads_the_log_and_cannot_touch_it(
    role: asyncpg.Connection, table: str
) -> None:
    await role.fetch(f"SELECT * FROM ledger.{table}")
    for statement in (
        f"INSERT INTO ledger.{table} SELECT * FROM ledger.{table}",
        f"DELETE FROM ledger.{table}",
        f"TRUNCATE ledger.{table}",
        f"DROP TABLE ledger.{table}",
        f"ALTER TABLE ledger.{table} ADD COLUMN x int",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await role.execute(statement)
    column = await role.fetchval(
        "SELECT column_name FROM information_schema.columns "
        "WHERE table_schema = 'ledger' AND table_name = $1 LIMIT 1",
        table,
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await role.execute(f'UPDATE ledger.{table} SET "{column}" = "{column}"')


async def test_the_run_time_role_makes_nothing_of_its_own(role: asyncpg.Connection) -> None:
    for statement in (
        "CREATE TABLE ledger.mine (a int)",
        "CREATE TABLE public.mine (a int)",
        "CREATE SCHEMA mine",
        "SET ROLE keyledger_owner",
        "SELECT * FROM usage.position",
        "UPDATE public.keyledger_migration SET name = name",
        "CREATE OR REPLACE FUNCTION ledger.field(value bytea) RETURNS bytea LANGUAGE sql RETURN value",
    ):
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedTableError)):
            await role.execute(statement)


async def test_other_roles_cannot_append(database: str) -> None:
    await migrated(database)
    usage = await asyncpg.connect(as_role(database, "keyledger_usage"), timeout=5)
    try:
        for statement in (
            "SELECT ledger.append('{}', '{}')",
            "SELECT * FROM ledger.event",
            "SELECT ledger.forget_answers(0)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await usage.execute(statement)
    finally:
        await usage.close()


async def test_not_even_the_owner_changes_the_past(database: str) -> None:
    await migrated(database)
    admin = await asyncpg.connect(database, timeout=5)
    row = "(1, 's', 1, 't', 1, 'w', 'a', 'r', 0, gen_random_uuid(), '', '')"
    try:
        await admin.execute(f"INSERT INTO ledger.event VALUES {row}")
        for statement in (
            "UPDATE ledger.event SET actor = 'b'",
            "DELETE FROM ledger.event",
            "TRUNCATE ledger.event",
        ):
            with pytest.raises(asyncpg.RestrictViolationError):
                await admin.execute(statement)
    finally:
        await admin.close()


@pytest.mark.parametrize("password", ["with'quote", "", "two words"])
async def test_a_password_that_cannot_be_quoted_is_refused(database: str, password: str) -> None:
    with pytest.raises(MigrationError, match="keyledger_keys"):
        await migrate(database, FOLDERS, role_passwords={"keyledger_keys": password})


async def test_uses_from_before_partitions_are_kept_and_counted(database: str, tmp_path: Path) -> None:
    """What an older version had recorded and folded is in its days, and in the counters of workspaces."""
    before: list[Path] = []
    for folder, last in zip(FOLDERS[:2], ("0011", "0004"), strict=True):
        target = tmp_path / folder.parent.parent.name / "adapters" / "migrations"
        shutil.copytree(folder, target)
        for path in target.glob("*.sql"):
            if path.name[:4] > last:
                path.unlink()
        before.append(target)
    await migrate(database, before)
    connection = await asyncpg.connect(database, timeout=5)
    try:
        for seq, at in enumerate((1, 86_400_000_000, 86_400_000_001)):
            await connection.execute(
                "SELECT ledger.record_uses('boot', $1, $2, '{ws_1}', '{key_1}', '{live}', '{0}', '{VALID}', "
                "'{2}', '{3}', '{4}')",
                seq,
                at,
            )
        counter = "INSERT INTO usage.use_hour VALUES ('ws_1', 0, $1, 'live', 'VALID', 3, 5)"
        for key in ("key_1", "key_2"):
            await connection.execute(counter, key)
        assert {"keys/0012_use_days.sql", "usage/0005_external_ids.sql"} <= set(
            await migrate(database, FOLDERS)
        )
        rows = await connection.fetch(
            "SELECT day, position, count, external_id FROM ledger.use_record ORDER BY 2"
        )
        assert [tuple(row) for row in rows] == [(0, 1, 2, ""), (1, 2, 2, ""), (1, 3, 2, "")]
        days = await connection.fetch("SELECT day, first FROM ledger.use_day ORDER BY day")
        assert [tuple(row) for row in days] == [(0, 1), (1, 2)]
        whole = await connection.fetch("SELECT bucket, outcome, environment, count, cost FROM usage.all_hour")
        assert [tuple(row) for row in whole] == [(0, "VALID", "live", 6, 10)]
    finally:
        await connection.close()
