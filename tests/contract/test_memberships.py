"""One suite for every `Memberships`: a role is what the last append says, and an end is for good."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
import pytest

from keyledger.clock import SystemClock
from keyledger.errors import Refusal
from keyledger.server.ids import new_id
from keyledger.server.postgres import open_pool
from keyledger.server.seal import Sealer
from services.keys.adapters.housekeeping import Housekeeping
from services.keys.adapters.log import PostgresLog
from services.keys.adapters.memberships import PostgresMemberships
from services.keys.adapters.states import PostgresStates
from services.keys.domain.membership import PutMember, RemoveMember
from services.keys.domain.principal import ADMIN, Principal
from services.keys.domain.roles import MAX_WORKSPACES
from services.keys.domain.workspace import ChangeWorkspace, CreateWorkspace, DeleteWorkspace, Workspace
from services.keys.handlers.keys import Asked
from services.keys.handlers.workspaces import Workspaces
from services.keys.handlers.writing import Writer
from services.keys.ports import EventLog, Memberships, Standing, States
from tests.support import servers_fresh as fresh
from tests.support.keys import migrated
from tests.support.memory_keys import MemoryKeys
from tests.support.waiting import until

OPERATOR = Principal("key_" + "9" * 22, "ws_" + "0" * 22, frozenset({ADMIN}))
SESSION = "ses_" + "1" * 22
NONE = Standing(None, ended=False)


@dataclass(frozen=True)
class Place:
    """One implementation; tests share it, and each has users and workspaces of its own."""

    log: EventLog
    states: States
    memberships: Memberships

    @property
    def workspaces(self) -> Workspaces:
        return Workspaces(Writer(self.log, self.states, Sealer(bytes(32)), SystemClock()))

    async def made_by(self, user: str, name: str = "Acme") -> str:
        by = Principal(user, "", frozenset())
        return (await self.workspaces.create(Asked(by, "", "req"), CreateWorkspace(by, name))).state.id

    async def put(self, ws: str, user: str, role: str) -> None:
        await self.workspaces.put_member(Asked(OPERATOR, ws, "req"), PutMember(OPERATOR, user, role))

    async def remove(self, ws: str, user: str) -> None:
        await self.workspaces.remove_member(Asked(OPERATOR, ws, "req"), RemoveMember(OPERATOR, user))

    async def role(self, user: str, ws: str) -> str | None:
        return (await self.memberships.standing(user, ws, SESSION)).role

    async def listed(self, user: str, before: int | None = None, limit: int = 100) -> list[tuple[str, str]]:
        found, head = await self.memberships.workspaces_of(user, before=before, limit=limit)
        assert head == await self.states.head()
        return [(stored.stream_id, role) for stored, role in found]


@pytest.fixture(scope="module")
async def postgres(postgres_server: str) -> AsyncIterator[Place]:
    async with fresh.database(postgres_server) as admin_dsn:
        pool = await open_pool(await migrated(admin_dsn), name="test")
        async with PostgresLog(pool) as log:
            yield Place(log, PostgresStates(pool), PostgresMemberships(pool))
        await pool.close()


@pytest.fixture(params=["memory", "postgres"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "postgres":
        return request.getfixturevalue("postgres")
    memory = MemoryKeys()
    return Place(memory, memory, memory)


@pytest.fixture
def ada() -> str:
    return new_id("user")


@pytest.fixture
def bob() -> str:
    return new_id("user")


async def test_a_stranger_is_no_member_of_anything(place: Place, ada: str) -> None:
    assert await place.memberships.standing(ada, new_id("ws"), SESSION) == NONE
    assert await place.memberships.standing(ada, "", SESSION) == NONE
    assert await place.listed(ada) == []


async def test_who_makes_a_workspace_owns_it_from_that_append_on(place: Place, ada: str, bob: str) -> None:
    ws = await place.made_by(ada)
    assert await place.role(ada, ws) == "owner"
    assert await place.role(bob, ws) is None
    stored, head = await place.states.get(ws)
    assert stored is not None
    assert (stored.version, stored.position, stored.created_position) == (2, head.position, head.position - 1)
    member = msgspec.json.decode(stored.body, type=Workspace).members[ada]
    assert (member.role, member.since, member.added_by, member.added) == ("owner", head.at, ada, 2)


async def test_a_role_is_that_of_the_last_append(place: Place, ada: str, bob: str) -> None:
    ws = await place.made_by(ada)
    for role in ("viewer", "admin", "member"):
        await place.put(ws, bob, role)
        assert await place.role(bob, ws) == role
        assert await place.listed(bob) == [(ws, role)]
    await place.remove(ws, bob)
    assert await place.role(bob, ws) is None
    assert await place.listed(bob) == []
    await place.put(ws, bob, "viewer")
    assert await place.role(bob, ws) == "viewer"
    assert await place.role(ada, ws) == "owner"


async def test_another_change_of_the_workspace_leaves_its_members(place: Place, ada: str) -> None:
    ws = await place.made_by(ada)
    command = ChangeWorkspace(OPERATOR, name="Other")
    await place.workspaces.change(Asked(OPERATOR, ws, "req"), command)
    assert await place.role(ada, ws) == "owner"


async def test_a_user_s_workspaces_are_listed_newest_first_and_paged(
    place: Place, ada: str, bob: str
) -> None:
    made = [await place.made_by(ada, str(number)) for number in range(3)]
    await place.made_by(bob)
    assert await place.listed(ada) == [(ws, "owner") for ws in reversed(made)]
    page, _ = await place.memberships.workspaces_of(ada, before=None, limit=2)
    assert await place.listed(ada, before=page[-1][0].created_position) == [(made[0], "owner")]


async def test_nobody_is_a_member_of_a_deleted_workspace(place: Place, ada: str) -> None:
    ws = await place.made_by(ada)
    await place.workspaces.delete(Asked(OPERATOR, ws, "req"), DeleteWorkspace(OPERATOR))
    assert await place.role(ada, ws) is None
    assert await place.listed(ada) == []
    with pytest.raises(Refusal) as caught:
        await place.put(ws, ada, "owner")
    assert caught.value.code == "not_found"


async def test_a_user_makes_so_many_workspaces_and_no_more_however_many_at_once(
    place: Place, ada: str, bob: str
) -> None:
    asked = [place.made_by(ada, str(number)) for number in range(MAX_WORKSPACES + 10)]
    done = await asyncio.gather(*asked, return_exceptions=True)
    made = [each for each in done if isinstance(each, str)]
    refused = [each for each in done if isinstance(each, Refusal)]
    assert (len(made), {each.code for each in refused}) == (MAX_WORKSPACES, {"conflict"})
    assert len(await place.listed(ada)) == MAX_WORKSPACES
    # to be let into another one takes nothing away, and who has left one may make one
    other = await place.made_by(bob)
    await place.put(other, ada, "owner")
    await place.put(made[0], bob, "owner")
    await place.remove(made[0], ada)
    assert await place.role(ada, await place.made_by(ada)) == "owner"


async def test_an_ended_session_is_over_for_good_and_no_other(place: Place, ada: str) -> None:
    ws, over, other = await place.made_by(ada), new_id("ses"), new_id("ses")
    for _ in range(2):
        await place.memberships.end(over, until=SystemClock().now() + 10**9)
    assert await place.memberships.standing(ada, ws, over) == Standing("owner", ended=True)
    assert await place.memberships.standing(ada, ws, other) == Standing("owner", ended=False)


async def test_an_ended_session_is_forgotten_after_its_time(postgres_server: str, ada: str) -> None:
    clock = SystemClock()
    async with fresh.database(postgres_server) as admin_dsn:
        pool = await open_pool(await migrated(admin_dsn), name="test")
        memberships = PostgresMemberships(pool)
        old, kept = new_id("ses"), new_id("ses")
        await memberships.end(old, until=clock.now() - 1)
        await memberships.end(kept, until=clock.now() + 10**9)
        stop = asyncio.Event()
        working = asyncio.create_task(Housekeeping(pool, clock).run(stop))

        async def forgotten() -> bool:
            return not (await memberships.standing(ada, "", old)).ended

        await until(forgotten)
        assert (await memberships.standing(ada, "", kept)).ended
        stop.set()
        await working
        await pool.close()
