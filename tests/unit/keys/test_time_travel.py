"""Lists of the past: what a fold of everything would show, for the price of what is shown."""

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from keyledger.digest import Peppers
from keyledger.errors import Refusal
from keyledger.events import KeyEvent, Recorded
from keyledger.server.proof import Prover
from keyledger.server.seal import Sealer
from services.keys.domain.key import ChangeKey, Context, CreateKey, Key, RevokeKey, evolve
from services.keys.domain.principal import ADMIN, Principal
from services.keys.domain.workspace import CreateWorkspace, DeleteWorkspace
from services.keys.handlers.history import History
from services.keys.handlers.keys import Asked, Keys
from services.keys.handlers.time_travel import Then, TimeTravel
from services.keys.handlers.workspaces import Workspaces
from services.keys.handlers.writing import Writer
from services.keys.ports import KeyFilter
from tests.support.followed_log import HandClock
from tests.support.memory_keys import MemoryKeys


class CountingKeys(MemoryKeys):
    """Counts the events that were read."""

    def __init__(self) -> None:
        super().__init__()
        self.events_read = 0

    async def events_behind(
        self, workspace_id: str, versions: Mapping[str, int], *, until: int, limit: int
    ) -> Sequence[Recorded]:
        found = await super().events_behind(workspace_id, versions, until=until, limit=limit)
        self.events_read += len(found)
        return found


@dataclass
class Place:
    """A workspace in memory, its handlers, and its past."""

    memory: CountingKeys
    keys: Keys
    workspaces: Workspaces
    history: History
    past: TimeTravel
    clock: HandClock
    asked: Asked

    @property
    def ws(self) -> str:
        return self.asked.workspace_id

    async def create(self, name: str, environment: Literal["live", "test"] = "live", **fields: Any) -> str:
        """A new key's id."""
        by = self.asked.by
        done = await self.keys.create(
            self.asked,
            environment,
            lambda minted: CreateKey(by, False, name, environment, minted.recorded, minted.proof, **fields),
        )
        return done.state.id

    async def change(self, key: str, **fields: Any) -> None:
        await self.keys.change(self.asked, key, ChangeKey(self.asked.by, False, **fields))

    async def revoke(self, key: str) -> None:
        await self.keys.revoke(self.asked, key, RevokeKey(self.asked.by))

    def then(self, position: int) -> Then:
        return Then(position, self.memory.log[position - 1].at)

    async def folded(self, then: Then) -> dict[str, tuple[int, Key]]:
        """Everything as it was, folded from the first event on, with where each was created."""
        keys: dict[str, tuple[int, Key]] = {}
        found, _ = await self.history.read(self.ws, None, after=0, limit=10_000)
        for recorded, event in found:
            if isinstance(event, KeyEvent) and recorded.position <= then.position:
                context = Context(recorded.stream_id, recorded.workspace_id, recorded.actor, recorded.at)
                created, key = keys.get(recorded.stream_id, (recorded.position, None))
                keys[recorded.stream_id] = created, evolve(key, event, context)
        return keys


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    memory, clock, sealer = CountingKeys(), HandClock(), Sealer(b"s" * 32)
    writer, history = Writer(memory, memory, sealer, clock), History(memory, sealer)
    by = Principal("key_operator", "", frozenset({ADMIN}))
    workspaces = Workspaces(writer)
    made = await workspaces.create(Asked(by, "", "r"), CreateWorkspace(by, "Acme"))
    prover = Prover()
    yield Place(
        memory,
        Keys(writer, Peppers({"p1": b"1" * 32}, "p1"), prover, "cvtk"),
        workspaces,
        history,
        TimeTravel(memory, history, clock),
        clock,
        Asked(by, made.state.id, "r"),
    )
    prover.close()


async def lived(place: Place, dice: random.Random, steps: int) -> list[str]:
    """A history of so many steps; the ids of its keys, oldest first."""
    made: list[str] = []
    for step in range(steps):
        place.clock.advance(1)
        key = dice.choice(made) if made else ""
        match dice.choice(["create", "rename", "disable", "own", "revoke", "expire"]) if key else "create":
            case "create":
                made.append(await place.create(f"key {step}", dice.choice(["live", "test"])))
            case "rename":
                await quietly(place.change(key, name=dice.choice(["alpha", f"name {step}"])))
            case "disable":
                await quietly(place.change(key, enabled=dice.random() < 0.5))
            case "own":
                await quietly(place.change(key, external_id=dice.choice(["u1", "u2", None])))
            case "expire":
                soon = place.clock.now() + dice.randint(1, 20) * 1_000_000
                await quietly(place.change(key, expires_at=soon))
            case _:
                await place.revoke(key)
    return made


async def quietly(change: Any) -> None:
    """Make a change that the key may refuse by now."""
    try:
        await change
    except Refusal as refusal:
        assert refusal.code == "key_revoked"


