"""One suite for every `States`: each read is one snapshot, filtered and ordered as lists are; and the state
that commands leave behind is the fold of their events."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
import pytest

from keyledger.clock import SystemClock
from keyledger.digest import Peppers
from keyledger.server.ids import new_id
from keyledger.server.postgres import open_pool
from keyledger.server.proof import Prover
from keyledger.server.seal import Sealer
from services.keys.adapters.log import PostgresLog
from services.keys.adapters.states import PostgresStates
from services.keys.domain import key as keys
from services.keys.domain.key import ChangeKey, Context, CreateKey, Key, RevokeKey
from services.keys.domain.principal import ADMIN, Principal
from services.keys.domain.workspace import ChangeWorkspace, CreateWorkspace
from services.keys.handlers.history import History
from services.keys.handlers.keys import Asked, Keys
from services.keys.handlers.workspaces import Workspaces
from services.keys.handlers.writing import Writer
from services.keys.ports import Command, EventLog, KeyFilter, NewEvent, States, Stored
from tests.support import servers_fresh as fresh
from tests.support.keys import migrated
from tests.support.memory_keys import MemoryKeys

NOW = 1_800_000_000_000_000


@dataclass(frozen=True)
class Place:
    """One implementation of the ports; tests share it, and each has workspaces of its own."""

    log: EventLog
    states: States


@pytest.fixture(scope="module")
async def postgres(postgres_server: str) -> AsyncIterator[Place]:
    async with fresh.database(postgres_server) as admin_dsn:
        pool = await open_pool(await migrated(admin_dsn), name="test")
        async with PostgresLog(pool) as log:
            yield Place(log, PostgresStates(pool))
        await pool.close()


@pytest.fixture(params=["memory", "postgres"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "postgres":
        return request.getfixturevalue("postgres")
    memory = MemoryKeys()
    return Place(memory, memory)


@pytest.fixture
def ws() -> str:
    return new_id("ws")


async def put(place: Place, stream: str, ws: str, expected: int = 0, **body: Any) -> int:
    """Append an event that leaves this state; its position."""
    kind: Any = "workspace" if stream.startswith("ws_") else "key"
    asked = Command(
        UUID(bytes=secrets.token_bytes(16)), stream, kind, ws, expected, NOW,
        (NewEvent(f"{kind}_changed", 1, "key_actor", "req", b"{}"),),
        msgspec.json.encode({"name": "k", "environment": "live", **body}),
        data_key=b"wrapped" if kind == "workspace" and not expected else None,
    )  # fmt: skip
    return (await place.log.append(asked)).position


def ids(found: Sequence[Stored]) -> list[str]:
    return [stored.stream_id for stored in found]


async def listed(place: Place, ws: str, *, now: int = NOW, **wanted: str) -> list[str]:
    found, _ = await place.states.keys(ws, KeyFilter(now, **wanted), before=None, limit=100)
    return ids(found)


async def test_nothing_is_answered_with_the_head_it_was_read_at(place: Place, ws: str) -> None:
    head = await place.states.head()
    assert await place.states.get(ws) == (None, head)
    assert await place.states.keys(ws, KeyFilter(NOW), before=None, limit=9) == ([], head)
    assert await place.states.events(ws, None, after=0, limit=9) == ([], head)
    assert await place.states.data_key(ws) is None
    assert await place.states.credential(new_id("key")) is None


async def test_a_credential_is_a_key_and_its_workspace(place: Place, ws: str) -> None:
    key, orphan = new_id("key"), new_id("key")
    await put(place, ws, ws)
    await put(place, key, ws)
    await put(place, orphan, new_id("ws"))
    found = await place.states.credential(key)
    assert found is not None
    assert ids(found) == [key, ws]
    assert await place.states.credential(ws) is None
    assert await place.states.credential(orphan) is None
    assert await place.states.data_key(ws) == b"wrapped"


async def test_keys_are_listed_newest_first_by_creation_and_paged(place: Place, ws: str) -> None:
    made = [new_id("key") for _ in range(5)]
    positions = [await put(place, key, ws) for key in made]
    await put(place, made[0], ws, 1, name="changed later")
    await put(place, new_id("key"), new_id("ws"))
    assert await listed(place, ws) == made[::-1]
    page, head = await place.states.keys(ws, KeyFilter(NOW), before=positions[3], limit=2)
    assert ids(page) == [made[2], made[1]]
    assert head == await place.states.head()
    assert [stored.created_position for stored in page] == [positions[2], positions[1]]
    last, _ = await place.states.keys(ws, KeyFilter(NOW), before=positions[1], limit=2)
    assert (ids(last), last[0].version) == ([made[0]], 2)


async def test_workspaces_are_listed_newest_first(place: Place) -> None:
    made = [new_id("ws") for _ in range(3)]
    positions = [await put(place, ws, ws) for ws in made]
    found, _ = await place.states.workspaces(before=None, limit=3)
    assert ids(found) == made[::-1]
    found, _ = await place.states.workspaces(before=positions[2], limit=1)
    assert ids(found) == [made[1]]


async def test_status_is_told_in_the_order_a_verifier_looks(place: Place, ws: str) -> None:
    states: dict[str, dict[str, Any]] = {
        "active": {"expires_at": NOW + 10},
        "disabled": {"enabled": False, "expires_at": NOW - 1},
        "revoked": {"revoked_at": NOW, "enabled": False, "expires_at": NOW - 1},
        "expired": {"expires_at": NOW},
    }
    made = {status: new_id("key") for status in states}
    for status, body in states.items():
        await put(place, made[status], ws, **body)
    for status, key in made.items():
        assert await listed(place, ws, status=status) == [key]
    assert await listed(place, ws, now=NOW + 10, status="expired") == [made["expired"], made["active"]]
    assert await listed(place, ws, now=NOW + 10, status="active") == []


async def test_filters_are_joined(place: Place, ws: str) -> None:
    live, test, other = new_id("key"), new_id("key"), new_id("key")
    await put(place, live, ws, external_id="Own")
    await put(place, test, ws, environment="test", external_id="Own")
    await put(place, other, ws, external_id="own")
    assert await listed(place, ws, environment="test") == [test]
    assert await listed(place, ws, external_id="Own") == [test, live]
    assert await listed(place, ws, external_id="Own", environment="live") == [live]
    assert await listed(place, ws, external_id="Own", status="revoked") == []


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("ALPHA", [0]), ("owner", [2, 1]), ("%", [0]), ("_", [2]), ("\\", [1]), ("50% o", [0]), ("5%f", []),
        ("a_ph", []), ("", [2, 1, 0]), ("nothing", []),
    ],
)  # fmt: skip
async def test_search_takes_every_character_as_it_is(
    place: Place, ws: str, search: str, expected: list[int]
) -> None:
    made = [new_id("key") for _ in range(3)]
    await put(place, made[0], ws, name="Alpha 50% off")
    await put(place, made[1], ws, name="back\\slash", external_id="Owner 1")
    await put(place, made[2], ws, name="under_score", external_id="OWNER 2")
    assert await listed(place, ws, search=search) == [made[number] for number in expected]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("wpG1", True), ("…wpG1", True), ("cvtk_live_…wpG1", True), ("old2", True), ("wpg1", False),
        ("pG1", False), ("live", False), ("rted", False), ("cvtk_live_", False), ("x…wpG1 y", False),
    ],
)  # fmt: skip
async def test_search_finds_a_secret_by_what_is_shown_of_it(
    place: Place, ws: str, search: str, found: bool
) -> None:
    """The hint or its last four characters, exactly; one that has been replaced leads to its key, too."""
    key, other, bare = new_id("key"), new_id("key"), new_id("key")
    hints = [{"hint": "cvtk_live_…old2"}, {"hint": "cvtk_live_…wpG1"}]
    await put(place, key, ws, secrets=hints)
    await put(place, other, ws, secrets=[{"hint": "imported"}])
    await put(place, bare, ws)
    assert await listed(place, ws, search=search) == ([key] if found else [])


async def test_search_finds_a_whole_key_id_only(place: Place, ws: str) -> None:
    one, other = new_id("key"), new_id("key")
    await put(place, one, ws)
    await put(place, other, ws)
    assert await listed(place, ws, search=one) == [one]
    assert await listed(place, ws, search=one[:-1]) == []
    assert await listed(place, new_id("ws"), search=one) == []


async def test_events_are_read_by_workspace_and_by_stream(place: Place, ws: str) -> None:
    key = new_id("key")
    first = await put(place, ws, ws)
    second = await put(place, key, ws)
    await put(place, new_id("key"), new_id("ws"))
    third = await put(place, ws, ws, 1)
    fourth = await put(place, key, ws, 1)

    async def positions(stream: str | None, after: int = 0, limit: int = 9) -> list[int]:
        found, _ = await place.states.events(ws, stream, after=after, limit=limit)
        return [recorded.position for recorded in found]

    assert await positions(None) == [first, second, third, fourth]
    assert await positions(None, after=first, limit=2) == [second, third]
    assert await positions(key) == [second, fourth]
    assert await positions(ws, after=first) == [third]
    assert await positions(None, after=2**62) == []
    found, _ = await place.states.events(new_id("ws"), key, after=0, limit=9)
    assert not found


async def test_events_of_some_streams_are_read_behind_a_version_of_each(place: Place, ws: str) -> None:
    one, two, other = new_id("key"), new_id("key"), new_id("key")
    ones = [await put(place, one, ws, version) for version in range(3)]
    twos = [await put(place, two, ws, version) for version in range(2)]
    await put(place, other, ws)
    ones.append(await put(place, one, ws, 3))

    async def positions(versions: dict[str, int], until: int = 2**62, limit: int = 9) -> list[int]:
        found = await place.states.events_behind(ws, versions, until=until, limit=limit)
        assert {(recorded.stream_id, recorded.previous_hash) for recorded in found} <= {
            (one, b""),
            (two, b""),
        }
        return [recorded.position for recorded in found]

    assert await positions({one: 0, two: 0}) == [*ones[:3], *twos, ones[3]]
    assert await positions({one: 2, two: 1}) == [ones[2], twos[1], ones[3]]
    assert await positions({one: 0, two: 0}, until=twos[0]) == [*ones[:3], twos[0]]
    assert await positions({one: 0, two: 0}, limit=4) == [*ones[:3], twos[0]]
    assert await positions({one: 4}) == await positions({}) == []
    assert not await place.states.events_behind(new_id("ws"), {one: 0}, until=2**62, limit=9)


class Service:
    """The handlers over one implementation."""

    def __init__(self, place: Place, prover: Prover) -> None:
        self.states = place.states
        sealer = Sealer(secrets.token_bytes(32))
        self.history = History(place.states, sealer)
        writer = Writer(place.log, place.states, sealer, SystemClock())
        peppers = Peppers({"p1": secrets.token_bytes(32)}, "p1")
        self.keys = Keys(writer, peppers, prover, "cvtk")
        self.workspaces = Workspaces(writer)
        self.by = Principal("key_operator", "", frozenset({ADMIN}))

    def asked(self, ws: str = "") -> Asked:
        return Asked(self.by, ws, "req")

    async def create(self, ws: str) -> str:
        done = await self.keys.create(
            self.asked(ws),
            "live",
            lambda minted: CreateKey(
                self.by, False, "k", "live", minted.recorded, minted.proof, metadata={"created_at": "-1"}
            ),
        )
        return done.state.id

    async def refolded(self, ws: str, key_id: str) -> Key | None:
        found, _ = await self.history.read(ws, key_id, after=0, limit=100)
        state: Key | None = None
        for recorded, event in found:
            context = Context(recorded.stream_id, recorded.workspace_id, recorded.actor, recorded.at)
            known: Any = event
            state = keys.evolve(state, known, context)
        return state


async def test_the_state_is_the_fold_of_its_events(place: Place) -> None:
    prover = Prover()
    service = Service(place, prover)
    ws = (await service.workspaces.create(service.asked(), CreateWorkspace(service.by, "Acme"))).state.id
    key = await service.create(ws)
    asked = service.asked(ws)
    await service.keys.change(
        asked, key, ChangeKey(service.by, False, name="n", metadata={"revoked_at": "-1"})
    )
    for overlap in (3600, 0, 3600, 60):
        await service.keys.rotate(asked, key, "live", overlap, "at_overlap")
        await check(service, ws, key)
    await service.keys.change(asked, key, ChangeKey(service.by, False, enabled=False, expires_at=None))
    await service.keys.revoke(asked, key, RevokeKey(service.by, reason="r"))
    await check(service, ws, key)
    await service.workspaces.change(asked, ChangeWorkspace(service.by, name="New", suspended=True))
    await asyncio.gather(*(service.create(ws) for _ in range(10)))
    found, _ = await place.states.keys(ws, KeyFilter(NOW), before=None, limit=100)
    assert len(found) == 11
    for stored in found:
        await check(service, ws, stored.stream_id)
    prover.close()


async def check(service: Service, ws: str, key: str) -> None:
    stored, _ = await service.states.get(key)
    assert stored is not None
    state = msgspec.json.decode(stored.body, type=Key)
    assert state == await service.refolded(ws, key)
    assert state.version == stored.version
