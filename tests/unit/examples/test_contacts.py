"""The contacts API: guarded by the middleware, with the contract's refusals."""

import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from examples.contacts.app import MAX_CONTACTS, build_app
from keyledger.client.gateway import Gateway
from keyledger.server.edge import Edge
from tests.support.asgi_calls import VERIFIER, FakeVerifier

NEW = {"name": "Barbara Liskov", "email": "barbara@example.com"}


@pytest.fixture
def verifier() -> FakeVerifier:
    return FakeVerifier()


def calling(app: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app),
        base_url="http://contacts.test",
        headers={"X-API-Key": "cvtk_live_x"},
    )


@pytest.fixture
async def api(verifier: FakeVerifier) -> AsyncIterator[httpx2.AsyncClient]:
    async with calling(Edge(build_app(Gateway(VERIFIER, transport=verifier.transport)))) as client:
        yield client


async def test_any_valid_key_lists_the_examples(api: httpx2.AsyncClient, verifier: FakeVerifier) -> None:
    answer = await api.get("/v1/contacts")
    assert answer.status_code == 200
    assert answer.json()["contacts"][0] == {"name": "Ada Lovelace", "email": "ada@example.com"}
    assert answer.headers["X-RateLimit-Remaining"] == "9"
    assert verifier.asked("x-required-scopes") == []


async def test_adding_needs_its_scope(api: httpx2.AsyncClient, verifier: FakeVerifier) -> None:
    answer = await api.post("/v1/contacts", json=NEW)
    assert answer.status_code == 201
    assert answer.json() == NEW
    assert verifier.asked("x-required-scopes") == ["contacts:write"]
    assert NEW in (await api.get("/v1/contacts")).json()["contacts"]


@pytest.mark.parametrize("path", ["/v1/contacts/", "//v1/contacts", "/v1//contacts//"])
async def test_a_path_that_the_router_takes_for_another_needs_as_much(
    verifier: FakeVerifier, path: str
) -> None:
    async with calling(build_app(Gateway(VERIFIER, transport=verifier.transport))) as api:
        answer = await api.post(httpx2.URL("http://contacts.test", path=path), json=NEW)
    assert answer.status_code == 201
    assert verifier.asked("x-required-scopes") == ["contacts:write"]


async def test_workspaces_do_not_see_each_other(api: httpx2.AsyncClient, verifier: FakeVerifier) -> None:
    await api.post("/v1/contacts", json=NEW)
    verifier.headers[0] = (b"x-workspace-id", b"ws_2")
    assert NEW not in (await api.get("/v1/contacts")).json()["contacts"]


async def test_only_the_newest_are_kept(api: httpx2.AsyncClient) -> None:
    for number in range(MAX_CONTACTS + 1):
        await api.post("/v1/contacts", json={**NEW, "name": str(number)})
    names = [contact["name"] for contact in (await api.get("/v1/contacts")).json()["contacts"]]
    assert names[2:] == [str(number) for number in range(1, MAX_CONTACTS + 1)]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "", "email": "a@b"},
        {"name": "a", "email": "b"},
        {**NEW, "age": 1},
        {"name": "a\n", "email": "a@b"},
    ],
)
async def test_a_bad_contact_is_refused(api: httpx2.AsyncClient, body: dict[str, Any]) -> None:
    answer = await api.post("/v1/contacts", json=body)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("status", "code"), [(401, "missing_api_key"), (403, "insufficient_permissions"), (429, "quota_exceeded")]
)
async def test_a_refusal_is_just_its_code(
    api: httpx2.AsyncClient, verifier: FakeVerifier, status: int, code: str
) -> None:
    verifier.refuse(status, code)
    answer = await api.get("/v1/contacts")
    assert (answer.status_code, answer.json()) == (status, {"error": code})
    assert answer.headers["Content-Type"] == "application/json"
    assert len(answer.headers.get_list("X-Request-Id")) == 1


async def test_health_needs_no_key_and_unknown_addresses_are_not_found(
    api: httpx2.AsyncClient, verifier: FakeVerifier
) -> None:
    verifier.refuse(401, "missing_api_key")
    for path in ("/healthz", "/readyz"):
        assert (await api.get(path)).json() == {"status": "ok"}
    answer = await api.get("/v1/nothing")
    assert (answer.status_code, answer.json()["error"]) == (404, "not_found")
    assert verifier.questions == []


async def test_what_a_gateway_shows_needs_no_key(api: httpx2.AsyncClient, verifier: FakeVerifier) -> None:
    answer = await api.get("/unavailable")
    assert (answer.status_code, answer.content) == (503, b'{"error":"unavailable"}')
    assert answer.headers["Retry-After"] == "1"
    assert verifier.questions == []


async def test_behind_a_gateway_that_it_trusts_it_believes_the_identity(verifier: FakeVerifier) -> None:
    verifier.refuse(401, "missing_api_key")
    told = {"X-API-Key": "", "X-Workspace-Id": "ws_9", "X-Key-Id": "key_9", "X-Key-Scopes": "contacts:read"}
    gateway = Gateway(VERIFIER, transport=verifier.transport)
    for trusted, answers in (((), (401, 401)), (("127.0.0.1",), (200, 403))):
        async with calling(Edge(build_app(gateway, trusted_gateways=trusted))) as client:
            read = await client.get("/v1/contacts", headers=told)
            written = await client.post("/v1/contacts", json=NEW, headers=told)
            assert (read.status_code, written.status_code) == answers


def test_it_does_not_start_with_a_gateway_that_is_no_address() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "examples.contacts"],
        env={"KEYLEDGER_TRUSTED_GATEWAYS": "127.0.0.1, gateway"},
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (run.returncode, b"KEYLEDGER_TRUSTED_GATEWAYS" in run.stderr) == (2, True)
