"""The middleware behind a gateway: whose word counts, and that it is no more than a word about the key."""

from typing import Any

import pytest

from keyledger.client.asgi import Identity, KeyledgerMiddleware
from keyledger.client.identity import without_identity
from tests.support.asgi_calls import VERIFIER, Echo, FakeVerifier, call

TOLD = [
    (b"x-workspace-id", b"ws_7"),
    (b"x-key-id", b"key_7"),
    (b"x-key-name", b"B%C3%BCro"),
    (b"x-key-environment", b"live"),
    (b"x-key-scopes", b"contacts:read"),
]
KNOWN = Identity("ws_7", "key_7", "Büro", "live", ("contacts:read",))
GATEWAY, STRANGER = ("10.1.2.3", 5), ("10.2.2.3", 5)


@pytest.fixture
def verifier() -> FakeVerifier:
    made = FakeVerifier()
    made.refuse(401, "missing_api_key")
    return made


@pytest.fixture
def echo() -> Echo:
    return Echo()


def guard(echo: Echo, verifier: FakeVerifier, **options: Any) -> KeyledgerMiddleware:
    options = {"trusted_gateways": ["10.1.0.0/16", "::1"], **options}
    return KeyledgerMiddleware(echo, verifier=VERIFIER, transport=verifier.transport, **options)


@pytest.mark.parametrize("client", [GATEWAY, ("::1", 5), ("::ffff:10.1.2.3", 5)])
async def test_a_gateways_word_is_believed_and_nobody_is_asked(
    verifier: FakeVerifier, echo: Echo, client: tuple[str, int]
) -> None:
    sent = await call(guard(echo, verifier), "/", headers=TOLD, client=client)
    assert sent[0]["status"] == 200
    assert echo.scopes[0]["state"]["keyledger"] == KNOWN
    assert echo.scopes[0]["headers"] == []
    assert verifier.questions == []


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        (TOLD, STRANGER),
        (TOLD, ("a-socket", 0)),
        (TOLD, None),
        ([], GATEWAY),
        (TOLD[1:], GATEWAY),
        ([(b"x-workspace-id", b""), *TOLD[1:]], GATEWAY),
        ([*TOLD, TOLD[1]], GATEWAY),
        ([(name.replace(b"-", b"_"), value) for name, value in TOLD], GATEWAY),
    ],
)
async def test_every_other_word_is_a_strangers(
    verifier: FakeVerifier, echo: Echo, headers: list[tuple[bytes, bytes]], client: tuple[str, int] | None
) -> None:
    sent = await call(guard(echo, verifier), "/", headers=headers, client=client)
    assert sent[0]["status"] == 401
    assert echo.scopes == []
    assert len(verifier.questions) == 1


async def test_nobody_is_believed_unless_told_so(verifier: FakeVerifier, echo: Echo) -> None:
    sent = await call(guard(echo, verifier, trusted_gateways=()), "/", headers=TOLD, client=GATEWAY)
    assert sent[0]["status"] == 401


@pytest.mark.parametrize(
    ("options", "scopes", "status"),
    [
        ({"scopes": {"GET /": ["contacts:read"]}}, b"contacts:read", 200),
        ({"scopes": {"GET /": ["contacts:read"]}}, b"*", 200),
        ({"scopes": {"GET /": ["contacts:read", "contacts:write"]}}, b"contacts:read", 403),
        ({"scopes": {"GET /": ["keyledger:admin"]}}, b"*", 403),
        ({"scopes": {"GET /": ["contacts:read"]}}, b"", 403),
        ({"environment": "live"}, b"", 200),
        ({"environment": "test"}, b"*", 403),
    ],
)
async def test_what_a_key_must_cover_is_checked_here_too(
    verifier: FakeVerifier, echo: Echo, options: dict[str, Any], scopes: bytes, status: int
) -> None:
    headers = [*TOLD[:-1], (b"x-key-scopes", scopes)]
    sent = await call(guard(echo, verifier, **options), "/", headers=headers, client=GATEWAY)
    assert sent[0]["status"] == status
    if status == 403:
        assert sent[1]["body"] == b'{"error":"insufficient_permissions"}'
        assert echo.scopes == []


async def test_limits_that_the_gateway_passes_on_are_told_and_a_strangers_are_not(
    verifier: FakeVerifier, echo: Echo
) -> None:
    limits = [(b"x-ratelimit-remaining", b"3"), (b"ratelimit", b'"workspace";r=3;t=9')]
    sent = await call(guard(echo, verifier), "/", headers=[*TOLD, *limits], client=GATEWAY)
    assert [pair for pair in sent[0]["headers"] if b"ratelimit" in pair[0]] == limits
    sent = await call(guard(echo, verifier), "/", headers=[*TOLD, *limits], client=STRANGER)
    assert [pair for pair in sent[0]["headers"] if b"ratelimit" in pair[0]] == []


async def test_a_websocket_of_a_gateway_is_let_in(verifier: FakeVerifier, echo: Echo) -> None:
    sent = await call(guard(echo, verifier), "/", headers=TOLD, client=GATEWAY, kind="websocket")
    assert sent[0]["type"] == "websocket.accept"


@pytest.mark.parametrize("trusted", ["gateway", "10.1.2.3/16", "10.1.0.0/33", ""])
def test_what_is_no_address_is_refused_at_once(verifier: FakeVerifier, echo: Echo, trusted: str) -> None:
    with pytest.raises(ValueError, match=r"does not appear|host bits"):
        guard(echo, verifier, trusted_gateways=[trusted])


@pytest.mark.parametrize("separator", "-_.~!#$%&'*+^`|")
def test_no_spelling_of_an_identity_reaches_the_application(separator: str) -> None:
    spelled = [(name.replace(b"-", separator.encode()), value) for name, value in TOLD]
    assert without_identity([*spelled, (b"x-keyboard", b"1"), (b"\xff-key", b"2")]) == [
        (b"x-keyboard", b"1"),
        (b"\xff-key", b"2"),
    ]
