"""Receipts: who refuses by now, who may not yet, and when nobody can accept any more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from keyledger.clock import SECOND
from keyledger.errors import Refusal, unavailable
from keyledger.wire import HeadQuestion
from services.keys.handlers.receipts import MARGIN, MAX_VERIFIERS, SAVE_EVERY, SLACK, Receipt, Receipts
from services.keys.ports import Follower
from tests.support.followed_log import HandClock
from tests.support.waiting import until

LINE, OTHER = b"\x01" * 8, b"\x02" * 8


class MemoryFollowers:
    """The table that all key services share. `away` refuses."""

    def __init__(self) -> None:
        self.rows: dict[str, Follower] = {}
        self.away = False

    async def all(self) -> Sequence[Follower]:
        self._check()
        return list(self.rows.values())

    async def note(self, heard: Sequence[Follower], *, now: int) -> None:
        del now
        self._check()
        self.rows.update({each.name: each for each in heard})

    async def forget(self, name: str) -> None:
        self._check()
        self.rows.pop(name, None)

    def _check(self) -> None:
        if self.away:
            raise unavailable("unavailable", "away")


class Scene:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.followers = MemoryFollowers()
        self.receipts = Receipts(self.clock, self.followers)

    async def told(self, name: str, applied: int, line: bytes = LINE, staleness: float = 300) -> None:
        await self.receipts.note(HeadQuestion("n", name, line, applied, (), staleness))

    async def leaves(self, name: str) -> None:
        await self.receipts.note(HeadQuestion("", name, LINE, 0, leaving=True))

    async def collect(self, position: int = 7, wait: float = 0) -> Receipt:
        return await self.receipts.collect(position, LINE, since=self.clock.steady(), wait=wait)

    def certain_after(self, receipt: Receipt) -> float:
        """Seconds from now."""
        return (receipt.certain_by - self.clock.now()) / SECOND


@pytest.fixture
def scene() -> Scene:
    return Scene()


def names(receipt: Receipt) -> tuple[list[str], list[str]]:
    return [each.verifier for each in receipt.applied], list(receipt.pending)


async def test_without_verifiers_it_is_complete_and_certain_at_once(scene: Scene) -> None:
    assert await scene.collect(wait=30) == Receipt((), (), scene.clock.now())


async def test_without_waiting_it_tells_what_is_known(scene: Scene) -> None:
    await scene.told("ahead", 9)
    await scene.told("there", 7)
    await scene.told("behind", 6)
    await scene.told("elsewhere", 9, OTHER)
    receipt = await scene.collect()
    assert names(receipt) == (["ahead", "there"], ["behind", "elsewhere"])
    assert scene.certain_after(receipt) == 300 + MARGIN


async def test_it_is_certain_when_the_last_one_s_view_is_too_old_for_it(scene: Scene) -> None:
    await scene.told("strict", 6, staleness=10)
    scene.clock.advance(5)
    await scene.told("patient", 6, staleness=900)
    scene.clock.advance(3)
    assert scene.certain_after(await scene.collect()) == 900 + MARGIN - 3
    scene.clock.advance(5)
    receipt = await scene.collect()
    assert names(receipt) == ([], ["patient"])
    scene.clock.advance(900)
    assert await scene.collect() == Receipt((), (), scene.clock.now())


async def test_it_waits_for_all_and_then_is_certain(scene: Scene) -> None:
    await scene.told("a", 6)
    await scene.told("b", 7)
    waiting = asyncio.create_task(scene.collect(wait=30))
    await asyncio.sleep(0)
    scene.clock.advance(0.012)
    await scene.told("a", 7)
    receipt = await waiting
    assert names(receipt) == (["a", "b"], [])
    assert {each.verifier: each.ms for each in receipt.applied} == {"a": 12, "b": 0}
    assert receipt.certain_by == scene.clock.now()


async def test_one_that_was_killed_is_pending_until_it_can_accept_no_more(scene: Scene) -> None:
    await scene.told("killed", 6, staleness=10)
    # what it is told after the commit proves nothing to it while it has not applied that
    waiting = asyncio.create_task(scene.collect(wait=30))
    await asyncio.sleep(0)
    await scene.told("killed", 6, staleness=10)
    scene.clock.advance(10 + MARGIN)
    await scene.leaves("somebody")
    assert names(await waiting) == ([], [])


async def test_one_that_stopped_in_order_is_not_waited_for(scene: Scene) -> None:
    await scene.told("stops", 6)
    waiting = asyncio.create_task(scene.collect(wait=30))
    await asyncio.sleep(0)
    await scene.leaves("stops")
    assert names(await waiting) == ([], [])
    assert not scene.followers.rows


async def test_one_that_another_key_service_answered_is_waited_for(scene: Scene) -> None:
    other = Receipts(scene.clock, scene.followers)
    await other.note(HeadQuestion("n", "there", LINE, 6))
    assert names(await scene.collect()) == ([], ["there"])
    await scene.told("there", 7)
    assert names(await scene.collect()) == (["there"], [])


async def test_an_answer_that_another_key_service_gave_later_counts(scene: Scene) -> None:
    await scene.told("v", 6)
    scene.clock.advance(200)
    other = Receipts(scene.clock, scene.followers)
    await other.note(HeadQuestion("n", "v", LINE, 6))
    assert scene.certain_after(await scene.collect()) == 300 + MARGIN


async def test_after_a_restart_those_from_before_are_known(scene: Scene) -> None:
    await scene.told("v", 6)
    scene.clock.advance(SAVE_EVERY)
    await scene.receipts.save()
    scene.clock.advance(100)
    scene.receipts = Receipts(scene.clock, scene.followers)
    receipt = await scene.collect()
    assert names(receipt) == ([], ["v"])
    # it may have been answered after it was saved
    assert scene.certain_after(receipt) == 300 + MARGIN - 100 - SAVE_EVERY + SLACK


async def test_a_new_one_is_saved_before_it_is_answered_and_again_when_that_failed(scene: Scene) -> None:
    scene.followers.away = True
    await scene.told("v", 6)
    assert not scene.followers.rows
    scene.followers.away = False
    await scene.receipts.note(HeadQuestion("n", "v", LINE, 6), durably=False)
    assert not scene.followers.rows
    await scene.told("v", 6)
    assert scene.followers.rows.keys() == {"v"}


async def test_saving_goes_on_by_itself_and_is_not_stopped_by_an_absent_database(scene: Scene) -> None:
    scene.followers.away = True
    await scene.told("v", 6)
    scene.followers.away = False
    stop = asyncio.Event()
    running = asyncio.create_task(scene.receipts.run(stop))

    async def saved() -> bool:
        return bool(scene.followers.rows)

    await until(saved)
    stop.set()
    await running


async def test_those_there_is_no_room_for_make_the_receipt_late_and_not_wrong(scene: Scene) -> None:
    scene.followers.away = True
    for number in range(MAX_VERIFIERS + 1):
        await scene.told(f"v{number}", 9)
        scene.clock.advance(0.001)
    receipt = await scene.collect()
    assert (len(receipt.applied), receipt.pending) == (MAX_VERIFIERS, ())
    assert scene.certain_after(receipt) == pytest.approx(300 + MARGIN - 1, abs=0.1)


async def test_a_revocation_while_the_table_is_away_is_answered_from_what_is_known(scene: Scene) -> None:
    await scene.told("v", 7)
    scene.followers.away = True
    assert names(await scene.collect()) == (["v"], [])
    with pytest.raises(Refusal):
        await scene.followers.all()
