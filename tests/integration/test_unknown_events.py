"""An event from the future costs its key and nothing else: in a real verifier, and after its restart."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keyledger import wire
from keyledger.server.postgres import open_pool
from keyledger.verification import Verifier
from keyledger.verification.limits import FixedWindow
from keyledger.verification.verdict import NOT_FOUND, VALID
from keyledger.wire import SnapshotPage
from services.keys.adapters.log import PostgresLog
from services.keys.adapters.states import PostgresStates
from services.keys.ports import NewEvent
from tests.support.appending import command
from tests.support.asgi_server import serving
from tests.support.keys import House, Keys, house
from tests.support.servers import Servers
from tests.support.waiting import until


@pytest.fixture
async def here(servers: Servers, tmp_path: Path) -> AsyncIterator[House]:
    async with house(servers, tmp_path / "home") as found:
        yield found


@asynccontextmanager
async def verifier(here: House, folder: Path) -> AsyncGenerator[Verifier]:
    """A verifier that has read the log up to its head of now."""
    key = (here.home.secrets / "verifier").read_text().strip()
    async with (
        serving(here.edge) as keys_url,
        Verifier(
            keys_url=keys_url,
            service_key=key,
            nats=here.nats,
            peppers=here.home.peppers,
            folder=folder,
            limits=FixedWindow(),
        ) as opened,
    ):
        await reached(opened, await here.head())
        yield opened


async def reached(found: Verifier, position: int) -> None:
    async def there() -> bool:
        return found.store.position >= position and found.follower.age() < 60

    await until(there)


async def append_future(here: House, key: dict[str, Any], tag: str, version: int) -> int:
    """What a newer key service might append to this key's stream; its position."""
    pool = await open_pool(here.postgres, name="test")
    stored, _ = await PostgresStates(pool).get(key["id"])
    assert stored is not None
    async with PostgresLog(pool) as log:
        event = NewEvent(tag, version, "key_future", "req", b'{"until":"the moon is full"}')
        asked = command(
            key["id"], stored.version, workspace=stored.workspace_id, events=(event,), body=stored.body
        )
        done = await log.append(asked)
    await pool.close()
    return done.position


FUTURE = pytest.mark.parametrize(("tag", "version"), [("key_frozen", 1), ("key_changed", 99)])


@FUTURE
async def test_a_snapshot_says_that_it_does_not_tell_of_an_event_from_the_future(
    here: House, tag: str, version: int
) -> None:
    """Who starts from it reads the whole log instead: in the states there is no trace of that event."""
    key = await here.key(await here.workspace())

    async def whole() -> bool:
        answer = await here.follower("GET", "/v1/snapshot")
        assert answer.status_code == 200
        first, *_ = wire.unframe(answer.content)
        return msgspec.msgpack.decode(first, type=SnapshotPage).whole

    assert await whole()
    await append_future(here, key, tag, version)
    assert not await whole()
    await here.key(key["workspace_id"])
    assert not await whole()


@FUTURE
async def test_an_event_from_the_future_costs_its_key_and_no_other(
    here: House, tmp_path: Path, tag: str, version: int
) -> None:
    ws = await here.workspace()
    spoilt, sound = await here.key(ws), await here.key(ws)
    async with verifier(here, tmp_path / "one") as found:
        assert [found.check(key["key"]).code for key in (spoilt, sound)] == [VALID, VALID]
        await reached(found, await append_future(here, spoilt, tag, version))
        assert [found.check(key["key"]).code for key in (spoilt, sound)] == [NOT_FOUND, VALID]
        # what comes behind it is applied: to the sound key, and to a new one
        await here.admin.ok("PATCH", Keys(ws).one(sound["id"]), {"name": "renamed"})
        later = await here.key(ws)
        await reached(found, later["position"])
        judged = found.check(sound["key"])
        assert judged.key is not None
        assert (judged.code, judged.key.name) == (VALID, "renamed")
        assert found.check(later["key"]).code == VALID
        assert found.follower.unreadable == 1
    async with verifier(here, tmp_path / "two") as restarted:
        codes = [restarted.check(key["key"]).code for key in (spoilt, sound, later)]
        assert codes == [NOT_FOUND, VALID, VALID]
    history = await here.admin.ok("GET", Keys(ws).one(spoilt["id"], "events"))
    assert [(event["type"], event["data"]) for event in history["events"]][1:] == [(tag, {})]
