"""The client: what it sends, what it makes of an answer, when it tries again, and what it never shows."""

import json
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from msgspec import UNSET

from keyledger.client.http import KeyledgerClient, KeyledgerError, VerifierClient
from keyledger.client.records import ForeignKey
from keyledger.events import RateLimit

TOKEN = "cvtk_live_management"
WS, KEY = "ws_1", "key_1"
WORKSPACE = {
    "id": WS, "name": "Acme", "rate_limit": {"limit": 5, "window_seconds": 60}, "quota": None,
    "suspended": False, "created_at": "2026-01-02T03:04:05Z", "version": 1, "position": 9, "epoch": "1-ab",
}  # fmt: skip
KEY_BODY = {
    "id": KEY, "workspace_id": WS, "name": "n", "environment": "live", "scopes": ["*"], "enabled": True,
    "status": "active", "created_at": "2026-01-02T03:04:05Z", "created_by": "system", "expires_at": None,
    "allowed_ips": None, "rate_limit": None, "external_id": None, "metadata": {}, "version": 1,
    "secrets": [{"hint": "cvtk_live_…abcd", "created_at": "2026-01-02T03:04:05Z", "valid_until": None}],
    "some_later_field": 1,
}  # fmt: skip


class Service:
    """Answers the requests of a client one after the other, and keeps them."""

    def __init__(self) -> None:
        self.requests: list[httpx2.Request] = []
        self.answers: list[Callable[[httpx2.Request], httpx2.Response]] = []

    def then(self, status: int, body: Any = None, **headers: str) -> "Service":
        content = json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append(lambda _: httpx2.Response(status, content=content, headers=named))
        return self

    def then_raise(self, error: type[httpx2.TransportError]) -> "Service":
        def failing(request: httpx2.Request) -> httpx2.Response:
            raise error("as told", request=request)

        self.answers.append(failing)
        return self

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self.answers.pop(0)(request)

    @property
    def last(self) -> httpx2.Request:
        return self.requests[-1]

    @property
    def body(self) -> Any:
        return json.loads(self.last.content)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def client(service: Service) -> KeyledgerClient:
    transport = httpx2.MockTransport(service.handle)
    return KeyledgerClient("http://keys.test", TOKEN, usage_url="http://usage.test", transport=transport)


async def test_a_workspace_is_created_with_an_idempotency_key(
    client: KeyledgerClient, service: Service
) -> None:
    service.then(201, WORKSPACE)
    workspace = await client.workspaces.create("Acme", rate_limit=RateLimit(5, 60))
    assert (workspace.id, workspace.rate_limit, workspace.position) == (WS, RateLimit(5, 60), 9)
    assert (service.last.method, service.last.url.path) == ("POST", "/v1/workspaces")
    assert service.body == {"name": "Acme", "rate_limit": {"limit": 5, "window_seconds": 60}}
    assert service.last.headers["X-API-Key"] == TOKEN
    assert len(service.last.headers["Idempotency-Key"]) >= 16


async def test_a_created_key_hides_its_token(client: KeyledgerClient, service: Service) -> None:
    service.then(201, {**KEY_BODY, "key": "cvtk_live_new"})
    created = await client.keys.create(
        WS, name="n", environment="live", expires_at=datetime(2030, 1, 1, tzinfo=UTC)
    )
    assert created.key.reveal() == "cvtk_live_new"
    assert "cvtk_live_new" not in repr(created)
    assert service.body == {
        "name": "n", "environment": "live", "scopes": ["*"], "expires_at": "2030-01-01T00:00:00Z",
    }  # fmt: skip


async def test_a_list_goes_on_to_its_end(client: KeyledgerClient, service: Service) -> None:
    service.then(200, {"keys": [KEY_BODY], "next_cursor": "c+1"}).then(
        200, {"keys": [KEY_BODY], "next_cursor": None}
    )
    keys = [key async for key in client.keys.list(WS, environment="live", as_of=7)]
    assert len(keys) == 2
    assert dict(service.requests[0].url.params) == {"environment": "live", "as_of": "7", "limit": "200"}
    assert service.last.url.params["cursor"] == "c+1"


async def test_events_continue_behind_the_last_position(client: KeyledgerClient, service: Service) -> None:
    event = {
        "position": 4, "version": 1, "type": "key_created", "at": "2026-01-02T03:04:05Z", "actor": "system",
        "request_id": "r", "data": {},
    }  # fmt: skip
    service.then(200, {"events": [event], "next_cursor": "x"}).then(200, {"events": [], "next_cursor": None})
    assert [found.position async for found in client.keys.events(WS, KEY)] == [4]
    assert [request.url.params["after"] for request in service.requests] == ["0", "4"]


async def test_a_patch_sends_what_changes_null_included(client: KeyledgerClient, service: Service) -> None:
    service.then(200, KEY_BODY).then(200, WORKSPACE)
    await client.keys.patch(WS, KEY, {"expires_at": None, "name": UNSET}, if_match='"1"')
    assert service.body == {"expires_at": None}
    assert service.last.headers["If-Match"] == '"1"'
    await client.workspaces.patch(WS, suspended=True)
    assert service.body == {"suspended": True}


