"""Secrets that no digest here can tell: proven by the key service once, never taken for wrong meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from keyledger.digest import Peppers, foreign
from keyledger.errors import Refusal
from keyledger.events import KeyImported, KeyText, NewSecret, SecretDigested
from keyledger.verification import proving
from keyledger.verification.proving import Proofs, Proven, ProverUnavailable, Unproven
from tests.support.followed_log import PEPPERS, HandClock, key_created, key_id, token
from tests.support.verifying import World
from tests.support.waiting import until

KEY, FOREIGN = key_id(1), "sk-from-elsewhere"
LOST = Peppers({"p0": bytes(32)}, "p0")
BOTH = Peppers({"p0": bytes(32), "p1": bytes(range(32))}, "p1")


class KeyService:
    """Proves the tokens it knows (text → key id): a digest is recorded, and this verifier has applied it."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.asked: list[str] = []
        self.away = False
        self.held: asyncio.Event | None = None
        self.world: World | None = None

    async def prove(self, text: str) -> Proven | None:
        self.asked.append(text)
        if self.held is not None:
            await self.held.wait()
        if self.away:
            raise ProverUnavailable("away")
        if text not in self.known:
            return None
        position = 1
        if self.world is not None:
            shown = text if text.startswith("cvtk_") else foreign(text)
            self.world.add(self.known[text], SecretDigested(1, {"p1": PEPPERS.digest(shown)}))
            await self.world.caught_up()
            position = self.world.store.position
        return Proven(self.known[text], position, "1-0101010101010101")


def lost_key(number: int = 1) -> Any:
    """A key whose digest is under a pepper that nobody has any more."""
    text = token(number)
    secret = NewSecret("cvtk_live_…0000", {"p0": LOST.digest(text)})
    created = key_created(number)
    return type(created)("live", ("*",), secret, private=KeyText(f"key {number}"))


def imported(peppers: Peppers, text: str = FOREIGN) -> KeyImported:
    """A foreign key with a digest under the active one of these peppers."""
    secret = NewSecret("imported", {peppers.active: peppers.digest(foreign(text))})
    return KeyImported("live", ("*",), secret, private=KeyText("imported"))


@pytest.fixture
def service() -> KeyService:
    return KeyService()


async def world_of(service: KeyService, *events: tuple[str, Any]) -> World:
    world = World(prover=service)
    service.world = world
    for stream, event in events:
        world.add(stream, event)
    return await world.caught_up()


async def code(world: World, text: str) -> str:
    async with world.client() as client:
        answer = await client.post("/v1/verify", json={"key": text})
        return answer.json().get("code") or f"{answer.status_code} {answer.json()['error']}"


async def test_a_key_whose_pepper_is_lost_is_proven_once_and_then_known(service: KeyService) -> None:
    world = await world_of(service, (KEY, lost_key()))
    service.known[token(1)] = KEY
    assert [await code(world, token(1)) for _ in range(3)] == ["VALID"] * 3
    assert service.asked == [token(1)]


async def test_a_wrong_secret_is_asked_about_once_a_minute_and_its_key_is_not_held_up(
    service: KeyService,
) -> None:
    world = await world_of(service, (KEY, lost_key()))
    service.known[token(1)] = KEY
    wrong = token(1, secret=2)
    assert [await code(world, wrong) for _ in range(3)] == ["NOT_FOUND"] * 3
    assert service.asked == [wrong]
    assert await code(world, token(1)) == "VALID", "whoever holds the secret is not locked out"
    world.clock.advance(proving.REMEMBERED + 1)
    await world.caught_up()
    assert await code(world, wrong) == "NOT_FOUND"
    assert service.asked == [wrong, token(1)], "by now a digest tells"


async def test_a_refuted_token_is_asked_about_again_after_a_minute(service: KeyService) -> None:
    world = await world_of(service, (KEY, lost_key()))
    for _ in range(2):
        assert await code(world, token(1, secret=2)) == "NOT_FOUND"
        world.clock.advance(proving.REMEMBERED + 1)
        await world.caught_up()
    assert len(service.asked) == 2


async def test_without_the_key_service_it_is_busy_and_never_unauthorized(service: KeyService) -> None:
    world = await world_of(service, (KEY, lost_key()))
    service.away = True
    async with world.client() as client:
        batch = {"requests": [{"key": token(1)}]}
        told = [
            await client.post("/v1/verify", json={"key": token(1)}),
            await client.post("/v1/verify/batch", json=batch),
            await client.get("/v1/gateway", headers={"X-API-Key": token(1)}),
        ]
        denied = await client.get("/v1/gateway?deny=403", headers={"X-API-Key": token(1)})
    for answer in told:
        assert (answer.status_code, answer.json()["error"]) == (503, "busy")
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["x-request-id"]
    assert (denied.status_code, denied.headers["x-verify-status"]) == (403, "503")


async def test_the_gateway_waits_for_the_proof(service: KeyService) -> None:
    world = await world_of(service, (KEY, lost_key()))
    service.known[token(1)] = KEY
    async with world.client() as client:
        assert (await client.get("/v1/gateway", headers={"X-API-Key": token(1)})).status_code == 200
        wrong = await client.get("/v1/gateway", headers={"X-API-Key": token(1, secret=2)})
        assert wrong.json() == {"error": "invalid_api_key"}


