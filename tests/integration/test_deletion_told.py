"""What outlives a deleted workspace: the word that it was deleted, for a log restored to before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from keyledger.clock import SystemClock
from keyledger.events import GENESIS, LostDenial
from keyledger.server.log_stream import KEY_LOG, LogStream, Outgoing, SourceHead, StreamLimits
from keyledger.server.postgres import open_pool
from keyledger.wire import Followed
from services.keys.adapters.erasure import Eraser
from services.keys.adapters.lost_tail import read_lost_tail
from tests.support.erased import administrator, broker, erased, followed, line_of, messages
from tests.support.keys import House, Keys, house, refused
from tests.support.memory_log import new_epoch
from tests.support.restored_log import RestoredLog
from tests.support.servers import Servers
from tests.support.waiting import until


@pytest.fixture
async def here(servers: Servers, tmp_path: Path) -> AsyncIterator[House]:
    async with house(servers, tmp_path / "home") as found:
        yield found


async def test_the_stream_still_tells_that_it_was_deleted_and_nothing_else_of_it(here: House) -> None:
    ws, stays = await here.workspace("Canary Ltd"), await here.workspace("Stays")
    before = await here.key(ws, name="Kanarienvogel")
    key = await here.key(stays)
    revoked = await here.admin.ok("POST", Keys(ws).one(before["id"], "revoke"), {"note": "a canary note"})
    gone = (await here.admin("DELETE", Keys(ws).workspace)).json()["position"]
    after = (await here.admin.ok("POST", Keys(stays).one(key["id"], "revoke")))["position"]
    await erased(here, ws)
    feed, line = await followed(here), await line_of(here)
    async with broker(here) as bus:
        stream = LogStream(bus, KEY_LOG, line, StreamLimits())

        async def told() -> bool:
            return (await stream.end()).position == after

        await until(told)
        stored = {message.sequence: message for message in await messages(bus, stream.name)}
        # the others stay where they were, each at the position that it names
        assert {position: message.body for position, message in stored.items()} == {
            event.position: msgspec.msgpack.encode(event)
            for event in feed
            if event.position in stored and (event.workspace_id != ws or event.position == gone)
        }
        assert [at for at in range(revoked["position"], after + 1) if at in stored] == [gone, after]
        word = msgspec.msgpack.decode(stored[gone].body, type=Followed)
        assert (word.type, word.workspace_id, word.data) == ("workspace_deleted", ws, b"{}")
        assert ws in stored[gone].subject
        # a log restored to before it learns of it over the hole, to wherever that is
        for position in range(before["position"], gone):
            log = RestoredLog(feed, position)
            tail = await read_lost_tail(bus, stream.name, await stream.end(), log, position)
            assert [denial for denial in tail.denials if denial.workspace_id == ws] == [
                LostDenial(ws, "deleted")
            ]


async def test_what_a_lost_telling_held_of_it_goes_as_well(here: House) -> None:
    """Its stream is of a line that this log knows nothing of."""
    ws, other, lost = await here.workspace(), await here.workspace(), new_epoch(7)
    async with broker(here) as bus:
        stream = LogStream(bus, KEY_LOG, lost, StreamLimits(max_msgs=100, max_bytes=1 << 20))
        assert await stream.create(SourceHead(lost, 5, GENESIS))
        tails = (f"{ws}.{ws}", f"{other}.{other}", f"{ws}.key_1", f"{ws}.{ws}")
        changed = Followed(9, b"", b"", ws, 3, "workspace_changed", 1, ws, 0, b"{}")
        told = [Outgoing(at, b"", tail, msgspec.msgpack.encode(changed)) for at, tail in enumerate(tails, 6)]
        await stream.append(told, after=5, timeout=2)
        await here.admin("DELETE", Keys(ws).workspace)
        await erased(here, ws)
        assert [message.sequence for message in await messages(bus, stream.name)] == [7]
        assert (await stream.end()).position == 9


async def test_a_deletion_that_was_lost_shuts_its_managers_out_until_it_is_accepted(here: House) -> None:
    """Here as a restored log has it: the workspace is there, and the word that it was deleted besides."""
    ws, other = await here.workspace(), await here.workspace()
    mine, theirs = await here.manager(ws, "keys:read"), await here.manager(other, "keys:read")
    async with administrator(here) as connection:

        async def lost(what: str) -> None:
            await connection.execute("INSERT INTO ledger.lost_denial VALUES (1, $1, NULL, $2)", ws, what)

        await lost("suspended")
        assert (await mine("GET", Keys(ws).all)).status_code == 200
        await lost("deleted")
        refused(await mine("GET", Keys(ws).all), 401, "invalid_api_key")
        assert (await theirs("GET", Keys(other).all)).status_code == 200
        # operators see it, to delete it again or to accept what is there
        assert (await here.admin("GET", Keys(ws).workspace)).status_code == 200
        assert (await here.admin("POST", "/v1/epochs/accept", {"number": 1})).status_code == 200
        assert (await mine("GET", Keys(ws).all)).status_code == 200


async def test_a_process_forgets_what_a_restored_log_deletes_before_what_it_saw(here: House) -> None:
    """What it kept of a workspace in memory, its data key above all."""
    pool, forgotten = await open_pool(here.postgres, name="test"), list[str]()
    async with broker(here) as bus, administrator(here) as connection:
        eraser = Eraser(pool, bus, SystemClock(), forget=[forgotten.append])
        ws, earlier = await here.workspace(), await here.workspace()
        await here.admin("DELETE", Keys(ws).workspace)
        for _ in range(2):
            await eraser.forget_new()
            assert forgotten == [ws]
        await connection.execute("INSERT INTO ledger.erasure VALUES ($1, 1)", earlier)
        await connection.execute("UPDATE ledger.log_head SET epoch_line = $1", new_epoch().line)
        await eraser.forget_new()
        assert earlier in forgotten
    await pool.close()
