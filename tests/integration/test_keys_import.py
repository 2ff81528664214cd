"""Taking foreign keys over: all of a call's or none, each token one key's for ever, and no token kept."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from keyledger.token import mint
from tests.support.keys import House, Keys, everything_stored, house, raw, refused
from tests.support.servers import Servers

SHA = hashlib.sha256(b"sk-foreign-1").digest()
OURS = mint("cvtk", "live", "key_" + "0" * 22, "s" * 32).reveal()


@pytest.fixture(scope="module")
async def here(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(servers, tmp_path_factory.mktemp("import")) as found:
        yield found


@pytest.fixture
async def at(here: House) -> Keys:
    return Keys(await here.workspace())


def item(text: str = "", **fields: Any) -> dict[str, Any]:
    """A key to import, by its plaintext unless the fields tell it another way."""
    plain: dict[str, Any] = {"name": "legacy", "environment": "live"}
    if text:
        plain["plaintext"] = text
    return plain | fields


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def test_keys_are_imported_by_hex_base64_and_plaintext(here: House, at: Keys) -> None:
    names = [f"{at.workspace}-{number}" for number in range(4)]
    digests = [hashlib.sha256(name.encode()).digest() for name in names]
    asked = [
        item(sha256=digests[0].hex(), name="hex", external_id="u1", metadata={"a": "b"}),
        item(sha256=base64.b64encode(digests[1]).decode(), name="base64", scopes=["a:read"]),
        item(
            sha256=base64.urlsafe_b64encode(digests[2]).decode().rstrip("="), name="url", environment="test"
        ),
        item(names[3], name="plain", rate_limit={"limit": 5, "window_seconds": 60}),
    ]
    answer = await here.admin("POST", f"{at.all}/import", {"keys": asked})
    assert answer.status_code == 201, answer.text
    done = answer.json()
    assert [(one["index"], one["status"]) for one in done["results"]] == [(n, "created") for n in range(4)]
    keys = [one["key"] for one in done["results"]]
    assert [key["name"] for key in keys] == ["hex", "base64", "url", "plain"]
    assert (keys[0]["external_id"], keys[0]["metadata"], keys[1]["scopes"]) == ("u1", {"a": "b"}, ["a:read"])
    assert (keys[2]["environment"], keys[3]["rate_limit"]) == ("test", {"limit": 5, "window_seconds": 60})
    assert {secret["hint"] for key in keys for secret in key["secrets"]} == {"imported"}
    assert done["position"] == await here.head()
    for key in keys:
        shown = await here.admin.ok("GET", at.one(key["id"]))
        assert shown == key
        (event,) = (await here.admin.ok("GET", at.one(key["id"], "events")))["events"]
        assert event["type"] == "key_imported"
        assert not {"proof", "digests"} & set(event["data"]) | {"digests"} & set(event["data"]["secret"])


async def test_nothing_of_a_token_is_kept_but_what_cannot_be_turned_back(here: House, at: Keys) -> None:
    text = "sk-unforgettable-0123456789"
    digest = hashlib.sha256(text.encode()).digest()
    await here.admin.ok("POST", f"{at.all}/import", {"keys": [item(text)]}, headers={"Idempotency-Key": "k"})
    stored = await everything_stored(here.admin_dsn)
    for secret in (text.encode(), digest, digest.hex().encode(), base64.b64encode(digest)):
        assert secret not in stored


async def test_an_imported_key_manages_like_any_other_and_rotates_to_a_token_of_ours(
    here: House, at: Keys
) -> None:
    token = f"legacy-manager-{at.workspace}"
    scopes = ["keyledger:keys:read"]
    done = await here.admin.ok("POST", f"{at.all}/import", {"keys": [item(token, scopes=scopes)]})
    key = done["results"][0]["key"]
    holder = here.caller(token)
    assert (await holder("GET", at.all)).status_code == 200
    refused(await here.caller(token + "x")("GET", at.all), 401, "invalid_api_key")
    rotated = await here.admin.ok("POST", at.one(key["id"], "rotate"))
    assert rotated["key"].startswith("cvtk_live_")
    assert (await here.caller(rotated["key"])("GET", at.all)).status_code == 200
    refused(await holder("GET", at.all), 401, "invalid_api_key")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({}, "sha256"),
        ({"sha256": SHA.hex(), "plaintext": "x"}, "sha256"),
        ({"sha256": ""}, "sha256"),
        ({"sha256": SHA.hex()[:-1]}, "sha256"),
        ({"sha256": SHA.hex() + "\n"}, "sha256"),
        ({"sha256": base64.b64encode(SHA[:-1]).decode()}, "sha256"),
        ({"sha256": base64.b64encode(SHA).decode()[:-2] + "1="}, "sha256"),
        ({"sha256": 5}, "sha256"),
        ({"plaintext": ""}, "plaintext"),
        ({"plaintext": "x" * 513}, "plaintext"),
        ({"plaintext": OURS}, "plaintext"),
        ({"plaintext": "cvtk_live_something"}, "plaintext"),
        ({"plaintext": "x", "name": ""}, "name"),
        ({"plaintext": "x", "environment": "prod"}, "environment"),
        ({"plaintext": "x", "scopes": ["NO"]}, "scopes"),
        ({"plaintext": "x", "scopes": ["keyledger:prove"]}, "scopes"),
        ({"plaintext": "x", "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"plaintext": "x", "expires_at": "soon"}, "expires_at"),
        ({"plaintext": "x", "allowed_ips": []}, "allowed_ips"),
        ({"plaintext": "x", "rate_limit": {"limit": 0, "window_seconds": 60}}, "rate_limit.limit"),
        ({"plaintext": "x", "external_id": ""}, "external_id"),
        ({"plaintext": "x", "metadata": {"a": "\0"}}, "metadata"),
        ({"plaintext": "x", "colour": "red"}, "colour"),
    ],
)
async def test_a_bad_key_is_named_and_none_is_imported(
    here: House, at: Keys, wrong: dict[str, Any], field: str
) -> None:
    before = await here.head()
    asked = [item(f"{at.workspace}-good"), item(**wrong)]
    refused(
        await here.admin("POST", f"{at.all}/import", {"keys": asked}),
        400, "invalid_request", f"keys[1].{field}",
    )  # fmt: skip
    assert await here.head() == before


async def test_the_call_itself_is_bounded(here: House, at: Keys) -> None:
    for keys in ([], [item(sha256=sha(str(number))) for number in range(1001)]):
        refused(await here.admin("POST", f"{at.all}/import", {"keys": keys}), 400, "invalid_request", "keys")
    many = [item(f"{at.workspace}-{number}") for number in range(101)]
    refused(await here.admin("POST", f"{at.all}/import", {"keys": many}), 400, "invalid_request", "keys")
    refused(await here.admin("POST", f"{at.all}/import", {}), 400, "invalid_request", "keys")
    refused(await here.admin("POST", f"{at.all}/import", {"keys": [5]}), 400, "invalid_request", "keys[0]")


async def test_the_body_may_be_a_mebibyte_and_no_more_and_size_comes_first(here: House, at: Keys) -> None:
    path = f"{at.all}/import"
    for size, status in ((1024 * 1024, 401), (1024 * 1024 + 1, 413)):
        told = await raw(here.edge, "POST", path, chunks=[b" " * size])
        assert told.status == status
    elsewhere = await raw(here.edge, "POST", at.all, chunks=[b" " * (64 * 1024 + 1)])
    assert elsewhere.status == 413


async def test_the_checks_come_in_the_contracts_order(here: House, at: Keys) -> None:
    path, bad = f"{at.all}/import", {"keys": []}
    refused(await here.nobody("POST", path, bad), 401, "missing_api_key")
    stranger = await here.manager(await here.workspace("other"), "keys:write")
    refused(await stranger("POST", path, bad), 404, "not_found")
    reader = await here.manager(at.workspace.rpartition("/")[2], "keys:read")
    refused(await reader("POST", path, bad), 403, "insufficient_permissions")
    writer = await here.manager(at.workspace.rpartition("/")[2], "keys:write")
    refused(await writer("POST", path, bad), 400, "invalid_request", "keys")
    more = {"keys": [item(f"{path}-1"), item(f"{path}-2", scopes=["keyledger:usage:read"])]}
    refused(await writer("POST", path, more), 403, "insufficient_permissions", "keys[1].scopes")
    answer = await here.admin("GET", path)
    assert (answer.status_code, "POST" in answer.headers["allow"]) == (405, True)


async def test_a_token_is_one_keys_in_all_workspaces(here: House, at: Keys) -> None:
    token = f"unique-{at.workspace}"
    await here.admin.ok("POST", f"{at.all}/import", {"keys": [item(token)]})
    other, before = Keys(await here.workspace("other")), await here.head()
    asked = {"keys": [item(f"fresh-{at.workspace}"), item(sha256=sha(token))]}
    refused(await here.admin("POST", f"{other.all}/import", asked), 409, "conflict", "keys[1].sha256")
    assert await here.head() == before
    assert (await here.admin.ok("GET", other.all))["keys"] == []
    twice = {"keys": [item("same"), item("another"), item(sha256=sha("same"))]}
    refused(await here.admin("POST", f"{other.all}/import", twice), 409, "conflict", "keys[2].sha256")


async def test_of_two_that_race_for_a_token_one_gets_it(here: House, at: Keys) -> None:
    other = Keys(await here.workspace("other"))
    token = f"raced-{at.workspace}"
    answers = await asyncio.gather(
        *(here.admin("POST", f"{place.all}/import", {"keys": [item(token)]}) for place in (at, other))
    )
    assert sorted(answer.status_code for answer in answers) == [201, 409]
    owners = [key for place in (at, other) for key in (await here.admin.ok("GET", place.all))["keys"]]
    assert len(owners) == 1


async def test_an_import_with_an_idempotency_key_happens_once_and_is_answered_the_same(
    here: House, at: Keys
) -> None:
    asked = {"keys": [item(f"{at.workspace}-{number}") for number in range(3)]}
    headers = {"Idempotency-Key": "once"}
    first = await here.admin("POST", f"{at.all}/import", asked, headers=headers)
    assert first.status_code == 201
    await here.admin.ok("PATCH", at.one(first.json()["results"][0]["key"]["id"]), {"name": "changed"})
    again = await here.admin("POST", f"{at.all}/import", asked, headers=headers)
    assert (again.status_code, again.content) == (201, first.content)
    other = {"keys": [item(f"{at.workspace}-other")]}
    refused(
        await here.admin("POST", f"{at.all}/import", other, headers=headers),
        422, "idempotency_key_reused", "Idempotency-Key",
    )  # fmt: skip
    assert len((await here.admin.ok("GET", at.all))["keys"]) == 3


async def test_more_imports_at_once_than_there_are_places_are_busy(here: House, at: Keys) -> None:
    calls = [
        here.admin(
            "POST", f"{at.all}/import", {"keys": [item(f"{at.workspace}-{number}-{n}") for n in range(3)]}
        )
        for number in range(5)
    ]
    answers = await asyncio.gather(*calls)
    statuses = {answer.status_code for answer in answers}
    assert statuses == {201, 503}
    busy = next(answer for answer in answers if answer.status_code == 503)
    refused(busy, 503, "busy")
    assert int(busy.headers["retry-after"]) >= 1


async def test_a_thousand_keys_are_imported_in_one_call(here: House, at: Keys) -> None:
    loop = asyncio.get_running_loop()
    asked = {"keys": [item(sha256=sha(f"{at.workspace}/{number}")) for number in range(1000)]}
    assert len(json.dumps(asked)) < 1024 * 1024
    began = loop.time()
    importing = asyncio.create_task(here.admin("POST", f"{at.all}/import", asked, timeout=100))
    slowest = 0.0
    while not importing.done():
        sent = loop.time()
        await here.admin.ok("GET", "/v1/head")
        slowest = max(slowest, loop.time() - sent)
    took = loop.time() - began
    answer = importing.result()
    assert answer.status_code == 201, answer.text
    print(
        f"1,000 keys imported in {took:.1f} s; the slowest other call meanwhile took {slowest * 1000:.0f} ms"
    )
    assert len(answer.json()["results"]) == 1000
    assert slowest < 2
