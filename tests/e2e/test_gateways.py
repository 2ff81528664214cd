"""nginx, Envoy, Traefik and Caddy as infra/gateways ships them, before the example and a real verifier."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from keyledger.verification.answer import CHALLENGE
from tests.support.asgi_calls import Echo
from tests.support.asgi_server import serving
from tests.support.gateway_scene import (
    CONTACTS,
    IDENTITY,
    LIMITS,
    NEW,
    TOKEN,
    Gateway,
    Surroundings,
    together,
    told_limits,
)
from tests.support.waiting import until
from tests.support.wire import Message, ask

FORGED = [(name, f"forged-{name}") for name in IDENTITY]
WRITER: dict[str, Any] = {"scopes": ["contacts:read", "contacts:write"]}


async def test_who_is_allowed_gets_the_answer_and_the_limits(gateway: Gateway) -> None:
    key = await gateway.around.key(limit=1000, name="Büro ☕ 1/2", **WRITER)
    answer = await gateway.ask(key=key["key"])
    assert answer.status == 200
    assert json.loads(answer.body)["contacts"][0]["name"] == "Ada Lovelace"
    assert told_limits(answer) == list(LIMITS)
    assert (answer.one("x-ratelimit-limit"), answer.one("x-ratelimit-remaining")) == ("1000", "999")
    assert answer.one("ratelimit-policy") == '"workspace";q=1000;w=86400'
    assert answer.one("ratelimit").startswith('"workspace";r=999;t=')
    assert int(answer.one("x-ratelimit-reset")) % 86_400 == 0
    seen = gateway.passed_on
    assert [seen.one(name) for name in IDENTITY] == [
        key["workspace_id"],
        key["id"],
        "B%C3%BCro%20%E2%98%95%201%2F2",
        "live",
        "contacts:read contacts:write",
    ]
    assert not [name for name, value in seen.headers if key["key"] in value]


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ([], 401, "missing_api_key"),
        ([("X-API-Key", "")], 401, "missing_api_key"),
        ([("X-API-Key", "cvtk_live_nobody")], 401, "invalid_api_key"),
        ([("Authorization", "Bearer somebody-else")], 401, "invalid_api_key"),
    ],
)
async def test_who_has_no_good_key_is_challenged(
    gateway: Gateway, sent: list[tuple[str, str]], status: int, code: str
) -> None:
    answer = await gateway.ask(headers=sent)
    assert (answer.status, json.loads(answer.body)) == (status, {"error": code})
    assert answer.one("www-authenticate") == CHALLENGE
    assert answer.one("content-type") == "application/json"
    assert answer.one("cache-control") == "no-store"
    assert told_limits(answer) == []
    assert answer.every("retry-after") == []
    assert gateway.nothing_passed


@pytest.mark.parametrize("fields", [{"scopes": ["contacts:read"]}, {**WRITER, "environment": "test"}])
async def test_who_lacks_a_scope_or_the_environment_is_forbidden(
    gateway: Gateway, fields: dict[str, Any]
) -> None:
    key = await gateway.around.key(limit=10, **fields)
    answer = await gateway.ask("POST", body=NEW, key=key["key"])
    assert (answer.status, answer.body) == (403, b'{"error":"insufficient_permissions"}')
    assert answer.one("content-type") == "application/json"
    assert told_limits(answer) == list(LIMITS)
    assert answer.one("x-ratelimit-remaining") == "10"
    assert answer.every("www-authenticate") == []
    assert gateway.nothing_passed


async def test_who_is_too_fast_is_told_when_to_come_back(gateway: Gateway) -> None:
    key = (await gateway.around.key(limit=7))["key"]
    answers = await together(*(gateway.ask(key=key) for _ in range(12)))
    assert sorted(answer.status for answer in answers) == [200] * 7 + [429] * 5
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.body == b'{"error":"rate_limit_exceeded"}'
    assert refused.one("content-type") == "application/json"
    assert told_limits(refused) == list(LIMITS)
    assert refused.one("x-ratelimit-remaining") == "0"
    wait = int(refused.one("x-ratelimit-reset")) - time.time()
    assert abs(int(refused.one("retry-after")) - wait) < 5
    assert len(gateway.around.backend.requests) == 7


async def test_limits_of_the_apis_own_are_not_told_beside_the_keys(gateway: Gateway) -> None:
    key = (await gateway.around.key(limit=1000))["key"]
    wire = gateway.around.backend
    async with serving(Echo()) as url:
        wire.lead_to(url)
        wire.drop()

        async def answered() -> Message | None:
            answer = await gateway.ask(key=key)
            return answer if answer.body == b"hello" else None

        try:
            answer = await until(answered)
        finally:
            wire.lead_to(f"http://127.0.0.1:{gateway.around.api_port}")
            wire.drop()
    # on a 200 Traefik tells what the API tells
    limits = ["forged"] if gateway.name == "traefik" else ["1000"]
    assert answer.every("x-ratelimit-limit") == limits

    async def back() -> bool:
        return (await gateway.ask(target="/readyz")).body != b"hello"

    await until(back)


async def test_an_identity_that_the_client_sent_is_replaced(gateway: Gateway) -> None:
    key = await gateway.around.key(scopes=["contacts:read"])
    for spell in (str.lower, str.upper, str.title):
        gateway.forget()
        answer = await gateway.ask(key=key["key"], headers=[(spell(name), value) for name, value in FORGED])
        assert answer.status == 200
        told = [gateway.passed_on.one(name) for name in IDENTITY]
        assert told == [key["workspace_id"], key["id"], "a%20key", "live", "contacts:read"]


async def test_the_api_believes_an_identity_from_the_gateways_address_alone(around: Surroundings) -> None:
    told = [("X-Workspace-Id", "ws_1"), ("X-Key-Id", "key_1"), ("X-Forwarded-For", "127.0.0.1")]
    for source, status in (("127.0.0.1", 200), ("127.0.0.9", 401)):
        assert (await ask(around.api_port, "GET", CONTACTS, told, source=source)).status == status


async def test_what_an_identity_lacks_the_client_cannot_add(gateway: Gateway) -> None:
    key = await gateway.around.key(scopes=[])
    assert (await gateway.ask(key=key["key"], headers=FORGED)).status == 200
    assert gateway.passed_on.every("x-key-scopes") in ([], [""])


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_where_nobody_is_asked_nobody_is_known(gateway: Gateway, path: str) -> None:
    forged = [*FORGED, *FORGED, ("X-RateLimit-Remaining", "9"), ("X-Verifier-Token", TOKEN)]
    assert (await gateway.ask(target=path, headers=forged)).status == 200
    seen = gateway.passed_on
    assert [name for name, value in seen.headers if "forged" in value or value in ("9", TOKEN)] == []
    assert gateway.around.verifier.requests == []


SEPARATORS = "_.~!#$%&'*+^`|"
"""What may stand in a header's name besides letters, digits and dashes."""
DROPPED = {"nginx": SEPARATORS, "caddy": "_."}
"""What a gateway takes away before anything can look at it."""
REFUSED = {"envoy": "_", "traefik": SEPARATORS}
"""What a gateway refuses by itself, before it asks anybody."""


