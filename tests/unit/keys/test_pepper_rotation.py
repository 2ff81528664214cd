"""When a new pepper becomes active: once every live verifier says that it holds it, and not before."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from keyledger.digest import Peppers
from keyledger.errors import Refusal
from keyledger.server.ids import new_id
from keyledger.server.seal import Sealer
from keyledger.wire import HeadQuestion
from services.keys.domain.principal import ADMIN, Principal
from services.keys.domain.workspace import CreateWorkspace
from services.keys.handlers import peppers as handler
from services.keys.handlers.keys import Asked
from services.keys.handlers.peppers import PepperRotation
from services.keys.handlers.workspaces import Workspaces
from services.keys.handlers.writing import Writer
from tests.support.followed_log import HandClock
from tests.support.memory_keys import MemoryKeys

ONE = Peppers({"p1": b"1" * 32}, "p1")
BOTH = Peppers({"p1": b"1" * 32, "p2": b"2" * 32}, "p2")


class Counts:
    """`DigestCounts` that says what it is told to."""

    left = 0

    async def without_digest(self, pepper: str, *, now: int) -> int:
        del pepper, now
        return self.left


@dataclass
class Place:
    """A rotation over a log in memory, and what moves it."""

    rotation: PepperRotation
    peppers: Peppers
    clock: HandClock
    memory: MemoryKeys
    counts: Counts
    asked: Asked

    def says(self, verifier: str, *held: str) -> None:
        """A verifier asks for the head."""
        self.rotation.note(HeadQuestion("n", verifier, peppers=held))

    async def settled(self) -> None:
        """Steps until a pepper that is held long enough may become active."""
        await self.rotation.step()
        self.clock.advance(handler.SETTLE + 0.1)
        await self.rotation.step()

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.memory.log[1:]]


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    clock, memory, counts = HandClock(), MemoryKeys(), Counts()
    writer = Writer(memory, memory, Sealer(b"s" * 32), clock)
    by = Principal("key_" + "9" * 22, new_id("ws"), frozenset({ADMIN}))
    made = await Workspaces(writer).create(Asked(by, "", "r"), CreateWorkspace(by, "system", system=True))
    peppers = Peppers({"p1": b"1" * 32}, "p1")

    async def system_workspace() -> str | None:
        return made.state.id

    rotation = PepperRotation(
        writer, memory, counts=counts, peppers=peppers, system_workspace=system_workspace, clock=clock
    )
    yield Place(rotation, peppers, clock, memory, counts, Asked(by, made.state.id, "r"))


def take_up(place: Place) -> None:
    """The new pepper's file is found."""
    place.peppers.become(BOTH, place.rotation.active())


async def test_nothing_happens_while_there_is_one(place: Place) -> None:
    await place.settled()
    assert place.types == []
    assert place.rotation.active() == "p1"


async def test_a_new_pepper_becomes_active_when_the_last_live_verifier_holds_it(place: Place) -> None:
    take_up(place)
    place.says("one", "p1", "p2")
    place.says("two", "p1")
    await place.settled()
    assert (place.types, place.rotation.active()) == ([], "p1")
    place.says("one", "p1", "p2")
    place.says("two", "p1", "p2")
    await place.rotation.step()
    assert (place.types, place.rotation.active()) == (["pepper_activated"], "p2")
    await place.settled()
    assert place.types == ["pepper_activated"], "once"


async def test_an_old_verifier_that_does_not_say_what_it_holds_is_waited_for(place: Place) -> None:
    take_up(place)
    place.says("old")
    await place.settled()
    assert place.types == []


async def test_a_verifier_that_is_gone_is_not_waited_for(place: Place) -> None:
    take_up(place)
    place.says("gone", "p1")
    place.clock.advance(handler.LIVE + 0.1)
    place.says("here", "p1", "p2")
    await place.settled()
    assert place.types == ["pepper_activated"]


async def test_verifiers_get_the_time_to_say_what_they_hold(place: Place) -> None:
    """A key service that just started has heard of nobody yet."""
    take_up(place)
    await place.rotation.step()
    place.clock.advance(handler.SETTLE - 0.1)
    await place.rotation.step()
    assert place.types == []
    place.clock.advance(0.2)
    await place.rotation.step()
    assert place.types == ["pepper_activated"]


async def test_another_key_service_learns_it_from_the_log(place: Place) -> None:
    take_up(place)
    await place.settled()
    other = PepperRotation(
        Writer(place.memory, place.memory, Sealer(b"s" * 32), place.clock),
        place.memory,
        counts=place.counts,
        peppers=Peppers({"p1": b"1" * 32, "p2": b"2" * 32}, "p1"),
        system_workspace=_nothing,
        clock=place.clock,
    )
    assert other.active() == "p1"
    await other.refresh()
    assert other.active() == "p2"


async def _nothing() -> str | None:
    return None


async def test_an_old_pepper_is_retired_when_no_key_is_left_and_it_does_not_come_back(place: Place) -> None:
    take_up(place)
    await place.settled()
    place.peppers.become(BOTH, place.rotation.active())
    place.counts.left = 3
    for pepper, code in (("p1", "conflict"), ("p2", "conflict"), ("p9", "not_found")):
        with pytest.raises(Refusal) as caught:
            await place.rotation.retire(place.asked, pepper, force=False)
        assert caught.value.code == code
    place.counts.left = 0
    done, left = await place.rotation.retire(place.asked, "p1", force=False)
    assert (done.state.retired, left) == (("p1",), 0)
    place.peppers.become(ONE, "p1")
    await place.settled()
    assert place.types == ["pepper_activated", "pepper_retired"]
    standing = await place.rotation.standing()
    assert (standing.held, standing.retired) == (("p1",), ("p1",))


async def test_it_is_told_who_holds_what(place: Place) -> None:
    place.says("b", "p10", "p2")
    place.says("a", "p1")
    place.counts.left = 5
    standing = await place.rotation.standing()
    assert standing.verifiers == (("a", ("p1",)), ("b", ("p2", "p10")))
    assert (standing.active, standing.held, standing.left) == ("p1", ("p1",), 5)