async def test_rotate_and_revoke_go_to_their_addresses(client: KeyledgerClient, service: Service) -> None:
    service.then(201, {**KEY_BODY, "key": "t", "previous_valid_until": "2026-01-02T03:04:05Z"})
    rotated = await client.keys.rotate(WS, KEY, overlap_seconds=60)
    assert rotated.previous_valid_until is not None
    assert service.last.url.path == f"/v1/workspaces/{WS}/keys/{KEY}/rotate"
    receipt = {"applied": [{"verifier": "v", "ms": 3}], "pending": [], "certain_by": None}
    service.then(200, {**KEY_BODY, "receipt": receipt})
    revoked = await client.keys.revoke(WS, KEY, reason="leaked", wait=5)
    assert revoked.receipt is not None
    assert revoked.receipt.applied[0].verifier == "v"
    assert service.body == {"reason": "leaked", "wait": 5}
    assert service.last.extensions["timeout"]["read"] == 10.0


async def test_what_changes_a_key_may_name_the_version_it_means(
    client: KeyledgerClient, service: Service
) -> None:
    service.then(201, {**KEY_BODY, "key": "t"}).then(200, KEY_BODY).then(
        200, {"id": WS, "position": 9, "epoch": "1-ab"}
    )
    await client.keys.rotate(WS, KEY, overlap_seconds=60, retire="on_first_use", if_match='"3"')
    assert service.body == {"overlap_seconds": 60, "retire": "on_first_use"}
    await client.keys.revoke(WS, KEY, if_match='"4"')
    await client.workspaces.delete(WS, if_match='"5"')
    assert [request.headers["If-Match"] for request in service.requests] == ['"3"', '"4"', '"5"']


async def test_foreign_keys_are_imported_without_being_shown(
    client: KeyledgerClient, service: Service
) -> None:
    foreign = [
        ForeignKey(name="a", environment="live", plaintext="sk-1", metadata={"a": "b"}),
        ForeignKey(
            name="b", environment="test", sha256="ab" * 32, scopes=("x",), rate_limit=RateLimit(5, 60),
            expires_at=datetime(2030, 1, 1, tzinfo=UTC),
        ),
    ]  # fmt: skip
    assert "sk-1" not in repr(foreign)
    assert "abab" not in repr(foreign)
    service.then_raise(httpx2.ReadTimeout).then(
        201,
        {
            "results": [{"index": place, "status": "created", "key": KEY_BODY} for place in range(2)],
            "position": 7,
            "epoch": "1-ab",
        },
    )
    done = await client.keys.import_foreign(WS, foreign)
    assert [(one.index, one.status, one.key.id) for one in done.results] == [
        (0, "created", KEY), (1, "created", KEY),
    ]  # fmt: skip
    assert (done.position, done.epoch) == (7, "1-ab")
    assert service.last.url.path == f"/v1/workspaces/{WS}/keys/import"
    assert service.body == {
        "keys": [
            {"name": "a", "environment": "live", "plaintext": "sk-1", "metadata": {"a": "b"}},
            {
                "name": "b", "environment": "test", "sha256": "ab" * 32, "scopes": ["x"],
                "rate_limit": {"limit": 5, "window_seconds": 60}, "expires_at": "2030-01-01T00:00:00Z",
            },
        ]
    }  # fmt: skip
    assert len({request.headers["Idempotency-Key"] for request in service.requests}) == 1
    assert service.last.extensions["timeout"]["read"] == pytest.approx(5.2)


async def test_a_workspace_is_deleted_and_its_place_told(client: KeyledgerClient, service: Service) -> None:
    service.then(503, {"error": "unavailable"}).then(202, {"id": WS, "position": 9, "epoch": "1-ab"})
    gone = await client.workspaces.delete(WS)
    assert (gone.id, gone.position, gone.epoch) == (WS, 9, "1-ab")
    assert (service.last.method, service.last.url.path) == ("DELETE", f"/v1/workspaces/{WS}")
    assert not service.last.content


async def test_the_head_and_one_s_own_rights_are_asked_for(client: KeyledgerClient, service: Service) -> None:
    head = {"epoch": {"number": 2, "line": "ab" * 8}, "position": 9, "hash": "cd" * 32, "writable": True}
    service.then(200, {**head, "nonce": "n"}).then(200, {**head, "nonce": ""})
    told = await client.head(nonce="n")
    assert (told.epoch.number, told.epoch.line, told.position) == (2, "ab" * 8, 9)
    assert (told.hash, told.writable, told.nonce) == ("cd" * 32, True, "n")
    await client.head()
    assert [dict(request.url.params) for request in service.requests] == [{"nonce": "n"}, {}]
    service.then(200, {"principal": KEY, "workspace_id": WS, "scopes": ["keyledger:keys:read"]})
    rights = await client.authorize(WS, "keyledger:keys:read")
    assert (rights.principal, rights.scopes) == (KEY, ("keyledger:keys:read",))
    assert service.body == {"workspace_id": WS, "scope": "keyledger:keys:read"}