@pytest.mark.parametrize(
    "name", ["X-Key-Id", "x-KEY-sCoPeS", "X-Workspace-Id", "X-Required-Scopes", "X-API-Key"]
)
async def test_another_spelling_of_a_header_is_refused_or_removed(gateway: Gateway, name: str) -> None:
    key = (await gateway.around.key())["key"]
    for separator in SEPARATORS:
        gateway.forget()
        alias = name.replace("-", separator, 1)
        answer = await gateway.ask(key=key, headers=[(alias, "forged")])
        dropped = separator in DROPPED.get(gateway.name, "")
        assert answer.status == (200 if dropped else 400), alias
        seen = [value for request in gateway.around.backend.requests for _, value in request.headers]
        assert "forged" not in seen
        assert len(gateway.around.backend.requests) == dropped


async def test_where_nobody_is_asked_another_spelling_is_refused_or_removed(gateway: Gateway) -> None:
    for separator in SEPARATORS:
        gateway.forget()
        for name in IDENTITY:
            alias = name.replace("-", separator)
            answer = await gateway.ask(target="/healthz", headers=[(alias, "forged")])
            assert answer.status == (400 if separator in REFUSED.get(gateway.name, "") else 200)
        seen = [value for request in gateway.around.backend.requests for _, value in request.headers]
        assert "forged" not in seen


