"""Keys over HTTP: create, list, show, change, rotate, revoke, and their history."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from keyledger.clock import SECOND, SystemClock, rfc3339
from keyledger.token import parse
from tests.support.keys import House, Keys, house, refused
from tests.support.servers import Servers
from tests.support.waiting import until

FIELDS = {
    "id", "workspace_id", "name", "environment", "scopes", "enabled", "status", "created_at", "created_by",
    "expires_at", "allowed_ips", "rate_limit", "external_id", "metadata", "secrets", "version",
}  # fmt: skip
WHOLE: dict[str, Any] = {
    "name": "Büro – key",
    "environment": "test",
    "scopes": ["contacts:read", "contacts:write"],
    "expires_at": "2031-01-01T00:00:00Z",
    "allowed_ips": ["10.0.0.0/8", "2001:db8::1"],
    "rate_limit": {"limit": 5, "window_seconds": 60},
    "external_id": "user 7",
    "metadata": {"team": "a", "": "ünï\ncode"},
}


@pytest.fixture(scope="module")
async def here(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(servers, tmp_path_factory.mktemp("home")) as found:
        yield found


@pytest.fixture
async def keys(here: House) -> Keys:
    return Keys(await here.workspace())


def ws_of(keys: Keys) -> str:
    return keys.workspace.rpartition("/")[2]


async def test_a_new_key_is_answered_whole_with_its_token_this_once(here: House, keys: Keys) -> None:
    by = await here.manager(ws_of(keys), "keys:write", "keys:read")
    answer = await by("POST", keys.all, WHOLE)
    assert answer.status_code == 201
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["cache-control"] == "no-store"
    made = answer.json()
    assert set(made) == FIELDS | {"key", "position", "epoch"}
    assert {field: made[field] for field in WHOLE} == WHOLE
    assert (made["status"], made["enabled"], made["version"]) == ("active", True, 1)
    assert (made["created_by"], made["workspace_id"]) == (by.key_id, ws_of(keys))
    token = made["key"]
    assert re.fullmatch(r"cvtk_test_[0-9A-Za-z]{60}", token)
    assert getattr(parse(token), "key_id", "") == made["id"]
    assert made["secrets"] == [
        {"hint": f"cvtk_test_…{token[-4:]}", "created_at": made["created_at"], "valid_until": None}
    ]
    shown = await by("GET", keys.one(made["id"]))
    assert shown.json() == {field: made[field] for field in FIELDS}
    assert shown.headers["etag"] == '"1"'
    assert int(shown.headers["x-keyledger-position"]) >= made["position"]


async def test_what_is_left_out_has_its_default(here: House, keys: Keys) -> None:
    made = await here.key(ws_of(keys))
    assert made["scopes"] == ["*"]
    assert made["metadata"] == {}
    assert all(made[field] is None for field in ("expires_at", "allowed_ips", "rate_limit", "external_id"))
    nothing = {"expires_at": None, "allowed_ips": None, "rate_limit": None, "external_id": None}
    again = await here.key(ws_of(keys), **nothing)
    assert all(again[field] is None for field in nothing)


CANNOT_BE: list[tuple[dict[str, Any], str]] = [
    ({"name": None}, "name"),
    ({"name": ""}, "name"),
    ({"name": "a" * 201}, "name"),
    ({"name": "\u0000"}, "name"),
    ({"name": "a\u007f"}, "name"),
    ({"scopes": None}, "scopes"),
    ({"scopes": "*"}, "scopes"),
    ({"scopes": ["A"]}, "scopes"),
    ({"scopes": ["a*"]}, "scopes"),
    ({"scopes": ["a\n"]}, "scopes"),
    ({"scopes": ["a" * 65]}, "scopes"),
    ({"scopes": [5]}, "scopes"),
    ({"scopes": ["keyledger:nope"]}, "scopes"),
    ({"scopes": ["keyledger:*"]}, "scopes"),
    ({"scopes": ["keyledger:admin"]}, "scopes"),
    ({"scopes": ["keyledger:feed:read"]}, "scopes"),
    ({"scopes": ["keyledger:prove"]}, "scopes"),
    ({"expires_at": 5}, "expires_at"),
    ({"expires_at": "tomorrow"}, "expires_at"),
    ({"expires_at": "2031-01-01T00:00:00"}, "expires_at"),
    ({"expires_at": "2031-02-30T00:00:00Z"}, "expires_at"),
    ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    ({"expires_at": "9999-12-31T23:59:59-23:59"}, "expires_at"),
    ({"expires_at": "0000-01-01T00:00:00Z"}, "expires_at"),
    ({"expires_at": "2031-01-01T00:00:00Z\u0000"}, "expires_at"),
    ({"allowed_ips": []}, "allowed_ips"),
    ({"allowed_ips": ["10.0.0.1/8"]}, "allowed_ips"),
    ({"allowed_ips": ["10.0.0.0/33"]}, "allowed_ips"),
    ({"allowed_ips": ["fe80::1%\u0000"]}, "allowed_ips"),
    ({"allowed_ips": ["fe80::1%eth0"]}, "allowed_ips"),
    ({"allowed_ips": ["\u0000"]}, "allowed_ips"),
    ({"allowed_ips": ["1"] * 101}, "allowed_ips"),
    ({"rate_limit": {"limit": 0, "window_seconds": 60}}, "rate_limit.limit"),
    ({"rate_limit": {"limit": 10**30, "window_seconds": 60}}, "rate_limit.limit"),
    ({"rate_limit": {"limit": 1, "window_seconds": -60}}, "rate_limit.window_seconds"),
    ({"rate_limit": {"limit": 1}}, "rate_limit.window_seconds"),
    ({"external_id": ""}, "external_id"),
    ({"external_id": "a" * 256}, "external_id"),
    ({"external_id": "\u0000"}, "external_id"),
    ({"external_id": 5}, "external_id"),
    ({"metadata": None}, "metadata"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"metadata": {"a": None}}, "metadata"),
    ({"metadata": {str(number): "" for number in range(51)}}, "metadata"),
    ({"metadata": {"a": "b" * 4096}}, "metadata"),
    ({"metadata": {"a": "\u0000"}}, "metadata"),
    ({"metadata": {"\u0000": "a"}}, "metadata"),
    ({"environment": None}, "environment"),
    ({"environment": "prod"}, "environment"),
    ({"workspace_id": "ws_" + "1" * 22}, "workspace_id"),
    ({"created_by": "user_1"}, "created_by"),
    ({"key": "cvtk_live_x"}, "key"),
    ({"id": "key_" + "1" * 22}, "id"),
]


@pytest.mark.parametrize(("fields", "field"), CANNOT_BE)
async def test_what_a_key_cannot_be_is_refused_by_field(
    here: House, keys: Keys, fields: dict[str, Any], field: str
) -> None:
    before = await here.head()
    body = {"name": "k", "environment": "live", **fields}
    refused(await here.admin("POST", keys.all, body), 400, "invalid_request", field)
    assert await here.head() == before


@pytest.mark.parametrize(
    ("fields", "field"),
    [case for case in CANNOT_BE if case[1] not in ("id", "key")] + [({"enabled": None}, "enabled")],
)
async def test_what_a_key_cannot_be_it_cannot_become(
    here: House, keys: Keys, fields: dict[str, Any], field: str
) -> None:
    made = await here.key(ws_of(keys))
    refused(await here.admin("PATCH", keys.one(made["id"]), fields), 400, "invalid_request", field)
    assert await here.head() == made["position"]


@pytest.mark.parametrize("field", ["name", "environment"])
async def test_a_key_has_a_name_and_an_environment(here: House, keys: Keys, field: str) -> None:
    body = {"name": "k", "environment": "live"}
    del body[field]
    refused(await here.admin("POST", keys.all, body), 400, "invalid_request", field)


async def test_the_environment_of_a_key_never_changes(here: House, keys: Keys) -> None:
    made = await here.key(ws_of(keys))
    answer = await here.admin("PATCH", keys.one(made["id"]), {"environment": "test"})
    refused(answer, 400, "invalid_request", "environment")


async def test_absent_keeps_and_null_clears(here: House, keys: Keys) -> None:
    made = await here.key(ws_of(keys), **WHOLE)
    path = keys.one(made["id"])
    cleared = ("expires_at", "allowed_ips", "external_id", "rate_limit")
    changed = await here.admin.ok("PATCH", path, dict.fromkeys(cleared))
    assert all(changed[field] is None for field in cleared)
    assert all(changed[field] == WHOLE[field] for field in set(WHOLE) - set(cleared))
    assert changed["version"] == 2
    again = await here.admin.ok("PATCH", path, {"metadata": {"x": "y"}, "enabled": False})
    assert (again["metadata"], again["enabled"], again["status"]) == ({"x": "y"}, False, "disabled")
    assert set(again) == FIELDS | {"position", "epoch"}
    assert await here.admin.ok("PATCH", path, {"enabled": False, "name": WHOLE["name"]}) == again
    assert await here.head() == again["position"]


async def test_lists_are_newest_first_filtered_and_paged(here: House, keys: Keys) -> None:
    ws = ws_of(keys)
    soon = rfc3339(SystemClock().now() + SECOND // 5)
    made = {
        "active": await here.key(ws, name="alpha 50%", external_id="Owner_1"),
        "disabled": await here.key(ws, name="beta", environment="test"),
        "revoked": await here.key(ws, name="gamma_x", external_id="owner-2"),
        "expired": await here.key(ws, name="delta", expires_at=soon),
    }
    ids = {status: key["id"] for status, key in made.items()}
    await here.admin.ok("PATCH", keys.one(ids["disabled"]), {"enabled": False})
    await here.admin.ok("POST", keys.one(ids["revoked"], "revoke"))

    async def found(query: str) -> list[str]:
        return [key["id"] for key in (await here.admin.ok("GET", f"{keys.all}?{query}"))["keys"]]

    async def expired() -> bool:
        return await found("status=expired") == [ids["expired"]]

    await until(expired)
    assert await found("") == list(ids.values())[::-1]
    for status, key_id in ids.items():
        assert await found(f"status={status}") == [key_id]
    assert await found("environment=test") == [ids["disabled"]]
    assert await found("external_id=Owner_1") == [ids["active"]]
    assert await found("external_id=owner_1") == []
    assert await found("search=OWNER") == [ids["revoked"], ids["active"]]
    assert await found("search=%25") == [ids["active"]]
    assert await found("search=a_x") == [ids["revoked"]]
    assert await found("search=_") == [ids["revoked"], ids["active"]]
    assert await found("search=%5C") == []
    assert await found(f"search={ids['disabled']}") == [ids["disabled"]]
    assert await found(f"search={ids['disabled'][:-1]}") == []
    assert await found("search=owner&environment=live&status=revoked") == [ids["revoked"]]


async def test_a_cursor_belongs_to_its_workspace_and_filters(here: House, keys: Keys) -> None:
    ws = ws_of(keys)
    for number in range(3):
        await here.key(ws, name=f"k{number}")
    page = await here.admin.ok("GET", f"{keys.all}?limit=2&search=k")
    cursor = page["next_cursor"]
    assert re.fullmatch(r"[A-Za-z0-9_-]+", cursor)
    rest = await here.admin.ok("GET", f"{keys.all}?limit=2&search=k&cursor={cursor}")
    assert (len(rest["keys"]), rest["next_cursor"]) == (1, None)
    other = Keys(await here.workspace())
    for path in (
        f"{keys.all}?limit=2&cursor={cursor}",
        f"{keys.all}?limit=2&search=k&environment=live&cursor={cursor}",
        f"{other.all}?limit=2&search=k&cursor={cursor}",
        f"/v1/workspaces?cursor={cursor}",
        f"{keys.events}?cursor={cursor}",
        f"{keys.all}?search=k&cursor={cursor[:-1]}",
        f"{keys.all}?search=k&cursor={cursor}A",
        f"{keys.all}?search=k&cursor={cursor[:-2]}zz",
        f"{keys.all}?cursor=",
        f"{keys.all}?cursor=%00",
        f"{keys.all}?cursor=%C3%BC",
    ):
        refused(await here.admin("GET", path), 400, "invalid_request", "cursor")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=1", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("status=gone", "status"),
        ("status=null", "status"),
        ("environment=null", "environment"),
        ("environment=", "environment"),
        ("search=%00", "search"),
        ("external_id=a%00", "external_id"),
        ("search=" + "a" * 201, "search"),
        ("nope=1", "nope"),
        ("ENVIRONMENT=live", "ENVIRONMENT"),
        ("search=%ff", None),
        ("&".join(f"a{number}=1" for number in range(200)), None),
    ],
)
async def test_a_query_that_cannot_be_is_refused(
    here: House, keys: Keys, query: str, field: str | None
) -> None:
    refused(await here.admin("GET", f"{keys.all}?{query}"), 400, "invalid_request", field)