async def test_a_refusal_keeps_all_that_was_told(client: KeyledgerClient, service: Service) -> None:
    service.then(400, {"error": "invalid_request", "message": "m", "field": "name", "request_id": "r"})
    with pytest.raises(KeyledgerError) as caught:
        await client.workspaces.create("")
    error = caught.value
    assert (error.status, error.code, error.message, error.field, error.request_id) == (
        400, "invalid_request", "m", "name", "r",
    )  # fmt: skip
    assert len(service.requests) == 1


async def test_what_is_safe_is_tried_again_with_the_same_key(
    client: KeyledgerClient, service: Service
) -> None:
    service.then(503, {"error": "busy"}).then_raise(httpx2.ReadTimeout).then(201, WORKSPACE)
    await client.workspaces.create("Acme")
    assert len({request.headers["Idempotency-Key"] for request in service.requests}) == 1
    assert len(service.requests) == 3


async def test_a_patch_that_was_sent_is_not_tried_again(client: KeyledgerClient, service: Service) -> None:
    service.then(503, {"error": "busy"})
    with pytest.raises(KeyledgerError, match="busy"):
        await client.workspaces.patch(WS, name="x")
    service.then_raise(httpx2.ConnectError).then(200, WORKSPACE)
    await client.workspaces.patch(WS, name="x")
    assert len(service.requests) == 3


async def test_attempts_end_and_a_long_wait_is_not_waited_for(
    client: KeyledgerClient, service: Service
) -> None:
    service.then(503, None).then(502, None).then(504, None)
    with pytest.raises(KeyledgerError) as caught:
        await client.workspaces.get(WS)
    assert (caught.value.status, caught.value.code) == (504, "unreadable")
    service.then(429, {"error": "rate_limit_exceeded"}, retry_after="3600")
    with pytest.raises(KeyledgerError) as caught:
        await client.workspaces.get(WS)
    assert caught.value.retry_after == 3600
    assert len(service.requests) == 4


async def test_usage_is_put_together_from_its_pages(client: KeyledgerClient, service: Service) -> None:
    point = {"start": "2026-01-02T03:00:00Z", "count": 1, "cost": 2, "key": KEY}
    page = {"series": [point], "totals": {"count": 2, "cost": 4}}
    service.then(200, {**page, "next_cursor": "n"}).then(200, {**page, "next_cursor": None})
    start = datetime(2026, 1, 2, tzinfo=UTC)
    series = await client.usage.series(WS, start=start, group_by=["key", "outcome"])
    assert (len(series.series), series.totals.cost, series.series[0].key) == (2, 4, KEY)
    assert dict(service.requests[0].url.params) == {
        "from": "2026-01-02T00:00:00Z", "granularity": "hour", "group_by": "key,outcome",
    }  # fmt: skip
    assert service.last.url.host == "usage.test"
    service.then(200, {"last_used": {KEY: None}})
    assert await client.usage.last_used(WS, [KEY]) == {KEY: None}


async def test_a_verifier_is_asked_once_for_what_it_may_have_spent() -> None:
    service = Service().then(
        200, {"valid": True, "code": "VALID", "scopes": ["*"], "position": 3, "age_ms": 5}
    )
    async with VerifierClient(
        "http://v.test", token="vt", transport=httpx2.MockTransport(service.handle)
    ) as client:
        verdict = await client.verify("cvtk_live_x", scopes=["a"], ip="192.0.2.1")
        assert (verdict.valid, verdict.code, verdict.scopes) == (True, "VALID", ("*",))
        assert service.body == {"key": "cvtk_live_x", "scopes": ["a"], "ip": "192.0.2.1"}
        assert service.last.headers["X-Verifier-Token"] == "vt"
        service.then_raise(httpx2.ReadTimeout)
        with pytest.raises(KeyledgerError, match="unreachable"):
            await client.verify("cvtk_live_x")


async def test_the_key_is_never_shown(client: KeyledgerClient, service: Service) -> None:
    service.then_raise(httpx2.ReadTimeout).then_raise(httpx2.ReadTimeout).then(200, {"key": TOKEN})
    with pytest.raises(KeyledgerError) as caught:
        await client.keys.get(WS, KEY)
    text = "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None
    assert TOKEN not in text + repr(caught.value) + repr(client)


@pytest.mark.parametrize("bad", ["", ".", ".."])
async def test_an_id_cannot_leave_its_place_in_the_path(
    client: KeyledgerClient, service: Service, bad: str
) -> None:
    with pytest.raises(ValueError, match="not an id"):
        await client.keys.get(WS, bad)
    service.then(200, WORKSPACE)
    await client.workspaces.get("a/../b?c")
    assert service.last.url.raw_path == b"/v1/workspaces/a%2F..%2Fb%3Fc"