async def test_a_batch_is_proven_before_any_of_it_is_spent(service: KeyService) -> None:
    world = await world_of(service, (key_id(2), key_created(2)), (KEY, lost_key()))
    asked = {"requests": [{"key": token(2)}, {"key": token(1)}, {"key": token(1, secret=2)}]}
    async with world.client() as client:
        service.away = True
        assert (await client.post("/v1/verify/batch", json=asked)).status_code == 503
        service.away = False
        service.known[token(1)] = KEY
        verdicts = (await client.post("/v1/verify/batch", json=asked)).json()["verdicts"]
    assert [verdict["code"] for verdict in verdicts] == ["VALID", "VALID", "NOT_FOUND"]
    assert verdicts[0]["rate_limit"]["remaining"] == 999, "the first try spent nothing"


async def test_a_mismatch_under_a_pepper_held_is_definitive(service: KeyService) -> None:
    world = await world_of(service, (KEY, key_created(1)))
    assert await code(world, token(1, secret=2)) == "NOT_FOUND"
    assert await code(world, token(7)) == "NOT_FOUND"
    assert service.asked == []


async def test_a_foreign_token_is_found_by_its_digest_and_others_are_nobodys(service: KeyService) -> None:
    world = await world_of(service, (KEY, imported(PEPPERS)))
    assert await code(world, FOREIGN) == "VALID"
    assert await code(world, "sk-unknown") == "NOT_FOUND"
    assert await code(world, "x" * 513) == "MALFORMED"
    assert await code(world, token(1)) == "NOT_FOUND", "the key's id is no way around its token"
    assert service.asked == [], "garbage costs the key service nothing"


async def test_a_foreign_token_whose_pepper_is_lost_is_proven(service: KeyService) -> None:
    world = await world_of(service, (KEY, imported(LOST)))
    service.known[FOREIGN] = KEY
    assert await code(world, "sk-unknown") == "NOT_FOUND"
    assert [await code(world, FOREIGN) for _ in range(2)] == ["VALID"] * 2
    assert service.asked == ["sk-unknown", FOREIGN]
    assert await code(world, "sk-another") == "NOT_FOUND"
    assert len(service.asked) == 2, "by now every imported token can be found"


async def test_without_a_prover_what_cannot_be_told_is_nobodys() -> None:
    world = World()
    world.add(KEY, lost_key())
    await world.caught_up()
    assert world.verifier.check(token(1)).code == "NOT_FOUND"


async def test_asked_without_waiting_it_is_busy_and_shows_no_token(service: KeyService) -> None:
    world = await world_of(service, (KEY, lost_key()))
    with pytest.raises(Unproven) as caught:
        world.verifier.check(token(1))
    assert caught.value.code == "busy"
    assert token(1) not in f"{caught.value!r} {caught.value} {vars(caught.value)}"


@pytest.fixture
async def proofs(service: KeyService) -> AsyncIterator[Proofs]:
    found = Proofs(service, _reached, HandClock())
    await found.start()
    yield found
    await found.stop()


async def _reached(position: int, epoch: str) -> bool:
    del position, epoch
    return True


async def test_the_same_token_is_asked_about_once_however_many_wait(
    service: KeyService, proofs: Proofs
) -> None:
    service.held = asyncio.Event()
    waiting = [asyncio.create_task(proofs.prove("a")) for _ in range(10)]
    await until(_some(service), describe="the question")
    waiting[0].cancel()
    service.held.set()
    await asyncio.gather(*waiting[1:])
    assert service.asked == ["a"]
    assert proofs.refuted("a")


def _some(service: KeyService) -> Any:
    async def some() -> bool:
        return bool(service.asked)

    return some


async def test_few_are_asked_about_at_once_and_beyond_the_bound_it_is_busy(
    service: KeyService, proofs: Proofs
) -> None:
    service.held = asyncio.Event()
    waiting = [asyncio.create_task(proofs.prove(str(number))) for number in range(proving.MAX_WAITING)]

    async def full() -> bool:
        return len(service.asked) == proving.AT_ONCE

    await until(full, describe="as many as may be asked at once")
    with pytest.raises(Refusal) as caught:
        await proofs.prove("one more")
    assert caught.value.code == "busy"
    service.held.set()
    await asyncio.gather(*waiting)
    assert len(service.asked) == proving.MAX_WAITING


async def test_a_key_is_told_once_a_minute_that_it_may_move(service: KeyService, proofs: Proofs) -> None:
    for _ in range(5):
        proofs.later("a", (KEY, 1))
    proofs.later("b", (KEY, 2))

    async def both() -> bool:
        return service.asked == ["a", "b"]

    await until(both, describe="each asked for once")


async def test_a_used_key_moves_to_the_active_pepper_and_a_look_moves_none(service: KeyService) -> None:
    world = World(peppers=BOTH, prover=service)
    world.add(KEY, lost_key())
    await world.caught_up()
    world.follower.pepper = "p1"
    await world.verifier.start()
    try:
        assert world.verifier.check(token(1), cost=0).valid
        assert world.verifier.check(token(1, secret=2)).code == "NOT_FOUND"
        assert service.asked == []
        world.follower.pepper = "p9"
        assert world.verifier.check(token(1)).valid, "a pepper that is not held here is nothing to move to"
        assert service.asked == []
        # the key service says which is active each second; here it said nothing yet
        world.follower.pepper = "p1"
        assert world.verifier.check(token(1)).valid
        await until(_some(service), describe="the key service is asked to digest it")
        assert service.asked == [token(1)]
    finally:
        await world.verifier.stop()
