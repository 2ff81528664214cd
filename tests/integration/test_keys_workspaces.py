"""Workspaces over HTTP: create, show, list, change; who may do what, and what is refused."""

from collections.abc import AsyncIterator

import pytest

from tests.support.keys import UNKNOWN_WS, House, Keys, house, refused
from tests.support.servers import Servers

ALL = "/v1/workspaces"
LIMIT = {"limit": 5, "window_seconds": 3600, "on_outage": "closed"}


@pytest.fixture(scope="module")
async def here(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(servers, tmp_path_factory.mktemp("home")) as found:
        yield found


async def test_a_new_workspace_is_answered_whole_and_reads_back_the_same(here: House) -> None:
    answer = await here.admin("POST", ALL, {"name": "Acme", "rate_limit": LIMIT})
    assert answer.status_code == 201
    made = answer.json()
    assert set(made) == {
        "id", "name", "rate_limit", "quota", "suspended", "created_at", "version", "position", "epoch",
    }  # fmt: skip
    assert (made["name"], made["rate_limit"], made["quota"], made["suspended"]) == (
        "Acme",
        LIMIT,
        None,
        False,
    )
    assert (made["version"], made["position"]) == (1, await here.head())
    assert made["created_at"].endswith("Z")
    assert answer.headers["etag"] == '"1"'
    shown = await here.admin("GET", f"{ALL}/{made['id']}")
    assert (shown.status_code, shown.json()) == (200, made)
    assert (shown.headers["etag"], shown.headers["x-keyledger-position"]) == ('"1"', str(made["position"]))


async def test_a_workspace_always_has_a_limit(here: House) -> None:
    made = await here.admin.ok("POST", ALL, {"name": "Acme"})
    assert made["rate_limit"] == {"limit": 1000, "window_seconds": 60}
    refused(
        await here.admin("POST", ALL, {"name": "a", "rate_limit": None}), 400, "invalid_request", "rate_limit"
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": None}, "name"),
        ({"name": 5}, "name"),
        ({"name": ""}, "name"),
        ({"name": "  "}, "name"),
        ({"name": "a" * 201}, "name"),
        ({"name": "a\u0000"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "a", "id": UNKNOWN_WS}, "id"),
        ({"name": "a", "system": True}, "system"),
        ({"name": "a", "rate_limit": 5}, "rate_limit"),
        ({"name": "a", "rate_limit": {}}, "rate_limit.limit"),
        ({"name": "a", "rate_limit": {"limit": 0, "window_seconds": 60}}, "rate_limit.limit"),
        ({"name": "a", "rate_limit": {"limit": 10**30, "window_seconds": 60}}, "rate_limit.limit"),
        ({"name": "a", "rate_limit": {"limit": True, "window_seconds": 60}}, "rate_limit.limit"),
        ({"name": "a", "rate_limit": {"limit": 1, "window_seconds": 7}}, "rate_limit.window_seconds"),
        ({"name": "a", "rate_limit": {"limit": 1, "window_seconds": 0}}, "rate_limit.window_seconds"),
        ({"name": "a", "rate_limit": {"limit": 1, "window_seconds": 172800}}, "rate_limit.window_seconds"),
        ({"name": "a", "rate_limit": {"limit": 1, "window_seconds": 1, "burst": 1}}, "rate_limit.burst"),
        ({"name": "a", "rate_limit": LIMIT | {"on_outage": "maybe"}}, "rate_limit.on_outage"),
        ({"name": "a", "rate_limit": LIMIT | {"on_outage": None}}, "rate_limit.on_outage"),
    ],
)
async def test_a_workspace_that_cannot_be_is_refused_by_field(here: House, body: object, field: str) -> None:
    before = await here.head()
    refused(await here.admin("POST", ALL, body), 400, "invalid_request", field)
    assert await here.head() == before


