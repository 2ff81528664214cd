"""The client on behalf of users: whose credential is sent, pages, members, and the end of a session."""

import json
from typing import Any

import httpx2
import pytest

from keyledger.client.http import KeyledgerClient
from keyledger.client.records import Member
from tests.unit.client.test_http import KEY, KEY_BODY, WORKSPACE, WS

USER = "user_1"
MEMBER = {"user": USER, "role": "admin", "since": "2026-01-02T03:04:05Z", "added_by": "key_9"}
EVENT = {
    "position": 7, "version": 2, "type": "member_added", "at": "2026-01-02T03:04:05Z", "actor": "key_9",
    "request_id": "req_1", "data": {"user": USER, "role": "admin"}, "stream": WS,
}  # fmt: skip


class Services:
    """Both services: answers one after the other, and keeps what was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[httpx2.Request] = []

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return httpx2.Response(200, content=json.dumps(self.answers.pop(0)).encode())

    def client(self, api_key: str | None = None) -> KeyledgerClient:
        transport = httpx2.MockTransport(self.handle)
        return KeyledgerClient(
            "http://keys.test", api_key, usage_url="http://usage.test", transport=transport
        )

    @property
    def last(self) -> httpx2.Request:
        return self.requests[-1]

    def sent(self) -> tuple[str, str]:
        return self.last.method, str(self.last.url.raw_path.decode())


async def test_each_call_carries_the_user_s_token_and_no_one_else_s() -> None:
    services = Services(WORKSPACE, {"last_used": {}}, WORKSPACE, WORKSPACE)
    everyone = services.client()
    ada, bob = everyone.acting_for("ada.s.token"), everyone.acting_for("bob.s.token")
    await ada.workspaces.get(WS)
    assert services.last.headers["Authorization"] == "Bearer ada.s.token"
    await bob.usage.last_used(WS, [KEY])
    assert (services.last.url.host, services.last.headers["Authorization"]) == (
        "usage.test",
        "Bearer bob.s.token",
    )
    await ada.workspaces.get(WS)
    assert services.last.headers["Authorization"] == "Bearer ada.s.token"
    await everyone.workspaces.get(WS)
    assert "Authorization" not in services.last.headers
    assert all("X-API-Key" not in request.headers for request in services.requests)
    for client in (ada, bob, everyone):
        assert "token" not in repr(client) + repr(vars(client))
    await everyone.close()


async def test_a_user_s_token_takes_the_key_s_place() -> None:
    services = Services(WORKSPACE, WORKSPACE)
    client = services.client("cvtk_live_management")
    await client.acting_for("a.b.c").workspaces.get(WS)
    assert "X-API-Key" not in services.last.headers
    await client.workspaces.get(WS)
    assert services.last.headers["X-API-Key"] == "cvtk_live_management"
    await client.close()


async def test_members_are_listed_put_and_removed() -> None:
    page = {"members": [MEMBER], "next_cursor": "on"}
    last = {"members": [MEMBER | {"user": "user_2"}], "next_cursor": None}
    written = MEMBER | {"version": 3, "position": 9, "epoch": "1-ab"}
    removed = {"user": USER, "version": 4, "position": 10, "epoch": "1-ab"}
    services = Services(page, page, last, MEMBER, written, removed)
    members = services.client("k").members
    first = await members.page(WS, limit=1)
    assert (first.members[0].role, first.next_cursor) == ("admin", "on")
    assert services.sent() == ("GET", f"/v1/workspaces/{WS}/members?limit=1")
    assert [member.user async for member in members.list(WS)] == [USER, "user_2"]
    assert services.sent() == ("GET", f"/v1/workspaces/{WS}/members?limit=200&cursor=on")
    one = await members.get(WS, USER)
    assert isinstance(one, Member)
    assert (one.since.year, one.version) == (2026, None)
    put = await members.put(WS, USER, "admin", if_match='"2"')
    assert services.sent() == ("PUT", f"/v1/workspaces/{WS}/members/{USER}")
    assert (json.loads(services.last.content), services.last.headers["If-Match"]) == (
        {"role": "admin"},
        '"2"',
    )
    assert (put.version, put.position) == (3, 9)
    assert (await members.remove(WS, USER)).position == 10
    assert services.sent() == ("DELETE", f"/v1/workspaces/{WS}/members/{USER}")


async def test_pages_are_asked_for_by_cursor() -> None:
    own = WORKSPACE | {"role": "owner"}
    services = Services(
        {"keys": [KEY_BODY | {"quota": {"limit": 5, "period": "day"}}], "next_cursor": "c"},
        {"events": [EVENT], "next_cursor": "c"},
        {"events": [EVENT], "next_cursor": None},
        {"workspaces": [own], "next_cursor": "c"},
    )
    client = services.client("k")
    keys = await client.keys.page(WS, status="active", limit=2, cursor="b")
    assert services.sent() == ("GET", f"/v1/workspaces/{WS}/keys?status=active&limit=2&cursor=b")
    assert keys.keys[0].quota is not None
    assert (keys.keys[0].quota.limit, keys.next_cursor) == (5, "c")
    events = await client.keys.events_page(WS, newest_first=True, limit=2)
    assert services.sent() == ("GET", f"/v1/workspaces/{WS}/events?order=newest&limit=2")
    assert (events.events[0].stream, events.next_cursor) == (WS, "c")
    await client.keys.events_page(WS, KEY, cursor="c")
    assert services.sent() == ("GET", f"/v1/workspaces/{WS}/keys/{KEY}/events?order=oldest&limit=50&cursor=c")
    workspaces = await client.workspaces.page(limit=2)
    assert services.sent() == ("GET", "/v1/workspaces?limit=2")
    assert workspaces.workspaces[0].role == "owner"


async def test_the_same_thing_is_made_once_by_one_s_own_key_of_idempotency() -> None:
    services = Services(WORKSPACE, KEY_BODY | {"key": "t"}, KEY_BODY | {"key": "t"}, KEY_BODY, WORKSPACE)
    client = services.client("k")
    await client.workspaces.create("Acme", idempotency_key="once")
    await client.keys.create(WS, name="n", environment="live", idempotency_key="once")
    await client.keys.rotate(WS, KEY, idempotency_key="once")
    await client.keys.revoke(WS, KEY, idempotency_key="once")
    assert [request.headers["Idempotency-Key"] for request in services.requests] == ["once"] * 4
    await client.workspaces.create("Acme")
    assert services.last.headers["Idempotency-Key"] != "once"


@pytest.mark.parametrize(
    ("key", "path"), [(None, f"/v1/workspaces/{WS}"), (KEY, f"/v1/workspaces/{WS}/keys/{KEY}")]
)
async def test_the_running_cell_is_asked_of_the_usage_service(key: str | None, path: str) -> None:
    cell = {
        "limit": 5, "window_seconds": 60, "admitted": 1, "granted": 2, "remaining": 3, "reset": 60,
        "verifiers": [{"verifier": "v1", "granted": 2, "spent": 1}], "quota": None,
    }  # fmt: skip
    services = Services(cell)
    read = await services.client("k").usage.rate_limit(WS, key)
    assert services.sent() == ("GET", f"{path}/rate-limit")
    assert (read.limit, read.verifiers[0].verifier, read.quota) == (5, "v1", None)


async def test_a_session_is_ended() -> None:
    services = Services({"session": "ses_1"})
    assert await services.client().acting_for("a.b.c").end_session() == "ses_1"
    assert services.sent() == ("POST", "/v1/session/end")
    assert services.last.headers["Authorization"] == "Bearer a.b.c"
