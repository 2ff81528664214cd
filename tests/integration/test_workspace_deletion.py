"""A workspace is forgotten: who may, what is answered, what is left nowhere, and a chain that verifies."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from keyledger import events, wire
from keyledger.errors import Refusal
from keyledger.events import GENESIS, Recorded, chain_hash
from keyledger.server.log_stream import KEY_LOG, USE_LOG
from keyledger.server.postgres import open_pool
from keyledger.verification.bus import NatsBus
from keyledger.verification.ports import USES_SUBJECT
from keyledger.verification.store import MemoryStore
from keyledger.wire import ErasedUses, Use, UseBatch
from services.keys.adapters.log import PostgresLog
from services.keys.ports import Command, NewEvent
from tests.support import servers_fresh as fresh
from tests.support.erased import administrator, broker, erased, followed, line_of, messages
from tests.support.keys import Home, House, Keys, everything_stored, house, migrated, refused, running
from tests.support.servers import Servers
from tests.support.waiting import until

WORDS = {
    "name": "Kanarienvogel",
    "external_id": "customer-4711",
    "metadata": {"colour": "canary-yellow"},
    "allowed_ips": ["203.0.113.77/32"],
}
CANARIES = [
    b"Kanarienvogel",
    b"customer-4711",
    b"canary-yellow",
    b"203.0.113.77",
    b"Canary Ltd",
    b"a canary note",
]


@pytest.fixture(scope="module")
async def here(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(servers, tmp_path_factory.mktemp("home")) as found:
        yield found


async def in_the_stream(here: House) -> bytes:
    """Every message of the key log's stream."""
    async with broker(here) as bus:
        stored = await messages(bus, KEY_LOG.stream_of(await line_of(here)))
    return b"\n".join(message.body for message in stored)


async def verified(here: House) -> int:
    """Recompute the chain of the whole log; the head's position."""
    async with administrator(here) as connection:
        head = await connection.fetchrow("SELECT * FROM ledger.log_head")
        rows = await connection.fetch("SELECT * FROM ledger.event ORDER BY position")
    assert head is not None
    previous = GENESIS
    for position, row in enumerate(rows, 1):
        fields = {field: row[field] for field in Recorded.__struct_fields__ if field != "previous_hash"}
        assert row["position"] == position
        assert (
            chain_hash(previous, head["epoch_line"], Recorded(**fields, previous_hash=previous))
            == row["hash"]
        )
        previous = row["hash"]
    assert (head["position"], head["hash"]) == (len(rows), previous)
    return len(rows)


def deletion(ws: str, version: int) -> Command:
    """A deletion as the writer appends it."""
    event = NewEvent("workspace_deleted", 1, "system", "req", b"{}")
    return command(ws, ws, version, event, kind="workspace")


def command(stream: str, ws: str, version: int, *new: NewEvent, kind: Any = "key") -> Command:
    body = b'{"name":"Kanarienvogel","environment":"live"}'
    return Command(UUID(bytes=secrets.token_bytes(16)), stream, kind, ws, version, 1, new, body)


async def test_a_deletion_is_accepted_and_nothing_is_there_any_more(here: House) -> None:
    ws = await here.workspace()
    keys, key = Keys(ws), await here.key(ws)
    manager = await here.manager(ws, "keys:read", "keys:write", "workspace:write")
    gone = await here.admin("DELETE", keys.workspace)
    assert gone.status_code == 202
    assert gone.json() == {"id": ws, "position": await here.head(), "epoch": key["epoch"]}
    for method, path, body in (
        ("GET", keys.workspace, None),
        ("DELETE", keys.workspace, None),
        ("PATCH", keys.workspace, {"name": "n"}),
        ("GET", keys.all, None),
        ("GET", f"{keys.all}?as_of={key['position']}", None),
        ("POST", keys.all, {"name": "k", "environment": "live"}),
        ("GET", keys.one(key["id"]), None),
        ("GET", f"{keys.one(key['id'])}?as_of={key['position']}", None),
        ("PATCH", keys.one(key["id"]), {"name": "n"}),
        ("POST", keys.one(key["id"], "rotate"), {}),
        ("POST", keys.one(key["id"], "revoke"), {}),
        ("GET", keys.one(key["id"], "events"), None),
        ("GET", keys.events, None),
        ("POST", "/v1/authorize", {"workspace_id": ws, "scope": "keyledger:usage:read"}),
    ):
        refused(await here.admin(method, path, body), 404, "not_found")
    refused(await manager("GET", keys.all), 401, "invalid_api_key")
    listed = await here.admin.ok("GET", "/v1/workspaces?limit=200")
    assert ws not in [workspace["id"] for workspace in listed["workspaces"]]
    assert await here.head() == gone.json()["position"]


