"""Many callers at once, and one who asks twice: nothing is lost, doubled or decided on an old state."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.support.keys import House, Keys, house, refused, running
from tests.support.servers import Servers

BODY = {"name": "k", "environment": "live"}


@pytest.fixture(scope="module")
async def here(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(servers, tmp_path_factory.mktemp("home")) as found:
        yield found


@pytest.fixture
async def keys(here: House) -> Keys:
    return Keys(await here.workspace())


async def events(here: House, keys: Keys, key: str) -> list[dict[str, Any]]:
    return (await here.admin.ok("GET", keys.one(key, "events") + "?limit=200"))["events"]


async def test_twenty_creations_at_once_all_succeed_at_dense_positions(here: House, keys: Keys) -> None:
    before = await here.head()
    made = await asyncio.gather(*(here.admin.ok("POST", keys.all, BODY) for _ in range(20)))
    assert sorted(key["position"] for key in made) == list(range(before + 1, before + 21))
    assert len({key["id"] for key in made}) == len({key["key"] for key in made}) == 20
    listed = (await here.admin.ok("GET", f"{keys.all}?limit=200"))["keys"]
    newest_first = sorted(made, key=lambda key: -key["position"])
    assert [key["id"] for key in listed] == [key["id"] for key in newest_first]


async def test_each_version_has_one_winner(here: House, keys: Keys) -> None:
    made = await here.admin.ok("POST", keys.all, BODY)
    for version in (1, 2, 3):
        headers = {"If-Match": f'"{version}"'}
        answers = await asyncio.gather(
            *(
                here.admin("PATCH", keys.one(made["id"]), {"name": f"{version}-{number}"}, headers=headers)
                for number in range(20)
            )
        )
        counted = Counter(answer.status_code for answer in answers)
        assert counted[200] == 1
        assert counted[412] + counted[409] == 19
        (winner,) = (answer.json() for answer in answers if answer.status_code == 200)
        shown = await here.admin.ok("GET", keys.one(made["id"]))
        assert (shown["name"], shown["version"]) == (winner["name"], version + 1)
    assert [event["version"] for event in await events(here, keys, made["id"])] == [1, 2, 3, 4]


async def test_changes_without_a_condition_lose_no_update_silently(here: House, keys: Keys) -> None:
    made = await here.admin.ok("POST", keys.all, BODY)
    answers = await asyncio.gather(
        *(here.admin("PATCH", keys.one(made["id"]), {"name": f"n{number}"}) for number in range(20))
    )
    won = [answer.json() for answer in answers if answer.status_code == 200]
    for answer in answers:
        if answer.status_code != 200:
            refused(answer, 409, "conflict")
    assert sorted(key["version"] for key in won) == list(range(2, 2 + len(won)))
    told = {event["version"]: event["data"] for event in await events(here, keys, made["id"])}
    assert {key["version"]: {"name": key["name"]} for key in won} == {v: told[v] for v in told if v > 1}


async def test_twenty_revocations_at_once_are_one(here: House, keys: Keys) -> None:
    made = await here.admin.ok("POST", keys.all, BODY)
    path = keys.one(made["id"], "revoke")
    answers = await asyncio.gather(*(here.admin.ok("POST", path, {"reason": str(n)}) for n in range(20)))
    assert {(key["status"], key["version"], key["position"]) for key in answers} == {
        ("revoked", 2, answers[0]["position"])
    }
    assert [event["type"] for event in await events(here, keys, made["id"])] == ["key_created", "key_revoked"]


async def test_a_revocation_wins_over_whatever_else_happens(here: House, keys: Keys) -> None:
    made = await here.admin.ok("POST", keys.all, BODY)
    path = keys.one(made["id"])
    answers = await asyncio.gather(
        *(here.admin("POST", f"{path}/rotate", {"overlap_seconds": 60}) for _ in range(10)),
        here.admin("POST", f"{path}/revoke"),
        *(here.admin("PATCH", path, {"name": f"n{number}"}) for number in range(10)),
    )
    assert {answer.status_code for answer in answers} <= {200, 201, 409}
    while (answer := await here.admin("POST", f"{path}/revoke")).status_code != 200:
        refused(answer, 409, "conflict")
    told = await events(here, keys, made["id"])
    assert [event["type"] for event in told].count("key_revoked") == 1
    assert told[-1]["type"] == "key_revoked"
    assert [event["version"] for event in told] == list(range(1, len(told) + 1))
    assert len((await here.admin.ok("GET", path))["secrets"]) <= 2


def asking(here: House, path: str, body: Any, key: str) -> "asyncio.Task[httpx2.Response]":
    headers = {"Idempotency-Key": key}
    return asyncio.create_task(here.admin("POST", path, body, headers=headers))


async def test_the_same_request_gets_the_same_answer_the_token_included(here: House, keys: Keys) -> None:
    body = BODY | {"metadata": {"a": "1", "b": "2"}}
    first = await asking(here, keys.all, body, "once")
    again = await asking(here, keys.all, {"metadata": {"b": "2", "a": "1"}, **BODY}, "once")
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    assert first.headers["etag"] == again.headers["etag"]
    assert len((await here.admin.ok("GET", keys.all))["keys"]) == 1
    refused(
        await asking(here, keys.all, body | {"name": "z"}, "once"),
        422,
        "idempotency_key_reused",
        "Idempotency-Key",
    )


async def test_every_post_can_be_repeated(here: House, keys: Keys) -> None:
    made = await here.admin.ok("POST", keys.all, BODY)
    for path, body in (
        ("/v1/workspaces", {"name": "once"}),
        (keys.one(made["id"], "rotate"), {"overlap_seconds": 1}),
        (keys.one(made["id"], "revoke"), {"reason": "r"}),
    ):
        first = await asking(here, path, body, "again")
        before = await here.head()
        again = await asking(here, path, body, "again")
        assert (first.status_code, first.json()) == (again.status_code, again.json())
        assert await here.head() == before


async def test_an_answer_does_not_change_with_what_happened_since(here: House, keys: Keys) -> None:
    made = await here.admin.ok("POST", keys.all, BODY)
    path = keys.one(made["id"], "rotate")
    first = await asking(here, path, {"overlap_seconds": 60}, "rotation")
    await here.admin.ok("PATCH", keys.one(made["id"]), {"name": "other"})
    await here.admin.ok("POST", path)
    await here.admin.ok("POST", keys.one(made["id"], "revoke"))
    again = await asking(here, path, {"overlap_seconds": 60}, "rotation")
    assert (again.status_code, again.json()) == (201, first.json())


async def test_an_idempotency_key_is_one_principal_s_at_one_address(here: House, keys: Keys) -> None:
    ws = keys.workspace.rpartition("/")[2]
    one, other = await here.manager(ws, "keys:write"), await here.manager(ws, "keys:write")
    elsewhere = Keys(await here.workspace())
    headers = {"Idempotency-Key": "shared"}
    answers = [
        await by("POST", path, BODY, headers=headers)
        for by, path in (
            (one, keys.all),
            (other, keys.all),
            (here.admin, keys.all),
            (here.admin, elsewhere.all),
        )
    ]
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 4


async def test_a_refused_request_uses_no_idempotency_key_up(here: House, keys: Keys) -> None:
    refused(await asking(here, keys.all, {"name": 5}, "later"), 400, "invalid_request", "name")
    expired = BODY | {"expires_at": "2020-01-01T00:00:00Z"}
    refused(await asking(here, keys.all, expired, "later"), 400, "invalid_request", "expires_at")
    assert (await asking(here, keys.all, BODY, "later")).status_code == 201


async def test_a_key_that_lost_its_rights_is_not_answered_again(here: House, keys: Keys) -> None:
    by = await here.manager(keys.workspace.rpartition("/")[2], "keys:write")
    headers = {"Idempotency-Key": "mine"}
    assert (await by("POST", keys.all, BODY, headers=headers)).status_code == 201
    await here.admin.ok("PATCH", keys.one(by.key_id), {"scopes": ["*"]})
    refused(await by("POST", keys.all, BODY, headers=headers), 403, "insufficient_permissions")


async def test_the_same_request_many_times_at_once_makes_one_key(here: House, keys: Keys) -> None:
    answers = await asyncio.gather(*(asking(here, keys.all, BODY, "storm") for _ in range(20)))
    made = [answer.json() for answer in answers if answer.status_code == 201]
    for answer in answers:
        if answer.status_code != 201:
            refused(answer, 409, "idempotency_in_progress", "Idempotency-Key")
            assert answer.headers["retry-after"] == "1"
    assert made
    assert {json.dumps(key) for key in made} == {json.dumps(made[0])}
    assert len((await here.admin.ok("GET", keys.all))["keys"]) == 1


async def test_two_services_make_one_key_of_the_same_request(here: House, keys: Keys) -> None:
    async with running(here.home, here.admin_dsn, here.postgres, here.nats) as second:
        houses = [here, second] * 10
        answers = await asyncio.gather(*(asking(each, keys.all, BODY, "both") for each in houses))
        assert {answer.status_code for answer in answers} <= {201, 409}
        made = [answer.json() for answer in answers if answer.status_code == 201]
        assert {json.dumps(key) for key in made} == {json.dumps(made[0])}
        assert (await asking(second, keys.all, BODY, "both")).json() == made[0]
    assert len((await here.admin.ok("GET", keys.all))["keys"]) == 1


async def test_two_services_keep_positions_dense_between_them(here: House, keys: Keys) -> None:
    async with running(here.home, here.admin_dsn, here.postgres, here.nats) as second:
        before = await here.head()
        made = await asyncio.gather(
            *(each.admin.ok("POST", keys.all, BODY) for each in (here, second) for _ in range(15))
        )
    assert sorted(key["position"] for key in made) == list(range(before + 1, before + 31))
