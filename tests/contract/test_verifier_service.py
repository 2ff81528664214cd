"""What else the verifier answers, and that the documented routes are the hot ones."""

from __future__ import annotations

import re
from typing import Any

import pytest

from keyledger.events import KeyRevoked
from services.verifier.app import Service
from tests.support.followed_log import key_created, key_id, token
from tests.support.verifying import World, client_of

KEY = key_id(1)
JSON = {"Content-Type": "application/json", "X-Request-Id": "same"}


async def world_with_key() -> World:
    world = World()
    world.add(KEY, key_created(1, scopes=("read",)))
    return await world.caught_up()


async def test_health_is_told_whatever_happens() -> None:
    async with World().client() as client:
        assert (await client.get("/healthz")).status_code == 200


async def test_ready_follows_freshness() -> None:
    world = World()
    service = Service(world.verifier, world.clock)
    async with client_of(service.app) as client:

        async def state() -> str:
            found = re.findall(r'keyledger_state{state="(\w+)"} 1\.0', (await client.get("/metrics")).text)
            assert len(found) == 1
            return found[0]

        starting = await client.get("/readyz")
        assert (starting.status_code, starting.json()["status"]) == (503, "starting")
        assert await state() == "starting"
        await world.caught_up()
        world.clock.advance(2)
        ready = await client.get("/readyz")
        assert ready.status_code == 200
        epoch = world.log.epoch.text
        assert ready.json() == {"status": "ready", "position": 1, "head": 1, "epoch": epoch, "age_ms": 2000}
        assert await state() == "ready"
        world.bus.connected = False
        assert await state() == "degraded"
        world.log.writable = False
        await world.follower.ask()
        held = await client.get("/readyz")
        assert (held.status_code, held.json()["status"]) == (200, "degraded")
        assert await state() == "held"
        world.clock.advance(1000)
        stale = await client.get("/readyz")
        assert (stale.status_code, stale.json()["status"]) == (503, "stale")
        assert await state() == "stale"
        service.stopping = True
        assert (await client.get("/readyz")).json()["status"] == "stopping"


async def test_metrics_count_codes_and_name_nobody() -> None:
    world = await world_with_key()
    async with world.client() as client:
        for key in (token(1), token(2), "cvtk_live_x"):
            await client.post("/v1/verify", json={"key": key})
        await client.get("/v1/gateway", headers={"X-API-Key": token(1)})
        text = (await client.get("/metrics")).text
    assert 'keyledger_verify_total{code="VALID"} 2.0' in text
    assert 'keyledger_verify_total{code="NOT_FOUND"} 1.0' in text
    assert 'keyledger_verify_total{code="MALFORMED"} 1.0' in text
    for name in ("position 2.0", "head_position 2.0", "age_seconds 0.0", "uses_dropped_total 0.0"):
        assert f"\nkeyledger_{name}" in text
    assert "\nkeyledger_verify_duration_seconds_count 4.0" in text
    for secret in (token(1), KEY, "ws_0000"):
        assert secret not in text


async def test_unknown_addresses_are_not_found() -> None:
    async with World().client() as client:
        for path in ("/", "/v1", "/v1/verify/", "/v1/gatewayx", "/v2/verify"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["error"]) == (404, "not_found")
            assert answer.headers["x-request-id"]


async def test_the_document_tells_the_hot_addresses() -> None:
    async with World().client() as client:
        document = (await client.get("/docs/openapi.json")).json()
        assert (await client.get("/docs")).status_code == 200
    assert document["openapi"].startswith("3.1")
    assert {"/v1/verify", "/v1/verify/batch", "/v1/gateway", "/v1/explain", "/healthz", "/readyz"} <= set(
        document["paths"]
    )
    asked = document["paths"]["/v1/verify"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert asked["required"] == ["key"]
    assert asked["additionalProperties"] is False
    assert set(asked["properties"]) == {
        "key", "scopes", "environment", "ip", "cost", "min_position", "epoch", "max_staleness",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "content", "headers"),
    [
        ("POST", "/v1/verify", b'{"key":"%s"}' % token(1).encode(), {}),
        ("POST", "/v1/verify", b'{"key":"%s","scopes":["write"]}' % token(1).encode(), {}),
        ("POST", "/v1/verify", b'{"key":"foreign"}', {}),
        ("POST", "/v1/verify", b'{"key":1}', {}),
        ("POST", "/v1/verify", b"{", {}),
        ("POST", "/v1/verify", b"", {}),
        ("POST", "/v1/verify", b'{"key":"a","x":1}', {"Accept": "application/problem+json"}),
        ("POST", "/v1/verify", b"{}", {"Content-Type": "text/plain"}),
        ("POST", "/v1/verify/batch", b'{"requests":[{"key":"%s"},{"key":"a"}]}' % token(1).encode(), {}),
        ("POST", "/v1/verify/batch", b'{"requests":[{"key":"a","cost":true}]}', {}),
        ("POST", "/v1/verify?x=1", b'{"key":"a"}', {}),
        ("POST", "/v1/verify/batch?x", b'{"requests":[]}', {}),
        ("GET", "/v1/gateway?scopes=read", b"", {"X-API-Key": token(1)}),
        ("GET", "/v1/gateway?scopes=write", b"", {"X-API-Key": token(1)}),
        ("GET", "/v1/gateway?deny=403", b"", {}),
        ("GET", "/v1/gateway", b"", {"X-API-Key": "foreign"}),
        ("GET", "/v1/gateway?x=1", b"", {"X-API-Key": token(1)}),
    ],
)
async def test_hot_and_documented_route_answer_the_same(
    method: str, path: str, content: bytes, headers: dict[str, str]
) -> None:
    answers: list[Any] = []
    for hot in (True, False):
        world = await world_with_key()
        service = Service(world.verifier, world.clock)
        app = service.app if hot else service.documented
        async with client_of(app) as client:
            answer = await client.request(method, path, content=content, headers={**JSON, **headers})
        told = {
            name: value for name, value in answer.headers.items() if name != "content-type" or answer.content
        }
        answers.append((answer.status_code, answer.content, told))
    assert answers[0] == answers[1]


async def test_a_defect_is_a_500_that_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    world = await world_with_key()
    world.add(KEY, KeyRevoked())
    # a record that cannot be judged: nothing of the kind is ever folded
    world.store._keys[KEY] = "broken"  # type: ignore[assignment] # pyright: ignore
    async with world.client() as client:
        answer = await client.post("/v1/verify", json={"key": token(1)})
        gate = await client.get("/v1/gateway?deny=403", headers={"X-API-Key": token(1)})
    assert (answer.status_code, answer.json()["error"]) == (500, "internal_error")
    assert (gate.status_code, gate.headers["x-verify-status"]) == (403, "500")
    shown = capsys.readouterr()
    assert token(1) not in answer.text + shown.out + shown.err