async def test_only_operators_delete_and_the_system_workspace_stays(here: House) -> None:
    ws, other = await here.workspace(), await here.workspace()
    manager = await here.manager(ws, "keys:read", "keys:write", "workspace:write", "usage:read")
    before = await here.head()
    refused(await manager("DELETE", Keys(ws).workspace), 403, "insufficient_permissions")
    refused(await manager("DELETE", Keys(other).workspace), 404, "not_found")
    refused(await here.nobody("DELETE", Keys(ws).workspace), 401, "missing_api_key")
    refused(await here.admin("DELETE", Keys(here.system_ws).workspace), 409, "conflict")
    refused(await here.admin("DELETE", "/v1/workspaces/nonsense"), 404, "not_found")
    refused(await here.admin("DELETE", f"{Keys(ws).workspace}?force=1"), 400, "invalid_request", "force")
    assert await here.head() == before
    assert (await here.admin("GET", Keys(ws).workspace)).status_code == 200


async def test_a_deletion_may_name_the_version_it_means(here: House) -> None:
    ws = await here.workspace()
    await here.admin.ok("PATCH", Keys(ws).workspace, {"name": "Second"})
    stale = await here.admin("DELETE", Keys(ws).workspace, headers={"If-Match": '"1"'})
    refused(stale, 412, "precondition_failed", "If-Match")
    refused(
        await here.admin("DELETE", Keys(ws).workspace, headers={"If-Match": "2"}),
        400,
        "invalid_request",
        "If-Match",
    )
    gone = await here.admin("DELETE", Keys(ws).workspace, headers={"If-Match": '"2"'})
    assert gone.status_code == 202


