"""The end of secrets and of keys over HTTP: rotate, revoke, and what is told of it afterwards."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from keyledger.clock import SECOND, SystemClock, parse_rfc3339, rfc3339
from tests.support.keys import House, Keys, house, refused
from tests.support.servers import Servers

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


async def test_a_rotation_keeps_the_key_and_ends_the_old_secret_at_the_overlap(
    here: House, keys: Keys
) -> None:
    made = await here.key(ws_of(keys), scopes=["keyledger:keys:read"])
    answer = await here.admin("POST", keys.one(made["id"], "rotate"), {"overlap_seconds": 60})
    assert answer.status_code == 201
    assert answer.headers["etag"] == '"2"'
    rotated = answer.json()
    assert set(rotated) == FIELDS | {"key", "position", "epoch", "previous_valid_until"}
    assert rotated["id"] == made["id"]
    assert rotated["key"] != made["key"]
    old, new = rotated["secrets"]
    assert (old["hint"], old["valid_until"]) == (made["secrets"][0]["hint"], rotated["previous_valid_until"])
    assert (new["hint"][-4:], new["valid_until"]) == (rotated["key"][-4:], None)
    overlap = parse_rfc3339(rotated["previous_valid_until"]) - parse_rfc3339(new["created_at"])
    assert 59 * SECOND < overlap <= 60 * SECOND
    for token in (made["key"], rotated["key"]):
        assert (await here.caller(token)("GET", keys.all)).status_code == 200


async def test_without_an_overlap_the_old_secret_ends_at_once(here: House, keys: Keys) -> None:
    made = await here.key(ws_of(keys), scopes=["keyledger:keys:read"])
    rotated = await here.admin.ok("POST", keys.one(made["id"], "rotate"))
    assert len(rotated["secrets"]) == 1
    refused(await here.caller(made["key"])("GET", keys.all), 401, "invalid_api_key")
    assert (await here.caller(rotated["key"])("GET", keys.all)).status_code == 200


async def test_rotating_again_ends_the_oldest_secret(here: House, keys: Keys) -> None:
    made = await here.key(ws_of(keys), scopes=["keyledger:keys:read"])
    tokens = [made["key"]]
    for _ in range(3):
        body = {"overlap_seconds": 2_592_000}
        rotated = await here.admin.ok("POST", keys.one(made["id"], "rotate"), body)
        assert len(rotated["secrets"]) == 2
        tokens.append(rotated["key"])
    statuses = [(await here.caller(token)("GET", keys.all)).status_code for token in tokens]
    assert statuses == [401, 401, 200, 200]
    shown = await here.admin.ok("GET", keys.one(made["id"]))
    assert [secret["hint"][-4:] for secret in shown["secrets"]] == [token[-4:] for token in tokens[2:]]


async def test_an_overlap_never_outlives_the_key(here: House, keys: Keys) -> None:
    ends = rfc3339(SystemClock().now() // SECOND * SECOND + 100 * SECOND)
    made = await here.key(ws_of(keys), expires_at=ends)
    rotated = await here.admin.ok("POST", keys.one(made["id"], "rotate"), {"overlap_seconds": 3600})
    assert rotated["previous_valid_until"] == ends


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"overlap_seconds": -1}, "overlap_seconds"),
        ({"overlap_seconds": 2_592_001}, "overlap_seconds"),
        ({"overlap_seconds": 10**30}, "overlap_seconds"),
        ({"overlap_seconds": 1.5}, "overlap_seconds"),
        ({"overlap_seconds": None}, "overlap_seconds"),
        ({"overlap_seconds": "1"}, "overlap_seconds"),
        ({"overlap_seconds": True}, "overlap_seconds"),
        ({"retire": "never"}, "retire"),
        ({"retire": None}, "retire"),
        ({"retire": "on_first_use"}, "overlap_seconds"),
        ({"key": "mine"}, "key"),
    ],
)
async def test_a_rotation_that_cannot_be_is_refused(
    here: House, keys: Keys, body: object, field: str
) -> None:
    made = await here.key(ws_of(keys))
    refused(await here.admin("POST", keys.one(made["id"], "rotate"), body), 400, "invalid_request", field)
    assert await here.head() == made["position"]


async def test_revoking_is_final_and_can_be_repeated(here: House, keys: Keys) -> None:
    made = await here.key(ws_of(keys), scopes=["keyledger:keys:read"])
    path = keys.one(made["id"], "revoke")
    answer = await here.admin("POST", path, {"reason": "leaked", "note": "seen in a log"})
    assert answer.status_code == 200
    revoked = answer.json()
    assert set(revoked) == FIELDS | {"position", "epoch"}
    assert (revoked["status"], revoked["version"]) == ("revoked", 2)
    assert await here.admin.ok("POST", path) == revoked
    assert await here.admin.ok("POST", path, {"reason": "again"}) == revoked
    assert await here.head() == revoked["position"]
    refused(await here.caller(made["key"])("GET", keys.all), 401, "invalid_api_key")
    refused(await here.admin("PATCH", keys.one(made["id"]), {"enabled": True}), 409, "key_revoked")
    refused(await here.admin("PATCH", keys.one(made["id"]), {}), 409, "key_revoked")
    refused(await here.admin("POST", keys.one(made["id"], "rotate")), 409, "key_revoked")
    assert await here.head() == revoked["position"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"reason": 5}, "reason"),
        ({"reason": "a\u0000"}, "reason"),
        ({"reason": "a" * 201}, "reason"),
        ({"note": "\u0000"}, "note"),
        ({"note": "a" * 2001}, "note"),
        ({"wait": -1}, "wait"),
        ({"wait": 31}, "wait"),
        ({"wait": "1"}, "wait"),
        ({"wait": True}, "wait"),
        ({"why": "x"}, "why"),
    ],
)
async def test_a_revocation_that_cannot_be_is_refused(
    here: House, keys: Keys, body: object, field: str
) -> None:
    made = await here.key(ws_of(keys))
    refused(await here.admin("POST", keys.one(made["id"], "revoke"), body), 400, "invalid_request", field)
    assert (await here.admin.ok("GET", keys.one(made["id"])))["status"] == "active"


async def test_waiting_for_a_revocation_answers_a_receipt(here: House, keys: Keys) -> None:
    made = await here.key(ws_of(keys))
    revoked = await here.admin.ok("POST", keys.one(made["id"], "revoke"), {"wait": 5})
    assert set(revoked["receipt"]) == {"applied", "pending", "certain_by"}
    assert (revoked["receipt"]["applied"], revoked["receipt"]["pending"]) == ([], [])
    assert parse_rfc3339(revoked["receipt"]["certain_by"]) >= parse_rfc3339(made["created_at"])


async def test_if_match_compares_the_version_of_a_key(here: House, keys: Keys) -> None:
    made = await here.key(ws_of(keys))
    path = keys.one(made["id"])
    stale, current = {"If-Match": '"7"'}, {"If-Match": '"1"'}
    for method, where, body in (
        ("PATCH", path, {"name": "n"}),
        ("POST", f"{path}/rotate", {}),
        ("POST", f"{path}/revoke", {}),
    ):
        answer = await here.admin(method, where, body, headers=stale)
        refused(answer, 412, "precondition_failed", "If-Match")
    assert await here.head() == made["position"]
    assert (await here.admin("POST", f"{path}/rotate", headers=current)).status_code == 201
    assert (await here.admin("POST", f"{path}/revoke", headers={"If-Match": "*"})).status_code == 200
    refused(
        await here.admin("POST", f"{path}/revoke", headers=current), 412, "precondition_failed", "If-Match"
    )


async def test_the_history_of_a_key_names_who_and_what(here: House, keys: Keys) -> None:
    made = await here.key(ws_of(keys), **WHOLE)
    path = keys.one(made["id"])
    await here.admin.ok("PATCH", path, {"external_id": None, "expires_at": "2032-01-01T00:00:00.5Z"})
    await here.admin.ok("POST", f"{path}/rotate", {"overlap_seconds": 5, "retire": "on_first_use"})
    answer = await here.admin("POST", f"{path}/revoke", headers={"X-Request-Id": "because"})
    assert answer.status_code == 200
    page = await here.admin("GET", f"{path}/events")
    created, changed, rotated, revoked = page.json()["events"]
    assert created["data"] == {**WHOLE, "secret": {"hint": made["secrets"][0]["hint"]}}
    assert changed["data"] == {"external_id": None, "expires_at": "2032-01-01T00:00:00.500000Z"}
    assert (rotated["data"]["retire"], set(rotated["data"]["secret"])) == ("on_first_use", {"hint"})
    assert rotated["data"]["previous_valid_until"].endswith("Z")
    assert (revoked["data"], revoked["request_id"]) == ({}, "because")
    assert [event["version"] for event in page.json()["events"]] == [1, 2, 3, 4]
    assert "digest" not in page.text
    assert "proof" not in page.text
    assert "argon2" not in page.text
