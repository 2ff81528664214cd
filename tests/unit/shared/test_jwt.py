"""Session tokens: read by published keys alone, and refused for whatever is not exactly as it must be."""

import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import httpx2
import pytest

from keyledger.clock import SECOND
from keyledger.errors import Refusal
from keyledger.server import jwt
from keyledger.server.ids import new_id
from keyledger.server.jwt import (
    ASK_AGAIN,
    FRESH,
    HELD,
    MAX_JWKS,
    PAUSE,
    Claims,
    HttpPublishedKeys,
    KeyRing,
    KeysUnavailable,
    SessionTokens,
)
from tests.support.clock import ManualClock
from tests.support.issuing import EcKey, EdKey, Issuer
from tests.support.tokens import encode, with_hmac, with_none

USER, WS = new_id("user"), new_id("ws")
Answer: TypeAlias = Callable[[httpx2.Request], httpx2.Response]
Publish: TypeAlias = Callable[[Answer], HttpPublishedKeys]


class Place:
    """An issuer whose keys may be away, a clock that stands still, and a reader of its tokens."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.issuer = Issuer()
        self.away: str | None = None
        self.tokens = SessionTokens(self.issuer.url, KeyRing(self, self.clock), self.clock)

    async def fetch(self) -> bytes:
        body = await self.issuer.fetch()
        if self.away is not None:
            raise KeysUnavailable(self.away)
        return body

    def claims(self, **other: Any) -> dict[str, Any]:
        now = self.clock.now() // SECOND
        said: dict[str, Any] = {"ws": WS, "iat": now, "exp": now + 600, **other}
        return self.issuer.claims(USER, **said)

    def token(self, **other: Any) -> str:
        return self.issuer.key.sign(self.claims(**other))

    async def refused(self, token: str, code: str = "invalid_api_key") -> None:
        with pytest.raises(Refusal) as caught:
            await self.tokens.read(token)
        assert caught.value.code == code
        assert caught.value.field is None


@pytest.fixture
def place() -> Place:
    return Place()


async def test_a_good_token_says_who_where_and_until_when(place: Place) -> None:
    claims = place.claims()
    read = await place.tokens.read(place.issuer.key.sign(claims))
    assert read == Claims(USER, claims["sid"], WS, claims["exp"] * SECOND)
    assert (await place.tokens.read(place.token(ws=None))).workspace_id is None


@pytest.mark.parametrize("algorithm", ["EdDSA", "Ed25519"])
async def test_an_ed25519_key_serves_as_well(place: Place, algorithm: str) -> None:
    key = EdKey()
    place.issuer.published.append(key.jwk)
    assert (await place.tokens.read(key.sign(place.claims(), alg=algorithm))).user_id == USER


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "http://issuer.test/"}, {"iss": "http://evil.test"}, {"iss": None},
        {"aud": "other"}, {"aud": ["keyledger"]}, {"aud": None},
        {"sub": "key_" + "1" * 22}, {"sub": "user_1"}, {"sub": None}, {"sub": 7},
        {"sid": "sid"}, {"sid": None}, {"ws": "ws_1"}, {"ws": 7},
        {"iat": None}, {"exp": None}, {"iat": "now"}, {"exp": 1e10}, {"exp": True},
        {"exp": 0}, {"exp": 2**80}, {"nbf": 2**40},
    ],
    ids=str,
)  # fmt: skip
async def test_a_claim_that_is_missing_or_wrong_is_refused(place: Place, wrong: dict[str, Any]) -> None:
    await place.refused(place.token(**wrong))


@pytest.mark.parametrize(
    ("times", "good"),
    [
        ({"iat": -600, "exp": 1}, True),
        ({"iat": -600, "exp": -29}, True),
        ({"iat": -600, "exp": -30}, False),
        ({"iat": 30, "exp": 600}, True),
        ({"iat": 31, "exp": 600}, False),
        ({"nbf": 30}, True),
        ({"nbf": 31}, False),
        ({"iat": 0, "exp": 3600}, True),
        ({"iat": 0, "exp": 3601}, False),
        ({"iat": 10, "exp": 10}, False),
    ],
)
async def test_times_have_a_leeway_of_half_a_minute(place: Place, times: dict[str, int], good: bool) -> None:
    now = place.clock.now() // SECOND
    token = place.token(**{name: now + offset for name, offset in times.items()})
    if good:
        await place.tokens.read(token)
    else:
        await place.refused(token)


def _tampered(token: str, part: int, change: Callable[[dict[str, Any]], dict[str, Any]]) -> str:
    parts = token.split(".")
    raw = json.loads(base64.urlsafe_b64decode(parts[part] + "=="))
    parts[part] = encode(json.dumps(change(raw)).encode())
    return ".".join(parts)


async def test_what_was_signed_cannot_be_changed(place: Place) -> None:
    token = place.token()
    await place.refused(_tampered(token, 1, lambda body: body | {"sub": new_id("user")}))
    await place.refused(_tampered(token, 0, lambda head: head | {"typ": "jwt"}))
    head, body, signature = token.split(".")
    for forged in (
        f"{head}.{body}.", f"{head}.{body}", f"{head}..{signature}", "..", "", "a.b.c", f"{token}.x",
        f"{head}.{body}.{'A' * len(signature)}", f"{head}.{body}.{signature[:-4]}", token + "é", "x" * 5000,
    ):  # fmt: skip
        await place.refused(forged)


async def test_a_key_that_nobody_published_signs_nothing(place: Place) -> None:
    stranger = EcKey(place.issuer.key.kid)
    await place.refused(stranger.sign(place.claims()))
    for name in ("jwk", "jku", "x5u", "x5c", "crit", "b64"):
        extra: Any = {"jwk": stranger.jwk, "x5c": ["x"], "crit": ["exp"], "b64": True}.get(
            name, "http://evil.test"
        )
        await place.refused(stranger.sign(place.claims(), **{name: extra}))
        await place.refused(place.issuer.key.sign(place.claims(), **{name: extra}))


async def test_the_algorithm_is_the_key_s_own(place: Place) -> None:
    kid = place.issuer.key.kid
    await place.refused(with_none(place.claims(), kid=kid))
    for secret in (place.issuer.key.pem, json.dumps(place.issuer.key.jwk).encode(), b""):
        await place.refused(with_hmac(secret, place.claims(), kid=kid))
    for algorithm in ("none", "HS256", "RS256", "ES384", "EdDSA", "es256", "", None, 7):
        await place.refused(place.issuer.key.sign(place.claims(), alg=algorithm))
    key = EdKey()
    place.issuer.published.append(key.jwk)
    await place.refused(key.sign(place.claims(), alg="ES256"))


@pytest.mark.parametrize(
    "head", [{"typ": "at+jwt"}, {"typ": None}, {"kid": ""}, {"kid": "x" * 129}, {"kid": 7}]
)
async def test_a_header_says_type_and_key_as_it_must(place: Place, head: dict[str, Any]) -> None:
    await place.refused(place.issuer.key.sign(place.claims(), **head))


async def test_keys_for_something_else_are_passed_over(place: Place) -> None:
    key = place.issuer.key
    for unfit in (
        {**key.jwk, "use": "enc"}, {**key.jwk, "crv": "P-384"}, {**key.jwk, "x": "AAAA"},
        {**key.jwk, "kid": ""},
        {"kty": "oct", "k": "c2VjcmV0", "kid": key.kid}, {"kty": "RSA", "kid": key.kid}, {"kid": key.kid}, 7,
    ):  # fmt: skip
        place.issuer.published = [unfit]
        await place.refused(place.token())
        place.clock.advance(ASK_AGAIN + 1)
    place.issuer.published = [key.jwk, EcKey(key.kid).jwk]
    await place.refused(place.token())
    place.clock.advance(ASK_AGAIN + 1)
    place.issuer.published = [7, {"kty": "RSA", "kid": "other"}, key.jwk]
    assert (await place.tokens.read(place.token())).user_id == USER


async def test_a_new_key_is_asked_for_once_and_not_for_every_token(place: Place) -> None:
    await place.tokens.read(place.token())
    assert place.issuer.asked == 1
    place.issuer.key = EcKey("second")
    for _ in range(3):
        await place.refused(place.token())
    assert place.issuer.asked == 1
    place.clock.advance(ASK_AGAIN + 1)
    place.issuer.published.append(place.issuer.key.jwk)
    for _ in range(3):
        assert (await place.tokens.read(place.token())).user_id == USER
    assert place.issuer.asked == 2


async def test_a_key_that_is_taken_back_counts_no_more_once_the_set_is_old(place: Place) -> None:
    await place.tokens.read(place.token())
    place.issuer.published.clear()
    await place.tokens.read(place.token())
    place.clock.advance(FRESH + 1)
    await place.refused(place.token())


async def test_without_any_key_nobody_can_say(place: Place) -> None:
    place.away = "gone"
    for _ in range(5):
        await place.refused(place.token(), "unavailable")
    assert place.issuer.asked == 1, "a service that is away is not asked for every token"
    place.clock.advance(PAUSE)
    place.away = None
    await place.tokens.read(place.token())


async def test_known_keys_count_for_an_hour_while_the_issuer_is_away(place: Place) -> None:
    await place.tokens.read(place.token())
    place.away = "gone"
    place.clock.advance(FRESH + 1)
    for _ in range(5):
        await place.tokens.read(place.token())
    assert place.issuer.asked == 2
    # a key that is not known may be a new one
    await place.refused(EcKey("second").sign(place.claims()), "unavailable")
    place.clock.advance(HELD - FRESH - 2)
    await place.tokens.read(place.token())
    place.clock.advance(2)
    await place.refused(place.token(), "unavailable")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"keys": 7}', b"\xff", b'{"keys": [{]}'])
async def test_what_is_no_set_of_keys_is_nothing(place: Place, body: bytes) -> None:
    class Nonsense:
        async def fetch(self) -> bytes:
            return body

    tokens = SessionTokens(place.issuer.url, KeyRing(Nonsense(), place.clock), place.clock)
    with pytest.raises(Refusal) as caught:
        await tokens.read(place.token())
    assert caught.value.code == "unavailable"


@pytest.fixture
async def asked() -> AsyncIterator[Publish]:
    made: list[HttpPublishedKeys] = []

    def publish(answer: Answer) -> HttpPublishedKeys:
        made.append(HttpPublishedKeys("http://issuer.test/jwks", transport=httpx2.MockTransport(answer)))
        return made[-1]

    yield publish
    for each in made:
        await each.close()


async def test_keys_are_fetched_as_they_stand(asked: Publish) -> None:
    keys = asked(lambda request: httpx2.Response(200, content=str(request.url).encode()))
    assert await keys.fetch() == b"http://issuer.test/jwks"


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(500),
        httpx2.Response(404, content=b'{"keys":[]}'),
        httpx2.Response(302, headers={"Location": "http://evil.test/"}),
        httpx2.Response(200, content=b" " * (MAX_JWKS + 1)),
    ],
    ids=["500", "404", "redirect", "too long"],
)
async def test_another_answer_is_none(asked: Publish, answer: httpx2.Response) -> None:
    with pytest.raises(KeysUnavailable):
        await asked(lambda _: answer).fetch()


async def test_an_issuer_that_cannot_be_reached_is_away(asked: Publish) -> None:
    def unreachable(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    with pytest.raises(KeysUnavailable):
        await asked(unreachable).fetch()


def test_the_audience_is_frozen() -> None:
    assert jwt.AUDIENCE == "keyledger"