async def test_of_many_at_once_one_deletes(here: House) -> None:
    ws = await here.workspace()
    answers = await asyncio.gather(*(here.admin("DELETE", Keys(ws).workspace) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] + [404] * 7


async def test_what_people_typed_is_nowhere_and_the_chain_verifies(here: House) -> None:
    idempotent = {"Idempotency-Key": "canary"}
    made = await here.admin("POST", "/v1/workspaces", {"name": "Canary Ltd"}, headers=idempotent)
    ws = made.json()["id"]
    created = await here.admin("POST", Keys(ws).all, {"environment": "live", **WORDS}, headers=idempotent)
    key = created.json()
    await here.admin.ok("POST", Keys(ws).one(key["id"], "revoke"), {"note": "a canary note"})
    stays = await here.key(await here.workspace("Stays"), name="stays")

    async def published() -> bool:
        return b"a canary note" in await in_the_stream(here)

    await until(published)
    stored, streamed = await everything_stored(here.admin_dsn), await in_the_stream(here)
    assert [canary for canary in CANARIES if canary not in streamed] == []
    assert [canary for canary in CANARIES[:5] if canary not in stored] == []
    async with administrator(here) as connection:
        answers: int = await connection.fetchval("SELECT count(*) FROM ledger.idempotency") or 0

    assert (await here.admin("DELETE", Keys(ws).workspace)).status_code == 202
    await erased(here, ws)

    stored, streamed = await everything_stored(here.admin_dsn), await in_the_stream(here)
    assert [canary for canary in CANARIES if canary in stored] == []
    assert [canary for canary in CANARIES if canary in streamed] == []
    assert b'"name":"stays"' in streamed
    async with administrator(here) as connection:
        assert await connection.fetchval("SELECT count(*) FROM ledger.idempotency") == answers - 2
        for table in ("state", "workspace_key", "use_record", "foreign_token"):
            left = f"SELECT count(*) FROM ledger.{table} WHERE workspace_id = $1"
            assert await connection.fetchval(left, ws) == 0, table
    assert await verified(here) == await here.head()

    again = await here.admin("POST", "/v1/workspaces", {"name": "Canary Ltd"}, headers=idempotent)
    assert again.json()["id"] != ws
    assert (await here.admin("GET", Keys(stays["workspace_id"]).one(stays["id"]))).status_code == 200


async def test_followers_get_closed_events_and_drop_the_workspace(here: House) -> None:
    ws = await here.workspace()
    key = await here.key(ws, name="closed soon")
    stays = await here.key(await here.workspace(), name="stays")
    store = MemoryStore()
    for event in await followed(here):
        store.apply(event)
    assert store.get(key["id"]) is not None

    await here.admin("DELETE", Keys(ws).workspace)
    whole = await followed(here)
    for event in whole[store.position :]:
        store.apply(event)
    anew = MemoryStore()
    for event in whole:
        anew.apply(event)
    for found in (store, anew):
        assert found.get(key["id"]) is None
        workspace = found.workspace(ws)
        assert workspace is not None
        assert (workspace.deleted, workspace.name) == (True, "")
        other = found.get(stays["id"])
        assert other is not None
        assert (other.name, other.unreadable) == ("stays", False)
    read = [
        events.decode(event.type, event.schema_version, event.data)
        for event in whole
        if event.workspace_id == ws
    ]
    assert [getattr(event, "private", None) for event in read] == [None] * 3


async def test_whoever_waited_for_the_deletion_s_lock_is_refused(here: House) -> None:
    """A key is created while the deletion is being committed, takes the lock after it, and is not there."""
    ws, key = await here.workspace(), events.SYSTEM_ACTOR
    pools = [await open_pool(here.postgres, name="test") for _ in range(2)]
    async with PostgresLog(pools[0]) as one, PostgresLog(pools[1]) as two, administrator(here) as holder:

        async def waiting(count: int) -> None:
            async def wait() -> bool:
                blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted"
                return (await watcher.fetchval(blocked) or 0) >= count

            await until(wait)

        async with administrator(here) as watcher:
            async with holder.transaction():
                await holder.execute("SELECT FROM ledger.log_head FOR UPDATE")
                deleting = asyncio.create_task(one.append(deletion(ws, 1)))
                await waiting(1)
                event = NewEvent("key_created", 1, key, "req", b"{}")
                creating = asyncio.create_task(two.append(command("key_late", ws, 0, event)))
                await waiting(2)
            gone = await deleting
            with pytest.raises(Refusal) as late:
                await creating
            assert late.value.code == "not_found"
            with pytest.raises(Refusal) as later:
                await two.append(command("key_later", ws, 0, event))
            assert later.value.code == "not_found"
            assert await watcher.fetchval("SELECT position FROM ledger.log_head") == gone.position
            kept = "SELECT count(*) FROM ledger.state WHERE workspace_id = $1"
            assert await watcher.fetchval(kept, ws) == 0
    for pool in pools:
        await pool.close()


async def test_uses_that_come_late_are_dropped_and_leave_their_batch(here: House) -> None:
    ws, other = await here.workspace(), await here.workspace()
    key, bus = await here.key(ws), await NatsBus.connect(here.nats, name="t", inbox_prefix="_INBOX_t")

    async def report(seq: int) -> None:
        uses = tuple(Use(each, key["id"], "live", 0, "VALID", 1, 1, 1) for each in (ws, other))
        body = msgspec.msgpack.encode(UseBatch("late", seq, uses))
        assert msgspec.msgpack.decode((await bus.request(USES_SUBJECT, body, timeout=3)).body) == seq + 1

    await report(0)
    await here.admin("DELETE", Keys(ws).workspace)
    await erased(here, ws)
    await report(1)
    await bus.close()
    answer = await here.follower("GET", "/v1/feed/uses")
    _, *records = wire.unframe(answer.content)
    batches = [msgspec.msgpack.decode(record, type=ErasedUses) for record in records]
    assert [batch.position for batch in batches] == list(range(1, len(batches) + 1))
    assert [use.workspace_id for batch in batches for use in batch.uses] == [other, other]
    (marker,) = (batch for batch in batches if ws in batch.erased)
    assert batches[-1].position > marker.position


async def test_the_stream_of_uses_keeps_no_external_id(here: House) -> None:
    ws, other = await here.workspace(), await here.workspace()
    key = await here.key(ws)
    async with broker(here) as bus:
        stream = USE_LOG.stream_of(await line_of(here))

        async def told() -> bytes:
            return b"\n".join(message.body for message in await messages(bus, stream))

        uses = tuple(Use(ws, key["id"], "live", 0, "VALID", 1, 1, 1, "customer-4711") for _ in range(3))
        await bus.request(USES_SUBJECT, msgspec.msgpack.encode(UseBatch("owned", 0, uses)), timeout=3)
        late = (Use(other, key["id"], "live", 0, "VALID", 1, 1, 1, "customer-0815"),)

        async def relayed() -> bool:
            return b"customer-4711" in await told()

        await until(relayed)
        await here.admin("DELETE", Keys(ws).workspace)
        await erased(here, ws)
        assert b"customer-4711" not in await told()
        await bus.request(USES_SUBJECT, msgspec.msgpack.encode(UseBatch("owned", 1, late)), timeout=3)

        async def goes_on() -> bool:
            return b"customer-0815" in await told()

        await until(goes_on)


async def test_an_erasure_that_a_crash_interrupted_is_finished_at_the_next_start(
    servers: Servers, tmp_path: Path
) -> None:
    """The deletion is committed by a process that does nothing after it, a thousand keys and all."""
    async with fresh.database(servers.postgres) as admin_dsn, fresh.streams(servers.nats):
        dsn = await migrated(admin_dsn)
        home = Home.new(tmp_path)
        assert await home.bootstrap(dsn)
        async with running(home, admin_dsn, dsn, servers.nats) as before:
            ws = await before.workspace("Canary Ltd")
            await before.key(ws, **WORDS)
            event = NewEvent("key_created", 1, "system", "req", b"{}")
            pool = await open_pool(dsn, name="test")
            async with PostgresLog(pool) as log:
                many = [command(f"key_{number}", ws, 0, event) for number in range(1000)]
                await asyncio.gather(*map(log.append, many))
        async with PostgresLog(pool) as log:
            await log.append(deletion(ws, 1))
        await pool.close()
        assert b"Kanarienvogel" in await everything_stored(admin_dsn)
        async with running(home, admin_dsn, dsn, servers.nats) as after:
            await erased(after, ws)
            assert b"Kanarienvogel" not in await everything_stored(admin_dsn)
            assert b"Kanarienvogel" not in await in_the_stream(after)
            await verified(after)
