"""`ANY /v1/gateway[/…]`, through the application, as the contract says it."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from keyledger.events import KeyRevoked, WorkspaceChanged
from services.verifier.handlers.gateway import ClientAddress
from tests.support.followed_log import WORKSPACE, key_created, key_id, token
from tests.support.verifying import World

KEY = key_id(1)
GOOD = {"X-API-Key": token(1)}
BAD = {"X-API-Key": token(9)}
IDENTITY = ("x-workspace-id", "x-key-id", "x-key-name", "x-key-environment", "x-key-scopes")
LIMITED = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "ratelimit", "ratelimit-policy")

Given = dict[str, str] | list[tuple[str, str]]


async def world_with_key(*, limit: int = 1000, **key: Any) -> World:
    world = World(limit=limit)
    world.add(KEY, key_created(1, **{"scopes": ("read", "list"), **key}))
    return await world.caught_up()


async def ask(
    world: World,
    path: str = "/v1/gateway",
    headers: Given | None = None,
    *,
    method: str = "GET",
    address: ClientAddress | None = None,
    body: bytes | None = None,
) -> httpx2.Response:
    async with world.client(address=address) as client:
        given = list(GOOD.items()) if headers is None else headers
        return await client.request(method, path, headers=given, content=body)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize("path", ["/v1/gateway", "/v1/gateway/", "/v1/gateway/contacts/7?scopes=admin&x=y"])
async def test_allowed_is_200_with_identity_and_no_body(path: str, method: str) -> None:
    answer = await ask(await world_with_key(name="Web & Co"), path, method=method)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == "0"
    assert [answer.headers[name] for name in IDENTITY] == [
        WORKSPACE,
        KEY,
        "Web%20%26%20Co",
        "live",
        "read list",
    ]
    assert answer.headers["x-ratelimit-remaining"] == "999"
    assert answer.headers["ratelimit"] == '"workspace";r=999;t=40'
    assert answer.headers["ratelimit-policy"] == '"workspace";q=1000;w=60'
    assert answer.headers["cache-control"] == "no-store"


async def test_identity_is_there_even_when_empty() -> None:
    answer = await ask(await world_with_key(scopes=(), name=""))
    assert (answer.headers["x-key-scopes"], answer.headers["x-key-name"]) == ("", "")


@pytest.mark.parametrize(
    "headers", [{}, {"X-API-Key": ""}, {"X-API-Key": "  "}, {"Authorization": "Basic eA=="}]
)
async def test_no_key_is_missing(headers: Given) -> None:
    answer = await ask(await world_with_key(), headers=headers)
    assert (answer.status_code, answer.content) == (401, b'{"error":"missing_api_key"}')
    assert "realm" in answer.headers["www-authenticate"]
    assert not any(name in answer.headers for name in (*LIMITED, *IDENTITY))


@pytest.mark.parametrize("presented", ["foreign", "cvtk_live_short", token(1, 2), token(9), "x" * 600])
async def test_every_bad_key_looks_the_same(presented: str) -> None:
    answer = await ask(await world_with_key(), headers={"X-API-Key": presented})
    assert (answer.status_code, answer.content) == (401, b'{"error":"invalid_api_key"}')
    assert not any(name in answer.headers for name in (*LIMITED, *IDENTITY))


async def test_a_revoked_key_looks_like_any_bad_one() -> None:
    world = await world_with_key()
    world.add(KEY, KeyRevoked())
    await world.caught_up()
    assert (await ask(world)).content == b'{"error":"invalid_api_key"}'


BEARER = {"Authorization": f"Bearer {token(1)}"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (BEARER, 200),
        ({"Authorization": f"bearer {token(1)}"}, 200),
        ({**GOOD, **BEARER}, 200),
        ({**GOOD, "Authorization": "Bearer eyJ.a.jwt"}, 200),
        ({"X-API-Key": "", **BEARER}, 200),
        ({"Authorization": "Bearer eyJ.a.jwt"}, 401),
        ({**GOOD, "Authorization": f"Bearer {token(2)}"}, 400),
        ([("X-API-Key", token(1)), ("X-API-Key", token(2))], 400),
        ([("X-API-Key", token(1)), ("X-API-Key", token(1))], 200),
    ],
)
async def test_which_credential_counts(headers: Given, status: int) -> None:
    answer = await ask(await world_with_key(), headers=headers)
    assert answer.status_code == status
    assert token(1) not in answer.text


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/gateway?scopes=read", {}, 200),
        ("/v1/gateway?scopes=read,list", {}, 200),
        ("/v1/gateway?scopes=read+list&scopes=read", {}, 200),
        ("/v1/gateway?scopes=", {}, 200),
        ("/v1/gateway?scopes=write", {}, 403),
        ("/v1/gateway?scopes=read", {"X-Required-Scopes": "write"}, 403),
        ("/v1/gateway", {"X-Required-Scopes": "read, list"}, 200),
        ("/v1/gateway/x", {"X-Required-Scopes": "write"}, 403),
        ("/v1/gateway?environment=live", {}, 200),
        ("/v1/gateway?environment=test", {}, 403),
        ("/v1/gateway?environment=live", {"X-Required-Environment": "test"}, 403),
        ("/v1/gateway?environment=live", {"X-Required-Environment": "live"}, 200),
        ("/v1/gateway?scopes=NOT", {}, 400),
        ("/v1/gateway?environment=prod", {}, 400),
        ("/v1/gateway", {"X-Required-Environment": "prod"}, 400),
        ("/v1/gateway", {"X-Required-Scopes": "read;list"}, 400),
        ("/v1/gateway?colour=red", {}, 400),
        ("/v1/gateway?deny=401", {}, 400),
        ("/v1/gateway?" + "&".join(["scopes=read"] * 101), {}, 400),
    ],
)
async def test_requirements_add_up(path: str, headers: dict[str, str], status: int) -> None:
    answer = await ask(await world_with_key(), path, {**GOOD, **headers})
    assert answer.status_code == status
    if status == 403:
        assert answer.content == b'{"error":"insufficient_permissions"}'
        assert answer.headers["x-ratelimit-remaining"] == "1000"
    if status == 400:
        assert answer.json()["error"] == "invalid_request"


async def test_two_requirement_headers_are_united() -> None:
    given = [*GOOD.items(), ("X-Required-Scopes", "read"), ("X-Required-Scopes", "write")]
    assert (await ask(await world_with_key(), headers=given)).status_code == 403


async def test_a_bad_key_learns_nothing_of_the_requirements() -> None:
    answer = await ask(await world_with_key(), "/v1/gateway?scopes=NOT", {"X-API-Key": "foreign"})
    assert (answer.status_code, answer.content) == (401, b'{"error":"invalid_api_key"}')


async def test_a_spent_limit_is_429() -> None:
    world = await world_with_key(limit=1)
    await ask(world)
    answer = await ask(world)
    assert (answer.status_code, answer.content) == (429, b'{"error":"rate_limit_exceeded"}')
    assert (answer.headers["retry-after"], answer.headers["x-ratelimit-remaining"]) == ("40", "0")
    assert answer.headers["x-ratelimit-reset"] == "1790000040"


async def test_refusals_spend_nothing() -> None:
    world = await world_with_key(limit=2)
    for headers in ({"X-API-Key": token(1, 2)}, {**GOOD, "X-Required-Scopes": "write"}):
        for _ in range(5):
            await ask(world, headers=headers)
    assert (await ask(world)).headers["x-ratelimit-remaining"] == "1"


@pytest.mark.parametrize(
    ("query", "headers", "meant"),
    [
        ("", {}, "401"),
        ("", {"X-API-Key": "foreign"}, "401"),
        ("&scopes=write", GOOD, "403"),
        ("&scopes=NOT", GOOD, "400"),
        ("&colour=red", GOOD, "400"),
        ("&scopes=%FF", GOOD, "400"),
    ],
)
@pytest.mark.parametrize("deny", ["deny=403", "%64eny=4%303", "scopes=&deny=403"])
async def test_for_nginx_every_refusal_is_a_403(deny: str, query: str, headers: Given, meant: str) -> None:
    answer = await ask(await world_with_key(), f"/v1/gateway?{deny}{query}", headers)
    assert answer.status_code == 403
    assert answer.headers["x-verify-status"] == meant
    assert answer.headers["x-verify-body"].startswith('{"error":"')


async def test_for_nginx_a_429_keeps_its_headers_and_a_200_is_a_200() -> None:
    world = await world_with_key(limit=1)
    assert (await ask(world, "/v1/gateway?deny=403")).status_code == 200
    answer = await ask(world, "/v1/gateway?deny=403")
    assert (answer.status_code, answer.headers["x-verify-status"]) == (403, "429")
    assert answer.headers["x-verify-body"] == '{"error":"rate_limit_exceeded"}'
    assert answer.headers["retry-after"] == "40"


async def test_deny_below_the_address_is_the_clients_and_ignored() -> None:
    assert (await ask(await world_with_key(), "/v1/gateway/x?deny=403", {})).status_code == 401


async def test_a_stale_verifier_never_allows() -> None:
    world = await world_with_key()
    world.clock.advance(301)
    answer = await ask(world)
    assert (answer.status_code, answer.json()["error"]) == (503, "stale")
    assert answer.headers["retry-after"] == "1"
    told = await ask(world, "/v1/gateway?deny=403")
    assert (told.status_code, told.headers["x-verify-status"]) == (403, "503")


async def test_a_suspended_workspace_is_403() -> None:
    world = await world_with_key()
    world.add(WORKSPACE, WorkspaceChanged(suspended=True))
    await world.caught_up()
    assert (await ask(world)).content == b'{"error":"insufficient_permissions"}'


@pytest.mark.parametrize(
    ("address", "told", "status"),
    [
        (ClientAddress(b"x-forwarded-for"), ["10.0.0.1"], 200),
        (ClientAddress(b"x-forwarded-for"), ["10.0.0.1, 203.0.113.9"], 403),
        (ClientAddress(b"x-forwarded-for"), ["203.0.113.9", "10.0.0.1"], 200),
        (ClientAddress(b"x-forwarded-for", 2), ["1.1.1.1, 10.0.0.1, 203.0.113.9"], 200),
        (ClientAddress(b"x-forwarded-for", 3), ["10.0.0.1"], 403),
        (ClientAddress(b"x-forwarded-for"), ["::ffff:10.0.0.1"], 200),
        (ClientAddress(b"x-forwarded-for"), ["unknown"], 403),
        (ClientAddress(b"x-forwarded-for"), [], 403),
        (ClientAddress(), ["10.0.0.1"], 403),
    ],
)
async def test_the_clients_address_comes_from_the_trusted_end(
    address: ClientAddress, told: list[str], status: int
) -> None:
    world = await world_with_key(allowed_ips=("10.0.0.0/8",))
    headers = [*GOOD.items(), *(("X-Forwarded-For", value) for value in told)]
    assert (await ask(world, headers=headers, address=address)).status_code == status


async def test_a_body_is_ignored_whatever_it_is() -> None:
    answer = await ask(await world_with_key(), method="POST", body=b"x" * 1_000_000)
    assert answer.status_code == 200


@pytest.mark.parametrize("alias", ["X_Key_Id", "x.workspace.id", "X-API_Key", "X~Required~Scopes"])
async def test_another_spelling_of_a_header_of_ours_is_refused_while_a_gateway_asks(alias: str) -> None:
    world = await world_with_key()
    answer = await ask(world, headers={**GOOD, alias: "forged"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert (await ask(world, headers={**BAD, alias: "forged"})).status_code == 401
    told = await ask(world, "/v1/gateway?deny=403", {**GOOD, alias: "forged"})
    assert (told.status_code, told.headers["x-verify-status"]) == (403, "400")


async def test_an_identity_that_came_twice_is_refused_and_one_that_came_once_is_ignored() -> None:
    world = await world_with_key()
    once = [*GOOD.items(), ("X-Key-Id", "forged")]
    assert (await ask(world, headers=once)).headers["x-key-id"] == KEY
    assert (await ask(world, headers=[*once, ("x-key-id", "forged")])).status_code == 400