async def test_the_list_is_newest_first_and_paged_to_its_end(here: House) -> None:
    made = [await here.workspace(f"paged {number}") for number in range(5)]
    found: list[str] = []
    cursor = ""
    while True:
        page = await here.admin.ok("GET", f"{ALL}?limit=2{cursor}")
        found += [workspace["id"] for workspace in page["workspaces"]]
        assert len(page["workspaces"]) <= 2
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert found[:5] == made[::-1]
    assert found[-1] == here.system_ws
    assert len(found) == len(set(found))


async def test_a_change_keeps_what_is_absent_and_counts_the_version(here: House) -> None:
    ws = await here.workspace()
    changed = await here.admin("PATCH", f"{ALL}/{ws}", {"name": "New", "suspended": True})
    assert changed.status_code == 200
    assert changed.headers["etag"] == '"2"'
    body = changed.json()
    assert (body["name"], body["suspended"], body["version"]) == ("New", True, 2)
    assert body["rate_limit"] == {"limit": 1000, "window_seconds": 60}
    again = await here.admin.ok("PATCH", f"{ALL}/{ws}", {"rate_limit": LIMIT, "suspended": False})
    assert (again["name"], again["suspended"], again["rate_limit"], again["version"]) == (
        "New",
        False,
        LIMIT,
        3,
    )
    assert await here.admin.ok("GET", f"{ALL}/{ws}") == again


async def test_a_change_that_changes_nothing_is_answered_and_not_recorded(here: House) -> None:
    ws = await here.workspace("Same")
    before = await here.admin.ok("GET", f"{ALL}/{ws}")
    for body in ({}, {"name": "Same"}, {"suspended": False}):
        assert await here.admin.ok("PATCH", f"{ALL}/{ws}", body) == before
    assert await here.head() == before["position"]


@pytest.mark.parametrize("field", ["name", "rate_limit", "suspended"])
async def test_null_clears_nothing_of_a_workspace(here: House, field: str) -> None:
    ws = await here.workspace()
    refused(await here.admin("PATCH", f"{ALL}/{ws}", {field: None}), 400, "invalid_request", field)


async def test_only_an_operator_makes_and_lists_workspaces(here: House) -> None:
    by = await here.manager(await here.workspace(), "workspace:write", "keys:write", "keys:read")
    before = await here.head()
    refused(await by("POST", ALL, {"name": 5}), 403, "insufficient_permissions")
    refused(await by("GET", f"{ALL}?limit=0"), 403, "insufficient_permissions")
    refused(await here.nobody("GET", ALL), 401, "missing_api_key")
    assert await here.head() == before


@pytest.mark.parametrize(("field", "value"), [("rate_limit", LIMIT), ("suspended", True)])
async def test_limit_and_suspension_are_for_operators(here: House, field: str, value: object) -> None:
    ws = await here.workspace()
    by = await here.manager(ws, "workspace:write")
    before = await here.head()
    body = {"name": "Mine", field: value}
    refused(await by("PATCH", f"{ALL}/{ws}", body), 403, "insufficient_permissions", field)
    assert await here.head() == before
    assert (await by.ok("PATCH", f"{ALL}/{ws}", {"name": "Mine"}))["name"] == "Mine"


async def test_naming_a_workspace_needs_its_scope(here: House) -> None:
    ws = await here.workspace()
    by = await here.manager(ws, "keys:write", "keys:read", "usage:read")
    refused(await by("PATCH", f"{ALL}/{ws}", {"name": 5}), 403, "insufficient_permissions")


async def test_any_management_scope_shows_the_workspace_and_a_product_scope_does_not(here: House) -> None:
    ws = await here.workspace()
    for scope in ("keys:read", "keys:write", "workspace:write", "usage:read"):
        assert (await (await here.manager(ws, scope))("GET", f"{ALL}/{ws}")).status_code == 200
    product = here.caller((await here.key(ws, scopes=["*", "contacts:read"]))["key"])
    refused(await product("GET", f"{ALL}/{ws}"), 403, "insufficient_permissions")


async def test_a_suspended_workspace_is_still_managed(here: House) -> None:
    ws = await here.workspace()
    by = await here.manager(ws, "keys:write", "keys:read")
    await here.admin.ok("PATCH", f"{ALL}/{ws}", {"suspended": True})
    made = await by.ok("POST", Keys(ws).all, {"name": "k", "environment": "live"})
    assert (await by.ok("GET", Keys(ws).one(made["id"])))["status"] == "active"


