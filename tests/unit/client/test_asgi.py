"""The middleware: who comes in, what the refused are told, and that it never opens by failing."""

import asyncio
from typing import Any

import httpx2
import pytest

from keyledger.client.asgi import Identity, KeyledgerMiddleware
from keyledger.client.gateway import Gateway
from tests.support.asgi_calls import VERIFIER, Echo, FakeVerifier, call

KEY = (b"x-api-key", b"cvtk_live_secret")


@pytest.fixture
def verifier() -> FakeVerifier:
    return FakeVerifier()


@pytest.fixture
def echo() -> Echo:
    return Echo()


def guard(echo: Echo, verifier: FakeVerifier, **options: Any) -> KeyledgerMiddleware:
    return KeyledgerMiddleware(echo, verifier=VERIFIER, transport=verifier.transport, **options)


def header(messages: list[dict[str, Any]], name: bytes) -> list[bytes]:
    return [value for key, value in messages[0]["headers"] if key == name]


async def test_a_good_key_comes_in_with_its_identity(verifier: FakeVerifier, echo: Echo) -> None:
    sent = await call(guard(echo, verifier), "/v1/contacts", headers=[KEY])
    assert sent[0]["status"] == 200
    assert echo.scopes[0]["state"]["keyledger"] == Identity(
        "ws_1", "key_1", "Büro key", "live", ("contacts:read", "contacts:write")
    )


async def test_the_answer_tells_the_limits_and_the_application_cannot_forge_them(
    verifier: FakeVerifier, echo: Echo
) -> None:
    sent = await call(guard(echo, verifier), "/", headers=[KEY])
    assert header(sent, b"x-ratelimit-limit") == [b"10"]
    assert header(sent, b"x-ratelimit-remaining") == [b"9"]
    assert header(sent, b"x-ratelimit-reset") == [b"60"]
    assert header(sent, b"ratelimit") == [b'"workspace";r=9;t=30']
    assert header(sent, b"ratelimit-policy") == [b'"workspace";q=10;w=60']
    assert header(sent, b"x-mine") == [b"1"]
    assert header(sent, b"x-workspace-id") == []


async def test_the_question_holds_the_credential_the_requirements_and_the_address_and_nothing_else(
    verifier: FakeVerifier, echo: Echo
) -> None:
    app = guard(echo, verifier, scopes={"POST /v1/contacts": ["contacts:write", "x"]}, environment="live")
    forged = [
        (b"x-required-scopes", b"evil"),
        (b"x-required-environment", b"test"),
        (b"x-keyledger-client-ip", b"10.0.0.1"),
        (b"cookie", b"a=b"),
        (b"x-request-id", b"caller-7"),
        (b"authorization", b"Bearer abc"),
    ]
    await call(app, "/v1/contacts", method="POST", headers=[KEY, *forged])
    question = verifier.questions[0]
    assert (question["method"], question["path"], question["query_string"]) == ("GET", "/v1/gateway", b"")
    assert verifier.asked("x-api-key") == ["cvtk_live_secret"]
    assert verifier.asked("authorization") == ["Bearer abc"]
    assert verifier.asked("x-required-scopes") == ["contacts:write x"]
    assert verifier.asked("x-required-environment") == ["live"]
    assert verifier.asked("x-keyledger-client-ip") == ["192.0.2.7"]
    assert verifier.asked("x-request-id") == ["caller-7"]
    assert verifier.asked("cookie") == []


async def test_a_request_that_has_a_name_keeps_it(verifier: FakeVerifier, echo: Echo) -> None:
    guarded = guard(echo, verifier)

    async def naming(scope: Any, receive: Any, send: Any) -> None:
        await guarded({**scope, "state": {"request_id": "req_outer"}}, receive, send)

    verifier.refuse(401, "missing_api_key")
    sent = await call(naming, "/", headers=[(b"x-request-id", b"caller-7")])
    assert verifier.asked("x-request-id") == ["req_outer"]
    assert header(sent, b"x-request-id") == []


async def test_two_keys_are_passed_on_as_two(verifier: FakeVerifier, echo: Echo) -> None:
    await call(guard(echo, verifier), "/", headers=[KEY, (b"x-api-key", b"other")])
    assert verifier.asked("x-api-key") == ["cvtk_live_secret", "other"]


async def test_without_an_address_none_is_told(verifier: FakeVerifier, echo: Echo) -> None:
    await call(guard(echo, verifier), "/", headers=[KEY], client=None)
    assert verifier.asked("x-keyledger-client-ip") == []


async def test_forged_identity_headers_never_reach_the_application(
    verifier: FakeVerifier, echo: Echo
) -> None:
    forged = [
        (b"x-workspace-id", b"ws_evil"),
        (b"x_workspace_id", b"ws_evil"),
        (b"X-Key-Id", b"key_evil"),
        (b"x-key_scopes", b"*"),
        (b"x-keyring", b"kept"),
    ]
    await call(guard(echo, verifier), "/", headers=[KEY, *forged])
    assert echo.scopes[0]["headers"] == [KEY, (b"x-keyring", b"kept")]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "invalid_request"),
        (401, "invalid_api_key"),
        (403, "insufficient_permissions"),
        (429, "rate_limit_exceeded"),
    ],
)
async def test_a_refusal_is_told_as_the_verifier_told_it(
    verifier: FakeVerifier, echo: Echo, status: int, code: str
) -> None:
    verifier.refuse(
        status, code,
        (b"www-authenticate", b"ApiKey"), (b"x-ratelimit-reset", b"60"), (b"retry-after", b"7"),
        (b"ratelimit", b"r"), (b"x-request-id", b"req_9"), (b"set-cookie", b"no"), (b"server", b"no"),
    )  # fmt: skip
    sent = await call(guard(echo, verifier), "/", headers=[KEY])
    assert sent[0]["status"] == status
    assert sent[1]["body"] == b'{"error": "%s"}' % code.encode()
    assert dict(sent[0]["headers"]) == {
        b"www-authenticate": b"ApiKey",
        b"x-ratelimit-reset": b"60",
        b"retry-after": b"7",
        b"ratelimit": b"r",
        b"x-request-id": b"req_9",
        b"content-type": b"application/json",
        b"content-length": str(len(sent[1]["body"])).encode(),
        b"cache-control": b"no-store",
    }
    assert echo.scopes == []


