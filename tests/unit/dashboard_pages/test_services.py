"""What the adapter sends to the services, and what it makes of their refusals."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from keyledger.errors import Refusal
from keyledger.token import Secret
from services.dashboard.adapters.services import Services
from services.dashboard.backend import KeyFilter, NewKey
from services.dashboard.domain.visitor import Visitor
from tests.support.dashboard_backend import made_id

ADA, WORKSPACE, KEY = made_id("user", 1), made_id("ws", 1), made_id("key", 1)
AT = f"/v1/workspaces/{WORKSPACE}"
Answer = Callable[[httpx2.Request], httpx2.Response]


def visitor(jwt: str = "ada.jwt", workspace_id: str | None = WORKSPACE) -> Visitor:
    return Visitor(ADA, "Ada", None, workspace_id, "owner", "ses_1", Secret(jwt), 600)


def backend(answer: Answer) -> Services:
    return Services("http://keys", "http://usage", transport=httpx2.MockTransport(answer))


def key(**more: Any) -> dict[str, Any]:
    at = "2026-11-02T09:00:00Z"
    return {
        "id": KEY, "workspace_id": WORKSPACE, "name": "billing", "environment": "live", "scopes": ["*"],
        "enabled": True, "status": "active", "created_at": at, "created_by": ADA, "expires_at": None,
        "allowed_ips": None, "rate_limit": None, "external_id": None, "metadata": {}, "secrets": [],
        "version": 1, "position": 3, "epoch": "1-ab", **more,
    }  # fmt: skip


async def test_each_call_is_made_as_its_own_visitor() -> None:
    seen: list[tuple[str, str | None]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append((request.url.path, request.headers.get("authorization")))
        assert "x-api-key" not in request.headers
        return httpx2.Response(200, json={"keys": [key()], "next_cursor": "more"})

    services = backend(answer)
    for jwt in ("ada.jwt", "bob.jwt"):
        page = await services.keys(visitor(jwt), KeyFilter(search="bill"), limit=7)
        assert page.next_cursor == "more"
    assert seen == [(f"{AT}/keys", "Bearer ada.jwt"), (f"{AT}/keys", "Bearer bob.jwt")]


async def test_a_form_s_key_goes_along_so_that_it_counts_once() -> None:
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(201, json=key(key="cvtk_live_token"))

    made = await backend(answer).create_key(visitor(), NewKey(name="billing", environment="live"), once="abc")
    assert made.key.reveal() == "cvtk_live_token"
    assert seen[0].headers["idempotency-key"] == "abc"
    assert json.loads(seen[0].content) == {
        "name": "billing",
        "environment": "live",
        "scopes": ["*"],
        "metadata": {},
    }


async def test_a_change_names_the_version_that_was_looked_at() -> None:
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json=key())

    await backend(answer).change_key(visitor(), KEY, {"allowed_ips": None}, version=4)
    assert (seen[0].method, seen[0].headers["if-match"]) == ("PATCH", '"4"')
    assert json.loads(seen[0].content) == {"allowed_ips": None}


async def test_a_role_is_changed_only_of_somebody_who_is_a_member_as_it_was_looked_at() -> None:
    seen: list[tuple[str, str, str | None]] = []
    workspace = {
        "id": WORKSPACE, "name": "Acme", "rate_limit": {"limit": 5, "window_seconds": 60}, "quota": None,
        "suspended": False, "created_at": "2026-11-02T09:00:00Z", "version": 9,
        "position": 9, "epoch": "1-ab",
    }  # fmt: skip
    member = {"user": ADA, "role": "viewer", "since": "2026-11-02T09:00:00Z", "added_by": ADA}
    there = True

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append((request.method, request.url.path, request.headers.get("if-match")))
        if request.url.path == AT:
            return httpx2.Response(200, json=workspace)
        if there:
            return httpx2.Response(200, json=member)
        return httpx2.Response(404, json={"error": "not_found", "message": "There is nothing here."})

    await backend(answer).set_role(visitor(), ADA, "member")
    assert seen[-1] == ("PUT", f"{AT}/members/{ADA}", '"9"')
    there = False
    seen.clear()
    with pytest.raises(Refusal) as refused:
        await backend(answer).set_role(visitor(), ADA, "member")
    assert refused.value.code == "not_found"
    assert "PUT" not in {method for method, _, _ in seen}


@pytest.mark.parametrize(
    ("status", "body", "code", "field"),
    [
        (400, {"error": "invalid_request", "message": "No.", "field": "name"}, "invalid_request", "name"),
        (403, {"error": "insufficient_permissions", "message": "No."}, "insufficient_permissions", None),
        (404, {"error": "not_found", "message": "No."}, "not_found", None),
        (409, {"error": "key_revoked", "message": "No."}, "key_revoked", None),
        (401, {"error": "invalid_api_key", "message": "No."}, "invalid_api_key", None),
        (500, {"error": "internal_error", "message": "cvtk_live_token"}, "unavailable", None),
        (503, {"error": "postgres_away", "message": "No."}, "unavailable", None),
        (200, {"keys": "not a list"}, "unavailable", None),
    ],
)
async def test_a_service_s_refusal_is_one_of_ours(
    status: int, body: dict[str, str], code: str, field: str | None
) -> None:
    services = backend(lambda _: httpx2.Response(status, json=body))
    with pytest.raises(Refusal) as refused:
        await services.keys(visitor(), KeyFilter())
    assert (refused.value.code, refused.value.field) == (code, field)
    assert "token" not in refused.value.message
    assert refused.value.__context__ is None, "what the driver knew of the request ends in the adapter"


async def test_a_service_that_cannot_be_reached_is_unavailable() -> None:
    def away(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("no", request=request)

    with pytest.raises(Refusal) as refused:
        await backend(away).workspace(visitor())
    assert refused.value.code == "unavailable"


async def test_what_a_page_can_do_without_is_asked_for_once_and_a_second_long() -> None:
    seen: list[tuple[str, float]] = []

    def silent(request: httpx2.Request) -> httpx2.Response:
        seen.append((request.url.path, request.extensions["timeout"]["read"]))
        raise httpx2.ReadTimeout("no", request=request)

    services = backend(silent)
    with pytest.raises(Refusal, match="unavailable"):
        await services.last_used(visitor(), [KEY])
    with pytest.raises(Refusal, match="unavailable"):
        await services.workspace(visitor())
    assert seen == [(f"{AT}/last-used", 1.0), (AT, 5.0), (AT, 5.0)]


async def test_without_a_workspace_nothing_is_asked() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        raise AssertionError(request.url)

    with pytest.raises(Refusal) as refused:
        await backend(answer).keys(visitor(workspace_id=None), KeyFilter())
    assert refused.value.code == "not_found"