async def test_an_identity_that_came_twice_never_arrives(gateway: Gateway) -> None:
    """Refused, but by Envoy, which makes one header of the two and replaces it."""
    key = await gateway.around.key()
    answer = await gateway.ask(key=key["key"], headers=[("X-Key-Id", "a"), ("x-key-id", "b")])
    if gateway.name == "envoy":
        assert (answer.status, gateway.passed_on.one("x-key-id")) == (200, key["id"])
    else:
        assert (answer.status, json.loads(answer.body)["error"]) == (400, "invalid_request")
        assert gateway.nothing_passed


async def test_two_keys_are_refused(gateway: Gateway) -> None:
    key, other = (await gateway.around.key())["key"], (await gateway.around.key())["key"]
    for twice, joined in (("X-API-Key", other), 401), (("Authorization", f"Bearer {other}"), 400):
        answer = await gateway.ask(key=key, headers=[twice])
        # Envoy makes one key of two of the same name, which is none
        assert answer.status == (joined if gateway.name == "envoy" else 400)
    assert gateway.nothing_passed


async def test_what_a_route_needs_the_client_cannot_take_away(gateway: Gateway) -> None:
    reader = (await gateway.around.key(scopes=["contacts:read"]))["key"]
    tester = (await gateway.around.key(environment="test", scopes=["*"]))["key"]
    asked = [("X-Required-Scopes", "contacts:read"), ("X-Required-Environment", "test")]
    elsewhere = f"{CONTACTS}?scopes=&environment=test&deny="
    for key, target in ((reader, CONTACTS), (tester, CONTACTS), (reader, elsewhere), (tester, elsewhere)):
        answer = await gateway.ask("POST", target, asked, NEW, key=key)
        assert answer.status == 403, target
    assert gateway.nothing_passed


async def test_the_verifiers_token_is_the_gateways_own(gateway: Gateway) -> None:
    key = (await gateway.around.key())["key"]
    for forged in ("a-guess", TOKEN):
        gateway.forget()
        assert (await gateway.ask(key=key, headers=[("X-Verifier-Token", forged)])).status == 200
        (question,) = gateway.around.verifier.requests
        assert question.every("x-verifier-token") == [TOKEN]
        assert gateway.passed_on.every("x-verifier-token") == []


async def test_a_key_in_authorization_goes_no_further_and_another_credential_may(gateway: Gateway) -> None:
    key = (await gateway.around.key())["key"]
    for ours in (f"Bearer {key}", f"bearer  {key}"):
        for beside in (None, key):
            gateway.forget()
            assert (await gateway.ask(headers=[("Authorization", ours)], key=beside)).status == 200
            assert gateway.passed_on.every("authorization") == []
    both = [("Authorization", "Bearer a.jwt"), ("Authorization", f"Bearer {key}")]
    for two in (both, both[::-1]):
        gateway.forget()
        answer = await gateway.ask(headers=two, key=key)
        assert answer.status == 400 or key not in "".join(gateway.passed_on.every("authorization"))
    gateway.forget()
    assert (await gateway.ask(headers=[("Authorization", "Bearer a.jwt")], key=key)).status == 200
    kept = [] if gateway.name == "traefik" else ["Bearer a.jwt"]
    assert gateway.passed_on.every("authorization") == kept


async def test_checks_share_connections(gateway: Gateway) -> None:
    key = (await gateway.around.key(scopes=["contacts:read"]))["key"]
    before = gateway.around.verifier.accepted
    for _ in range(10):
        assert (await gateway.ask(key=key)).status == 200
        assert (await gateway.ask(key=None)).status == 401
        assert (await gateway.ask("POST", body=NEW, key=key)).status == 403
    assert len(gateway.around.verifier.requests) == 30
    # one for each thread of Envoy
    assert gateway.around.verifier.accepted - before <= 2