async def test_if_match_compares_the_version(here: House) -> None:
    ws = await here.workspace()
    path = f"{ALL}/{ws}"
    assert (await here.admin("PATCH", path, {"name": "b"}, headers={"If-Match": '"1"'})).status_code == 200
    stale = await here.admin("PATCH", path, {"name": "c"}, headers={"If-Match": '"1"'})
    refused(stale, 412, "precondition_failed", "If-Match")
    same = await here.admin("PATCH", path, {"name": "b"}, headers={"If-Match": '"1"'})
    refused(same, 412, "precondition_failed", "If-Match")
    assert (await here.admin("PATCH", path, {"name": "c"}, headers={"If-Match": "*"})).status_code == 200
    wrong = await here.admin("PATCH", path, {"name": 5}, headers={"If-Match": '"1"'})
    refused(wrong, 400, "invalid_request", "name")


async def test_what_happened_in_a_workspace_is_told_oldest_first(here: House) -> None:
    ws = await here.workspace("Old")
    keys = Keys(ws)
    made = await here.key(ws, name="k", metadata={"a": "b"})
    await here.admin.ok("PATCH", keys.workspace, {"name": "New"})
    await here.admin.ok("POST", keys.one(made["id"], "revoke"), {"reason": "leaked", "note": "line\nline"})
    answer = await here.admin("GET", keys.events)
    events = answer.json()["events"]
    assert [(event["type"], event["version"]) for event in events] == [
        ("workspace_created", 1), ("key_created", 1), ("workspace_changed", 2), ("key_revoked", 2),
    ]  # fmt: skip
    assert answer.headers["x-keyledger-position"] == str(events[-1]["position"])
    assert set(events[0]) == {"position", "version", "type", "at", "actor", "request_id", "data", "stream"}
    assert [event["stream"] for event in events] == [ws, made["id"], ws, made["id"]]
    assert events[0]["data"]["name"] == "Old"
    assert events[1]["data"]["metadata"] == {"a": "b"}
    assert events[1]["data"]["secret"] == {"hint": made["secrets"][0]["hint"]}
    assert events[2]["data"] == {"name": "New"}
    assert events[3]["data"] == {"reason": "leaked", "note": "line\nline"}
    assert all(event["actor"].startswith("key_") for event in events)


async def test_events_are_paged_by_position_and_by_cursor(here: House) -> None:
    ws = await here.workspace()
    for number in range(4):
        await here.key(ws, name=str(number))
    keys = Keys(ws)
    whole = (await here.admin.ok("GET", keys.events))["events"]
    first = await here.admin.ok("GET", f"{keys.events}?limit=2")
    assert first["events"] == whole[:2]
    rest = await here.admin.ok("GET", f"{keys.events}?limit=3&cursor={first['next_cursor']}")
    assert (rest["events"], rest["next_cursor"]) == (whole[2:], None)
    after = await here.admin.ok("GET", f"{keys.events}?after={whole[1]['position']}")
    assert after["events"] == whole[2:]
    beyond = await here.admin.ok("GET", f"{keys.events}?after={10**18}")
    assert beyond == {"events": [], "next_cursor": None}


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "after=1.5", "after=%00", "after=", "limit=0", "limit=201"]
)
async def test_a_page_that_cannot_be_is_refused(here: House, query: str) -> None:
    ws = await here.workspace()
    answer = await here.admin("GET", f"{Keys(ws).events}?{query}")
    refused(answer, 400, "invalid_request", query.partition("=")[0])


async def test_a_position_and_a_cursor_at_once_are_refused(here: House) -> None:
    ws = await here.workspace()
    await here.key(ws)
    cursor = (await here.admin.ok("GET", f"{Keys(ws).events}?limit=1"))["next_cursor"]
    answer = await here.admin("GET", f"{Keys(ws).events}?after=1&cursor={cursor}")
    refused(answer, 400, "invalid_request", "after")
