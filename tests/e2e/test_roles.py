"""The services of the local run reach Postgres as roles that own nothing and cannot write past the append."""

from __future__ import annotations

import json

import asyncpg
import pytest

from infra.local.settings import PORT_OFFSETS
from tests.support.system import System


async def connect(system: System, role: str) -> asyncpg.Connection:
    """As this role, with the password that the local run gave it."""
    return await asyncpg.connect(
        host="127.0.0.1",
        port=system.base + PORT_OFFSETS["postgres"],
        user=role,
        password=json.loads((system.home / "postgres.json").read_text())[role],
        database="postgres",
        timeout=5,
    )


async def test_the_services_connect_as_neither_owner_nor_superuser(system: System) -> None:
    admin = await connect(system, "keyledger")
    rows = await admin.fetch(
        "SELECT DISTINCT r.* FROM pg_stat_activity a JOIN pg_roles r ON r.rolname = a.usename "
        "WHERE a.application_name LIKE 'keyledger-%'"
    )
    owned = await admin.fetchval(
        "SELECT count(*) FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner "
        "WHERE r.rolname IN ('keyledger_keys', 'keyledger_usage', 'keyledger_dashboard')"
    )
    await admin.close()
    assert {row["rolname"] for row in rows} == {"keyledger_keys", "keyledger_usage", "keyledger_dashboard"}
    for row in rows:
        assert not (row["rolsuper"] or row["rolbypassrls"] or row["rolcreaterole"] or row["rolcreatedb"])
    assert owned == 0


@pytest.mark.parametrize("role", ["keyledger_keys", "keyledger_usage", "keyledger_dashboard"])
async def test_the_services_have_no_insert_on_the_log(system: System, role: str) -> None:
    connection = await connect(system, role)
    for statement in (
        "INSERT INTO ledger.event SELECT * FROM ledger.event",
        "UPDATE ledger.event SET actor = ''",
        "DELETE FROM ledger.event",
        "TRUNCATE ledger.event",
        "UPDATE ledger.log_head SET position = 0",
        "SET ROLE keyledger_owner",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()
