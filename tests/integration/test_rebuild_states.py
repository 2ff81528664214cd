"""`keyledger project rebuild --only state`: the states are what the log says again, while others append."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.command import Done, keyledger
from tests.support.keys import House, Keys, house
from tests.support.servers import Servers
from tests.support.tampering import superuser, tamper

_IDENTITY = """
    SELECT c.oid::bigint, c.relacl::text, c.relrowsecurity,
           (SELECT array_agg(indexrelid::regclass::text ORDER BY 1) FROM pg_index WHERE indrelid = c.oid),
           (SELECT array_agg(polname::text ORDER BY 1) FROM pg_policy WHERE polrelid = c.oid)
      FROM pg_class c WHERE c.oid = 'ledger.state'::regclass
"""
_BESIDE = "SELECT count(*) FROM pg_class WHERE relname LIKE 'state%beside%' AND relkind = 'r'"


@pytest.fixture
async def found(servers: Servers, tmp_path: Path) -> AsyncIterator[House]:
    async with house(servers, tmp_path / "home") as found:
        yield found


async def rebuilt(found: House, folder: Path) -> Done:
    return await keyledger(
        "project",
        "rebuild",
        "--only",
        "state",
        home=folder / "none",
        KEYLEDGER_POSTGRES=found.admin_dsn,
        KEYLEDGER_SEAL_SECRET_FILE=found.home.seal,
    )


async def verified(found: House, folder: Path) -> str:
    done = await keyledger(
        "audit",
        "verify",
        home=folder / "none",
        KEYLEDGER_POSTGRES=found.postgres,
        KEYLEDGER_SEAL_SECRET_FILE=found.home.seal,
    )
    return done.good()


class Writers:
    """Many who create, change, rotate and revoke keys until told to stop; every call has to succeed."""

    def __init__(self, found: House, ws: str) -> None:
        self.found = found
        self.ws = ws
        self.calls = 0
        self.stop = asyncio.Event()
        self.last: dict[str, dict[str, Any]] = {}

    async def write(self, number: int) -> None:
        admin, keys = self.found.admin, Keys(self.ws)
        while not self.stop.is_set():
            made = await self.found.key(self.ws, name=f"writer {number}")
            at = keys.one(made["id"])
            for method, path, body in (
                ("PATCH", at, {"name": f"renamed {self.calls}", "metadata": {"n": str(self.calls)}}),
                ("POST", f"{at}/rotate", {"overlap_seconds": 60}),
                ("POST", f"{at}/revoke", {}),
            ):
                self.last[made["id"]] = await admin.ok(method, path, body)
                self.calls += 1

    async def __aenter__(self) -> Writers:
        self.tasks = [asyncio.create_task(self.write(number)) for number in range(6)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.stop.set()
        await asyncio.gather(*self.tasks)


async def test_wrong_lost_and_invented_states_are_mended_while_others_append(
    found: House, tmp_path: Path
) -> None:
    ws = await found.workspace()
    wrong, lost = await found.key(ws, name="wrong"), await found.key(ws, name="lost")
    dsn = found.admin_dsn
    async with superuser(dsn) as admin:
        before = await admin.fetchrow(_IDENTITY)
    await tamper(
        dsn,
        'UPDATE ledger.state SET body = body || \'{"name": "forged"}\', version = 7 WHERE stream_id = $1',
        wrong["id"],
    )
    await tamper(dsn, "DELETE FROM ledger.state WHERE stream_id = $1", lost["id"])
    await tamper(
        dsn,
        "INSERT INTO ledger.state SELECT $1, kind, workspace_id, 1, 1, 1, body FROM ledger.state"
        " WHERE kind = 'key' LIMIT 1",
        "key_" + "z" * 22,
    )

    async with Writers(found, ws) as writers:
        done = await rebuilt(found, tmp_path)
        during = writers.calls
    said = done.good()
    assert "3 states were not what the log says" in said
    assert "streams are what a fresh fold says" in said
    assert during > 0, "nothing was appended meanwhile"

    head = await found.head()
    assert f"position {head}," in await verified(found, tmp_path)
    mended = await found.admin.ok("GET", Keys(ws).one(wrong["id"]))
    assert (mended["name"], mended["version"]) == ("wrong", 1)
    for key_id, told in writers.last.items():
        now = await found.admin.ok("GET", Keys(ws).one(key_id))
        assert (now["version"], now["name"]) == (told["version"], told["name"])
    async with superuser(dsn) as admin:
        assert await admin.fetchrow(_IDENTITY) == before, "rights, policies and indexes stayed"
        assert await admin.fetchval(_BESIDE) == 0


async def test_where_everything_is_wrong_rows_are_brought_over_in_batches_while_others_append(
    found: House, tmp_path: Path
) -> None:
    ws, other = await found.workspace(), await found.workspace("other")
    for _ in range(30):
        await asyncio.gather(*(found.key(ws, name="one of many") for _ in range(20)))
    await tamper(
        found.admin_dsn,
        "UPDATE ledger.state SET body = body || '{\"enabled\": false}'"
        " WHERE workspace_id = $1 AND kind = 'key'",
        ws,
    )
    async with Writers(found, other):
        said = (await rebuilt(found, tmp_path)).good()
    assert "bringing them over batch by batch" in said
    assert "600 states were not what the log says" in said
    await verified(found, tmp_path)
    listed = await found.admin.ok("GET", f"{Keys(ws).all}?limit=200")
    assert {key["status"] for key in listed["keys"]} == {"active"}


async def test_members_are_mended_in_the_state_and_in_the_table_beside_it(
    found: House, tmp_path: Path
) -> None:
    dsn = found.admin_dsn
    users = ["user_" + digit * 22 for digit in "12345"]
    spoilt, untouched = await found.workspace(), await found.workspace()
    for ws in (spoilt, untouched):
        for user in users:
            await found.admin.ok("PUT", f"/v1/workspaces/{ws}/members/{user}", {"role": "member"})
    before = {ws: await found.admin.ok("GET", f"/v1/workspaces/{ws}/members") for ws in (spoilt, untouched)}
    async with superuser(dsn) as admin:
        rows = await admin.fetch("SELECT * FROM ledger.membership ORDER BY 1, 2")
    await tamper(dsn, "UPDATE ledger.membership SET role = 'owner' WHERE user_id = $1", users[0])
    await tamper(dsn, "DELETE FROM ledger.membership WHERE user_id = $1", users[1])
    await tamper(
        dsn,
        "INSERT INTO ledger.membership SELECT workspace_id, 'user_9', 'owner', 1, 'key_1', 2"
        " FROM ledger.membership WHERE user_id = $1",
        users[2],
    )
    state = "UPDATE ledger.state SET body = body #- $2::text[] WHERE stream_id = $1"
    await tamper(dsn, state, spoilt, ["members", users[3]])

    (await rebuilt(found, tmp_path)).good()

    await verified(found, tmp_path)
    async with superuser(dsn) as admin:
        assert await admin.fetch("SELECT * FROM ledger.membership ORDER BY 1, 2") == rows
    for ws, members in before.items():
        assert await found.admin.ok("GET", f"/v1/workspaces/{ws}/members") == members


async def test_a_deleted_workspace_does_not_come_back(found: House, tmp_path: Path) -> None:
    ws = await found.workspace("gone")
    gone = await found.key(ws)
    assert (await found.admin("DELETE", f"/v1/workspaces/{ws}")).status_code == 202
    (await rebuilt(found, tmp_path)).good()
    assert "of deleted workspaces" in await verified(found, tmp_path)
    async with superuser(found.admin_dsn) as admin:
        left = await admin.fetch(
            "SELECT stream_id FROM ledger.state WHERE stream_id = ANY($1)", [ws, gone["id"]]
        )
    assert left == []


async def test_a_rebuild_that_was_killed_leaves_nothing_in_the_way(found: House, tmp_path: Path) -> None:
    connection = await asyncpg.connect(found.admin_dsn)
    await connection.execute("SET ROLE keyledger_owner")
    await connection.execute("CREATE TABLE ledger.state_beside (LIKE ledger.state INCLUDING ALL)")
    await connection.close()
    (await rebuilt(found, tmp_path)).good()


async def test_it_needs_the_owner_and_the_seal_secret(found: House, tmp_path: Path) -> None:
    words = ("project", "rebuild", "--only", "state")
    unsealed = await keyledger(*words, home=tmp_path / "none", KEYLEDGER_POSTGRES=found.admin_dsn)
    assert "KEYLEDGER_SEAL_SECRET_FILE" in unsealed.failed()
    as_reader = await keyledger(
        *words,
        home=tmp_path / "none",
        KEYLEDGER_POSTGRES=found.postgres,
        KEYLEDGER_SEAL_SECRET_FILE=found.home.seal,
    )
    assert "the database refuses" in as_reader.failed()