@pytest.mark.parametrize("forged", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Keyledger-Client-IP"])
async def test_where_a_client_is_its_connection_says(gateway: Gateway, forged: str) -> None:
    key = (await gateway.around.key(allowed_ips=["127.0.0.9/32"]))["key"]
    value = "for=127.0.0.9" if forged == "Forwarded" else "127.0.0.9"
    for headers in ([(forged, value)], [(forged, value), (forged, value)], []):
        assert (await gateway.ask(key=key, headers=headers)).status == 403
    elsewhere = value.replace("127.0.0.9", "10.0.0.1")
    gateway.forget()
    assert (await gateway.ask(key=key, headers=[(forged, elsewhere)], source="127.0.0.9")).status == 200
    (question,) = gateway.around.verifier.requests
    assert question.every("x-keyledger-client-ip") == ([] if gateway.name == "traefik" else ["127.0.0.9"])


async def test_a_body_is_the_backends_alone(gateway: Gateway) -> None:
    key = (await gateway.around.key(**WRITER))["key"]
    for body in (NEW, NEW + b" " * 40_000):
        gateway.forget()
        answer = await gateway.ask("POST", body=body, key=key)
        assert (answer.status, json.loads(answer.body)) == (201, json.loads(NEW))
        (question,) = gateway.around.verifier.requests
        assert (question.body, gateway.passed_on.body) == (b"", body)
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(NEW), NEW)
    gateway.forget()
    headers = [("Transfer-Encoding", "chunked")]
    assert (await gateway.ask("POST", headers=headers, body=chunked, key=key)).status == 201
    assert (gateway.around.verifier.requests[0].body, gateway.passed_on.body) == (b"", NEW)


async def test_a_head_is_checked_and_passed_on_as_one(gateway: Gateway) -> None:
    key = (await gateway.around.key(limit=5))["key"]
    answer = await gateway.ask("HEAD", key=key)
    # the example has no HEAD
    assert (answer.status, gateway.passed_on.method) == (405, "HEAD")
    assert (await gateway.ask(key=key)).one("x-ratelimit-remaining") == "3"
    refused = await gateway.ask("HEAD")
    assert (refused.status, refused.body, refused.one("www-authenticate")) == (401, b"", CHALLENGE)


TRICKS = [
    "/v1/admin",
    "/v1/contacts/%2e%2e/admin",
    "/v1/contacts/../admin",
    "/healthz/../v1/contacts",
    "/healthz/%2e%2e/v1/contacts",
    "/healthz%2f..%2fv1%2fcontacts",
    "//v1/contacts",
    "/v1//contacts",
    "/v1/%63ontacts",
    "/v1/contacts/",
    "/v1/contacts;/healthz",
    "/v1/contacts%00",
    "/v1/contacts/..;/../healthz",
    "/v1/contacts%2f..%2f..%2fhealthz",
    "/V1/CONTACTS",
    "http://api.test/v1/contacts",
    "http://other.test/healthz/../v1/contacts",
    "/v1/gateway",
    "/check/contacts",
    "/unavailable",
]


@pytest.mark.parametrize("target", TRICKS)
async def test_no_spelling_of_a_path_needs_less(gateway: Gateway, target: str) -> None:
    reader = (await gateway.around.key(scopes=["contacts:read"]))["key"]
    for key in (None, reader):
        answer = await gateway.ask("POST", target, body=NEW, key=key)
        if answer.status not in (400, 401, 403, 404, 301, 307, 308):
            # the tidied path is an open one; whatever was written before it must not arrive
            assert answer.status == 405, target
    arrived = {request.target for request in gateway.around.backend.requests}
    assert arrived <= {"/healthz", "/readyz"}


async def test_a_websocket_is_not_opened(gateway: Gateway) -> None:
    upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    answer = await gateway.ask(headers=upgrade)
    # Envoy opens none for anybody
    assert answer.status == (403 if gateway.name == "envoy" else 401)
    assert gateway.nothing_passed
