"""The signer over time: keys made, published, used, kept and dropped, as whoever reads the set sees it."""

import json

import pytest

from keyledger.clock import SECOND
from keyledger.errors import Refusal
from keyledger.server.ids import new_id
from keyledger.server.jwt import KeyRing, SessionTokens
from keyledger.server.seal import SealBroken, Sealer
from services.dashboard.domain.session import Session, claims
from services.dashboard.domain.signing import AHEAD, KEPT, PERIOD
from services.dashboard.handlers.signing import Signer
from tests.support.clock import ManualClock
from tests.support.memory_accounts import MemorySigningKeys
from tests.support.tokens import header

ISSUER = "https://keys.example"
SEALER = Sealer(b"s" * 32)


def signer_of(store: MemorySigningKeys, clock: ManualClock, sealer: Sealer = SEALER) -> Signer:
    """One process's signer."""
    return Signer(store, sealer, clock, lambda: new_id("jwk"))


def token(signer: Signer, clock: ManualClock) -> str:
    """A session token of now."""
    session = Session(new_id("ses"), new_id("user"), None, None, clock.now(), clock.now())
    return signer.sign(claims(ISSUER, session, jwt_id="jti_1", now=clock.now())).reveal()


def kids(signer: Signer) -> list[str]:
    """The ids of the published keys."""
    return [key["kid"] for key in json.loads(signer.key_set())["keys"]]


async def test_keys_follow_each_other_and_readers_never_meet_one_they_cannot_know() -> None:
    clock, store = ManualClock(), MemorySigningKeys()
    signer = signer_of(store, clock)
    reader = SessionTokens(ISSUER, KeyRing(signer, clock), clock)
    await signer.refresh()
    [first] = kids(signer)
    clock.advance((PERIOD - AHEAD) / SECOND)
    await signer.refresh()
    [_, second] = kids(signer)
    assert header(token(signer, clock))["kid"] == first
    clock.advance(AHEAD / SECOND - 300)
    old = token(signer, clock)
    assert header(old)["kid"] == first
    clock.advance(300)
    new = token(signer, clock)
    assert header(new)["kid"] == second
    for each in (old, new):
        assert (await reader.read(each)).session_id.startswith("ses_")
    clock.advance(KEPT / SECOND)
    await signer.refresh()
    assert kids(signer) == [second]
    assert [key.times.kid for key in await store.all()] == [second]


async def test_processes_share_their_keys() -> None:
    clock, store = ManualClock(), MemorySigningKeys()
    one, other = signer_of(store, clock), signer_of(store, clock)
    await one.refresh()
    await other.refresh()
    assert kids(one) == kids(other)
    reader = SessionTokens(ISSUER, KeyRing(other, clock), clock)
    assert (await reader.read(token(one, clock))).user_id.startswith("user_")


async def test_nothing_private_is_published_or_stored_unsealed() -> None:
    clock, store = ManualClock(), MemorySigningKeys()
    signer = signer_of(store, clock)
    await signer.refresh()
    [key] = json.loads(signer.key_set())["keys"]
    assert key.keys() == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    [stored] = await store.all()
    assert b"PRIVATE" not in stored.sealed
    with pytest.raises(SealBroken):
        await signer_of(store, clock, Sealer(b"t" * 32)).refresh()


async def test_without_a_key_nobody_signs() -> None:
    signer = signer_of(MemorySigningKeys(), ManualClock())
    assert not signer.ready
    with pytest.raises(Refusal):
        signer.sign({})