def fits(key: Key, wanted: KeyFilter, now: int) -> bool:
    search = (wanted.search or "").lower()
    return (
        wanted.environment in (None, key.environment)
        and wanted.status in (None, key.status(now))
        and wanted.external_id in (None, key.external_id)
        and (search in key.name or search in (key.external_id or "") or wanted.search == key.id)
    )


@pytest.mark.parametrize("seed", range(8))
async def test_every_page_of_every_past_is_that_of_a_whole_fold(place: Place, seed: int) -> None:
    dice = random.Random(seed)
    made = await lived(place, dice, 60)
    filters: list[dict[str, Any]] = [
        {}, {"environment": "test"}, {"status": "active"}, {"status": "expired"}, {"external_id": "u1"},
        {"status": "revoked"}, {"search": "ALPHA"}, {"search": dice.choice(made)},
        {"environment": "live", "status": "disabled"},
    ]  # fmt: skip
    for position in range(1, len(place.memory.log) + 1):
        then = place.then(position)
        everything = await place.folded(then)
        for given in dice.sample(filters, 3):
            wanted = KeyFilter(then.at, **given)
            expected = sorted(
                (pair for pair in everything.values() if fits(pair[1], wanted, then.at)),
                key=lambda pair: -pair[0],
            )
            limit, before, found = dice.choice([1, 2, 7, 200]), None, list[tuple[int, Key]]()
            while page := await place.past.keys(place.ws, wanted, then, before=before, limit=limit):
                assert len(page) <= limit
                found += page
                before = page[-1][0]
            assert found == expected, (seed, position, given, limit)
        for key_id in dice.sample(made, 2):
            if key_id in everything:
                assert await place.past.key(place.ws, key_id, then) == everything[key_id][1]
            else:
                with pytest.raises(Refusal, match="not_found"):
                    await place.past.key(place.ws, key_id, then)


async def test_a_page_reads_the_events_of_what_it_shows_and_no_others(place: Place) -> None:
    made = [await place.create(f"key {number}") for number in range(60)]
    then = place.then(len(place.memory.log))
    for key in made:
        await place.change(key, name="later")
    shown = await place.past.keys(place.ws, KeyFilter(then.at), then, before=None, limit=10)
    assert [key.id for _, key in shown] == made[:-11:-1]
    assert {key.name for _, key in shown} == {f"key {number}" for number in range(50, 60)}
    assert place.memory.events_read == 10
    await place.past.keys(place.ws, KeyFilter(then.at), then, before=shown[-1][0], limit=10)
    assert place.memory.events_read == 20


async def test_a_key_of_the_past_is_found_by_what_is_shown_of_its_secret(place: Place) -> None:
    made = [await place.create(f"key {number}") for number in range(3)]
    then = place.then(len(place.memory.log))
    everything = await place.folded(then)
    for key in made:
        hint = everything[key][1].secrets[-1].hint
        for search in (hint, hint[-4:]):
            wanted = KeyFilter(then.at, search=search)
            found = await place.past.keys(place.ws, wanted, then, before=None, limit=5)
            assert [each.id for _, each in found] == [key]


async def test_a_filtered_page_stops_as_soon_as_it_is_full(place: Place) -> None:
    for number in range(60):
        await place.create("odd" if number % 2 else "even", "test" if number % 3 else "live")
    then = place.then(len(place.memory.log))
    wanted = KeyFilter(then.at, search="odd")
    assert len(await place.past.keys(place.ws, wanted, then, before=None, limit=5)) == 5
    assert place.memory.events_read == 5 + 10
    live = KeyFilter(then.at, environment="live")
    assert len(await place.past.keys(place.ws, live, then, before=None, limit=5)) == 5
    assert place.memory.events_read == 15 + 5, "an environment is for ever, so others need not be folded"


async def test_a_key_with_a_long_history_is_folded_whole(place: Place) -> None:
    """More events than are read at once, beside a key with few."""
    key, other = await place.create("first"), await place.create("other")
    for number in range(1100):
        await place.change(key, name=f"name {number}")
    await place.change(other, name="at last")
    then = place.then(len(place.memory.log))
    shown = await place.past.keys(place.ws, KeyFilter(then.at), then, before=None, limit=9)
    assert [(found.name, found.version) for _, found in shown] == [("at last", 2), ("name 1099", 1101)]
    assert (await place.past.key(place.ws, key, then)).version == 1101


async def test_a_deleted_workspace_has_no_past(place: Place) -> None:
    key = await place.create("k")
    then = place.then(len(place.memory.log))
    await place.workspaces.delete(place.asked, DeleteWorkspace(place.asked.by))
    with pytest.raises(Refusal, match="not_found"):
        await place.past.key(place.ws, key, then)
    assert await place.past.keys(place.ws, KeyFilter(then.at), then, before=None, limit=9) == []