@pytest.mark.parametrize("status", [201, 204, 302, 404, 418, 500, 503])
async def test_any_other_answer_is_an_outage(verifier: FakeVerifier, echo: Echo, status: int) -> None:
    verifier.status = status
    sent = await call(guard(echo, verifier), "/", headers=[KEY])
    assert (sent[0]["status"], sent[1]["body"]) == (503, b'{"error":"unavailable"}')
    assert header(sent, b"retry-after") == [b"1"]
    assert echo.scopes == []


async def test_a_200_without_an_identity_is_an_outage(verifier: FakeVerifier, echo: Echo) -> None:
    verifier.headers = [(b"x-workspace-id", b"ws_1")]
    sent = await call(guard(echo, verifier), "/", headers=[KEY])
    assert sent[0]["status"] == 503


async def test_a_verifier_that_fails_lets_nobody_in(verifier: FakeVerifier, echo: Echo) -> None:
    verifier.error = OSError("reset")
    sent = await call(guard(echo, verifier), "/", headers=[KEY])
    assert sent[0]["status"] == 503
    assert echo.scopes == []


async def test_a_verifier_that_is_silent_lets_nobody_in(echo: Echo) -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    transport = httpx2.ASGITransport(app=silent)
    app = KeyledgerMiddleware(echo, verifier=VERIFIER, transport=transport, timeout=0.02)
    sent = await call(app, "/", headers=[KEY])
    assert sent[0]["status"] == 503


async def test_a_verifier_that_is_not_there_lets_nobody_in(echo: Echo) -> None:
    app = KeyledgerMiddleware(echo, verifier="http://127.0.0.1:9")
    sent = await call(app, "/", headers=[KEY])
    assert sent[0]["status"] == 503


async def test_an_outage_is_logged_once_and_so_is_its_end(
    verifier: FakeVerifier, echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "keyledger.client.gateway")
    app = guard(echo, verifier)
    for error in (None, OSError("reset"), OSError("reset"), None, None):
        verifier.error = error
        await call(app, "/", headers=[KEY])
    told = [record.getMessage() for record in caplog.records if record.name == "keyledger.client.gateway"]
    assert told == ["the verifier gives no answer: OSError", "the verifier answers"]


async def test_health_is_never_guarded_and_its_neighbours_always(verifier: FakeVerifier, echo: Echo) -> None:
    app = guard(echo, verifier)
    verifier.refuse(401, "missing_api_key")
    for path in ("/healthz", "/readyz"):
        assert (await call(app, path))[0]["status"] == 200
    for path in ("/healthz/", "/Healthz", "/healthz/x", "//healthz", "/"):
        assert (await call(app, path))[0]["status"] == 401
    assert len(verifier.questions) == 5


async def test_scopes_may_come_from_a_function(verifier: FakeVerifier, echo: Echo) -> None:
    def needed(scope: Any) -> list[str]:
        return [scope["path"][1:]]

    await call(guard(echo, verifier, scopes=needed), "/a:b", headers=[KEY])
    assert verifier.asked("x-required-scopes") == ["a:b"]


async def test_a_refused_websocket_gets_an_http_answer_where_that_can_be(
    verifier: FakeVerifier, echo: Echo
) -> None:
    verifier.refuse(401, "invalid_api_key")
    app = guard(echo, verifier)
    sent = await call(app, "/ws", kind="websocket", extensions={"websocket.http.response": {}})
    assert (sent[0]["type"], sent[0]["status"]) == ("websocket.http.response.start", 401)
    assert sent[1]["body"] == b'{"error": "invalid_api_key"}'
    assert await call(app, "/ws", kind="websocket") == [
        {"type": "websocket.close", "code": 1008, "reason": ""}
    ]
    assert echo.scopes == []


async def test_a_good_websocket_comes_in_and_is_told_the_limits(verifier: FakeVerifier, echo: Echo) -> None:
    sent = await call(guard(echo, verifier), "/ws", kind="websocket", headers=[KEY])
    assert sent[0]["type"] == "websocket.accept"
    assert header(sent, b"x-ratelimit-limit") == [b"10"]


async def test_a_lifespan_passes_through_and_closes_the_connections(
    verifier: FakeVerifier, echo: Echo
) -> None:
    app = guard(echo, verifier)
    await call(app, "/", headers=[KEY])
    sent = await call(app, "", kind="lifespan")
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert (await call(app, "/", headers=[KEY]))[0]["status"] == 200


async def test_nothing_shows_the_key(verifier: FakeVerifier, echo: Echo) -> None:
    gateway = Gateway(VERIFIER, transport=verifier.transport)
    app = KeyledgerMiddleware(echo, verifier=gateway)
    verifier.error = OSError("reset")
    sent = await call(app, "/", headers=[KEY])
    assert b"cvtk" not in repr((sent, app, gateway)).encode()
