"""What every address of the key service refuses, in which words, and in which order it looks."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from keyledger.clock import SECOND, SystemClock, rfc3339
from keyledger.token import checksum
from tests.support.keys import UNKNOWN_KEY, UNKNOWN_WS, House, Keys, house, raw, refused
from tests.support.servers import Servers
from tests.support.waiting import until

JSON = {"Content-Type": "application/json"}
LARGE = 64 * 1024
#: Every address below a workspace, with a body that would do; `{key}` is a key of it.
ADDRESSES: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("PATCH", "", {"name": "x"}),
    ("GET", "/events", None),
    ("GET", "/keys", None),
    ("POST", "/keys", {"name": "x", "environment": "live"}),
    ("GET", "/keys/{key}", None),
    ("PATCH", "/keys/{key}", {"name": "x"}),
    ("POST", "/keys/{key}/rotate", {}),
    ("POST", "/keys/{key}/revoke", {}),
    ("GET", "/keys/{key}/events", None),
]
ALL_SCOPES = ("keys:read", "keys:write", "workspace:write", "usage:read")


@pytest.fixture(scope="module")
async def here(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(servers, tmp_path_factory.mktemp("home")) as found:
        yield found


@pytest.fixture
async def ws(here: House) -> str:
    return await here.workspace()


def without_id(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "request_id"}


async def test_every_bad_credential_is_refused_in_the_same_words(here: House, ws: str) -> None:
    keys, soon = Keys(ws), rfc3339(SystemClock().now() + SECOND // 5)
    scopes = ["keyledger:keys:read"]
    good, revoked, disabled, retired, expired = [
        await here.key(ws, name=name, scopes=scopes, **fields)
        for name, fields in (("g", {}), ("r", {}), ("d", {}), ("o", {}), ("e", {"expires_at": soon}))
    ]
    await here.admin.ok("POST", keys.one(revoked["id"], "revoke"))
    await here.admin.ok("PATCH", keys.one(disabled["id"]), {"enabled": False})
    await here.admin.ok("POST", keys.one(retired["id"], "rotate"))
    token = good["key"]
    wrong = token[:-38] + "0" * 32
    other_environment = token.replace("_live_", "_test_")[:-6]
    unknown = f"cvtk_live_{UNKNOWN_KEY.removeprefix('key_')}{'0' * 32}"
    bad = [
        revoked["key"], disabled["key"], retired["key"], expired["key"],
        wrong + checksum(wrong), other_environment + checksum(other_environment), unknown + checksum(unknown),
        token[:-1], token + "x", token[:-1] + ("a" if token[-1] != "a" else "b"), "cvtk_live_", "x",
        "cvtk_live_" + "0" * 600, "' OR 1=1 --", "ü" * 60, "cvtk_live_" + "é" * 60,
    ]  # fmt: skip

    async def has_expired() -> bool:
        return (await here.caller(expired["key"])("GET", keys.all)).status_code == 401

    await until(has_expired)
    answers = [await raw_key(here, keys.all, key) for key in bad]
    assert {status for status, _ in answers} == {401}
    assert {json.dumps(without_id(body)) for _, body in answers} == {
        json.dumps({"error": "invalid_api_key", "message": "The API key is not valid."})
    }
    assert (await here.caller(token)("GET", keys.all)).status_code == 200


async def raw_key(here: House, path: str, key: str) -> tuple[int, dict[str, Any]]:
    """The answer to a key that no client would send."""
    answer = await raw(here.edge, "GET", path, headers=[(b"x-api-key", key.encode())])
    assert answer.headers["www-authenticate"].startswith("ApiKey ")
    return answer.status, json.loads(answer.body)


async def test_no_credential_is_told_from_a_bad_one(here: House, ws: str) -> None:
    path = Keys(ws).all
    refused(await here.nobody("GET", path), 401, "missing_api_key")
    refused(await here.nobody("GET", path, headers={"X-API-Key": ""}), 401, "missing_api_key")
    bearer = {"Authorization": "Bearer no.jwt.atall"}
    refused(await here.nobody("GET", path, headers=bearer), 401, "invalid_api_key")
    assert (await here.admin("GET", path, headers=bearer)).status_code == 200


async def test_a_key_is_only_good_from_the_addresses_it_allows(here: House, ws: str) -> None:
    scopes = ["keyledger:keys:read"]
    near = await here.key(ws, scopes=scopes, allowed_ips=["127.0.0.0/8"])
    far = await here.key(ws, scopes=scopes, allowed_ips=["192.0.2.1"])
    assert (await here.caller(near["key"])("GET", Keys(ws).all)).status_code == 200
    refused(await here.caller(far["key"])("GET", Keys(ws).all), 403, "insufficient_permissions")


@pytest.mark.parametrize(("method", "tail", "body"), ADDRESSES)
async def test_another_workspace_is_not_there(
    here: House, ws: str, method: str, tail: str, body: Any
) -> None:
    theirs = await here.workspace()
    their_key = await here.key(theirs)
    mine = await here.manager(ws, *ALL_SCOPES)
    before = await here.head()
    nowhere = without_id(refused(await mine("GET", "/v1/nothing"), 404, "not_found"))
    addresses = [(theirs, their_key["id"]), (UNKNOWN_WS, UNKNOWN_KEY), ("ws_x", "key_x"), (theirs, "x")]
    addresses += [
        (ws.lower().upper(), "key_x"),
        ("ws_" + "z" * 22, "key_x"),
        ("%00", "%00"),
        ("ws_%C3%BC", "%FF"),
    ]
    if "{key}" in tail:
        addresses += [
            (ws, their_key["id"]),
            (ws, UNKNOWN_KEY),
            (ws, "key_" + "z" * 22),
            (ws, ws),
            (ws, "..%2f"),
        ]
    for workspace, key in addresses:
        path = f"/v1/workspaces/{workspace}{tail.format(key=key)}"
        answer = await mine(method, path, body, headers={"If-Match": '"9"'} if method == "PATCH" else None)
        assert without_id(refused(answer, 404, "not_found")) == nowhere
        assert workspace not in answer.text
    assert await here.head() == before


async def test_an_operator_finds_no_key_in_the_wrong_workspace(here: House, ws: str) -> None:
    other = await here.workspace()
    made = await here.key(other)
    for method, tail, body in ADDRESSES:
        if "{key}" in tail:
            path = f"/v1/workspaces/{ws}{tail.format(key=made['id'])}"
            refused(await here.admin(method, path, body), 404, "not_found")
        refused(
            await here.admin(method, f"/v1/workspaces/{UNKNOWN_WS}{tail.format(key=made['id'])}", body),
            404,
            "not_found",
        )


@pytest.mark.parametrize(("method", "tail", "body"), ADDRESSES)
async def test_each_address_needs_its_scope(here: House, ws: str, method: str, tail: str, body: Any) -> None:
    made = await here.key(ws)
    product = here.caller((await here.key(ws, scopes=["*"]))["key"])
    path = f"/v1/workspaces/{ws}{tail.format(key=made['id'])}"
    before = await here.head()
    refused(await product(method, path, body), 403, "insufficient_permissions")
    if tail.startswith("/keys") and method != "GET":
        reader = await here.manager(ws, "keys:read", "workspace:write", "usage:read")
        before = await here.head()
        refused(await reader(method, path, body), 403, "insufficient_permissions")
    if method == "GET" and tail:
        writer = await here.manager(ws, "keys:write", "workspace:write", "usage:read")
        before = await here.head()
        refused(await writer(method, path), 403, "insufficient_permissions")
    assert await here.head() == before


@pytest.mark.parametrize(("method", "tail", "body"), [case for case in ADDRESSES if case[0] != "GET"])
async def test_the_order_is_size_credential_tenant_scope_body_and_version(
    here: House, ws: str, method: str, tail: str, body: Any
) -> None:
    made = await here.key(ws)
    keys, path = Keys(ws), f"/v1/workspaces/{ws}{tail.format(key=made['id'])}"
    bad_body, stale = b'{"nope":1}', JSON | {"If-Match": '"77"'}
    theirs = await here.manager(await here.workspace(), *ALL_SCOPES)
    reader = await here.manager(ws, "keys:read")
    too_much = await here.nobody(method, path, content=b"x" * (LARGE + 1))
    refused(too_much, 413, "payload_too_large")
    refused(await here.nobody(method, path, content=bad_body, headers=stale), 401, "missing_api_key")
    refused(await here.caller("x")(method, path, content=bad_body, headers=stale), 401, "invalid_api_key")
    refused(await theirs(method, path, content=bad_body, headers=stale), 404, "not_found")
    refused(await reader(method, path, content=bad_body, headers=stale), 403, "insufficient_permissions")
    refused(await here.admin(method, path, content=bad_body, headers=stale), 400, "invalid_request", "nope")
    if path != keys.all:
        answer = await here.admin(method, path, body, headers={"If-Match": '"77"'})
        refused(answer, 412, "precondition_failed", "If-Match")


async def test_the_target_s_powers_are_a_question_of_scope_and_come_before_the_body(
    here: House, ws: str
) -> None:
    by = await here.manager(ws, "keys:write")
    mighty = await here.key(ws, scopes=["keyledger:workspace:write"])
    path, body = Keys(ws).one(mighty["id"]), b'{"nope":1}'
    before = await here.head()
    for method, where in (("PATCH", path), ("POST", f"{path}/rotate")):
        refused(
            await by(method, where, content=body, headers=JSON), 403, "insufficient_permissions", "scopes"
        )
    assert await here.head() == before


async def test_nobody_can_reach_a_power_they_lack_by_way_of_a_key(here: House, ws: str) -> None:
    by, keys = await here.manager(ws, "keys:write"), Keys(ws)
    equal = await by.ok(
        "POST", keys.all, {"name": "e", "environment": "live", "scopes": ["*", "keyledger:keys:write"]}
    )
    plain, mighty = await here.key(ws), await here.key(ws, scopes=["keyledger:usage:read"])
    before = await here.head()
    for scope in ("keyledger:workspace:write", "keyledger:keys:read", "keyledger:usage:read"):
        body = {"name": "e", "environment": "live", "scopes": ["*", scope]}
        refused(await by("POST", keys.all, body), 403, "insufficient_permissions", "scopes")
        answer = await by("PATCH", keys.one(plain["id"]), {"scopes": [scope]})
        refused(answer, 403, "insufficient_permissions", "scopes")
    for body in ({"scopes": ["*"]}, {"name": "mine"}, {"enabled": False}, {}):
        answer = await by("PATCH", keys.one(mighty["id"]), body)
        refused(answer, 403, "insufficient_permissions", "scopes")
    refused(await by("POST", keys.one(mighty["id"], "rotate")), 403, "insufficient_permissions", "scopes")
    assert await here.head() == before
    assert (await by("PATCH", keys.one(equal["id"]), {"name": "n"})).status_code == 200
    assert (await by("POST", keys.one(equal["id"], "rotate"))).status_code == 201


@pytest.mark.parametrize("scope", ["keyledger:admin", "keyledger:feed:read", "keyledger:prove"])
async def test_the_system_s_scopes_stay_in_the_system_workspace(here: House, ws: str, scope: str) -> None:
    plain, keys = await here.key(ws), Keys(ws)
    before = await here.head()
    body = {"name": "k", "environment": "live", "scopes": [scope]}
    refused(await here.admin("POST", keys.all, body), 400, "invalid_request", "scopes")
    refused(
        await here.admin("PATCH", keys.one(plain["id"]), {"scopes": [scope]}),
        400,
        "invalid_request",
        "scopes",
    )
    assert await here.head() == before
    assert (await here.key(here.system_ws, scopes=[scope]))["scopes"] == [scope]


async def test_in_the_system_workspace_too_no_one_gives_what_they_lack(here: House) -> None:
    by, keys = await here.manager(here.system_ws, "keys:write"), Keys(here.system_ws)
    for scope in ("keyledger:admin", "keyledger:feed:read", "keyledger:prove"):
        body = {"name": "k", "environment": "live", "scopes": [scope]}
        refused(await by("POST", keys.all, body), 403, "insufficient_permissions", "scopes")


async def test_a_manager_s_powers_end_with_the_key(here: House, ws: str) -> None:
    by, keys = await here.manager(ws, "keys:write"), Keys(ws)
    await here.admin.ok("PATCH", keys.one(by.key_id), {"scopes": ["*"]})
    refused(await by("POST", keys.all, {"name": "k", "environment": "live"}), 403, "insufficient_permissions")
    await here.admin.ok("POST", keys.one(by.key_id, "revoke"))
    before = await here.head()
    refused(await by("POST", keys.all, {"name": "k", "environment": "live"}), 401, "invalid_api_key")
    assert await here.head() == before
