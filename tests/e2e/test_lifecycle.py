"""The whole life of a key, through every process, as a newcomer walks it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from keyledger.client.http import KeyledgerError, VerifierClient
from keyledger.client.records import Check
from tests.support.system import System
from tests.support.waiting import until


async def test_a_key_is_created_used_rotated_and_revoked_and_every_use_is_counted(system: System) -> None:
    ws = await system.workspace()
    created = await system.key(ws, name="billing", scopes=["contacts:read"], metadata={"team": "billing"})
    token, place = created["key"], f"/v1/workspaces/{ws}/keys/{created['id']}"

    verdict = await system.verify(token, min_position=created["position"], epoch=created["epoch"])
    assert verdict["valid"]
    assert verdict["code"] == "VALID"
    assert verdict["key_id"] == created["id"]
    assert verdict["metadata"] == {"team": "billing"}
    assert verdict["rate_limit"]["remaining"] == 999

    listed = await system.contacts(token)
    assert listed.status_code == 200
    assert listed.headers["x-ratelimit-limit"] == "1000"
    refused = await system.contacts(token, "POST")
    assert (refused.status_code, refused.json()) == (403, {"error": "insufficient_permissions"})

    rotated = (await system.call("POST", f"{place}/rotate", {"overlap_seconds": 3600})).json()
    await system.verify(rotated["key"], min_position=rotated["position"], cost=0)
    assert (await system.contacts(token)).status_code == 200
    assert (await system.contacts(rotated["key"])).status_code == 200
    again = (await system.call("POST", f"{place}/rotate")).json()
    verdicts = [
        (await system.verify(each, min_position=again["position"], cost=0))["code"]
        for each in (token, rotated["key"], again["key"])
    ]
    assert verdicts == ["REVOKED", "REVOKED", "VALID"]

    changed = (await system.call("PATCH", place, {"scopes": ["contacts:write"]})).json()
    await system.verify(again["key"], min_position=changed["position"], cost=0)
    assert (await system.contacts(again["key"], "POST")).status_code == 201

    revoked = (await system.call("POST", f"{place}/revoke", {"reason": "done", "wait": 5})).json()
    assert revoked["status"] == "revoked"
    assert [applied["verifier"] for applied in revoked["receipt"]["applied"]]
    assert revoked["receipt"]["pending"] == []
    gone = await system.contacts(again["key"])
    assert (gone.status_code, gone.json()) == (401, {"error": "invalid_api_key"})
    assert "x-ratelimit-limit" not in gone.headers
    assert gone.headers["www-authenticate"]

    # verify once, contacts 200 four times, 403 once, 401 once; cost 0 counts nothing
    wanted = {"VALID": 5, "INSUFFICIENT_PERMISSIONS": 1, "REVOKED": 1}

    async def counted() -> bool:
        return await _outcomes(system, ws) == wanted

    await until(counted, within=10, describe=f"uses {wanted}")
    history = (await system.call("GET", f"{place}/events")).json()["events"]
    assert [event["type"] for event in history] == [
        "key_created",
        "key_rotated",
        "key_rotated",
        "key_changed",
        "key_revoked",
    ]
    assert [event["version"] for event in history] == [1, 2, 3, 4, 5]


async def _outcomes(system: System, ws: str) -> dict[str, int]:
    answer = await system.http.get(
        system.url("usage", f"/v1/workspaces/{ws}/usage?granularity=minute&group_by=outcome"),
        headers={"X-API-Key": system.bootstrap["management_key"]},
    )
    assert answer.status_code == 200, answer.text
    totals: dict[str, int] = {}
    series: list[dict[str, Any]] = answer.json()["series"]
    for point in series:
        totals[point["outcome"]] = totals.get(point["outcome"], 0) + point["count"]
    return totals


async def test_a_revoked_key_is_refused_within_250_ms_of_the_answer(system: System) -> None:
    ws = await system.workspace()
    slowest = 0.0
    for _ in range(5):
        created = await system.key(ws)
        await system.verify(created["key"], min_position=created["position"])
        revoked = await system.call("POST", f"/v1/workspaces/{ws}/keys/{created['id']}/revoke")
        answered = time.monotonic()

        async def refused(token: str = created["key"]) -> bool:
            return (await system.verify(token, cost=0))["code"] == "REVOKED"

        assert revoked.status_code == 200
        await until(refused, within=0.25, describe="the verifier refuses the revoked key")
        slowest = max(slowest, time.monotonic() - answered)
    print(f"revoke answered → refused: slowest of 5 {slowest * 1000:.1f} ms")


async def test_a_limit_is_exact_and_its_answer_is_the_contracts(system: System) -> None:
    ws = await system.workspace(rate_limit={"limit": 3, "window_seconds": 86_400})
    created = await system.key(ws)
    await system.verify(created["key"], min_position=created["position"], cost=0)
    answers = [await system.contacts(created["key"]) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    refused = answers[-1]
    assert refused.json() == {"error": "rate_limit_exceeded"}
    assert refused.headers["x-ratelimit-remaining"] == "0"
    assert 1 <= int(refused.headers["retry-after"]) <= 86_400


async def test_a_raised_limit_holds_from_the_next_cell_and_a_raised_quota_at_once(system: System) -> None:
    day = {"limit": 3, "window_seconds": 86_400}
    ws = await system.workspace(rate_limit=day)
    key = await system.key(ws)
    place = f"/v1/workspaces/{ws}"

    async def spent(times: int, position: int) -> list[str]:
        asked = [await system.verify(key["key"], min_position=position) for _ in range(times)]
        assert {each["rate_limit"]["limit"] for each in asked} <= {3, 2, 5}
        return [each["code"] for each in asked]

    limited = ["VALID"] * 3 + ["RATE_LIMITED"]
    assert await spent(4, key["position"]) == limited
    raised = (await system.call("PATCH", place, {"rate_limit": {**day, "limit": 50}})).json()
    assert raised["rate_limit"]["limit"] == 50
    assert await spent(1, raised["position"]) == ["RATE_LIMITED"]

    ws = await system.workspace()
    key = await system.key(ws)
    place = f"/v1/workspaces/{ws}"
    small = (await system.call("PATCH", place, {"quota": {"limit": 2, "period": "month"}})).json()
    assert await spent(3, small["position"]) == ["VALID", "VALID", "QUOTA_EXCEEDED"]
    large = (await system.call("PATCH", place, {"quota": {"limit": 5, "period": "month"}})).json()
    assert large["quota"] == {"limit": 5, "period": "month"}
    assert await spent(4, large["position"]) == ["VALID"] * 3 + ["QUOTA_EXCEEDED"]


async def test_no_key_and_a_wrong_key_are_told_apart_and_nothing_else_is(system: System) -> None:
    missing = await system.contacts(None)
    assert (missing.status_code, missing.json()) == (401, {"error": "missing_api_key"})
    ws = await system.workspace()
    disabled = await system.key(ws)
    done = await system.call("PATCH", f"/v1/workspaces/{ws}/keys/{disabled['id']}", {"enabled": False})
    await system.verify(disabled["key"], min_position=done.json()["position"])
    wrong = [disabled["key"], disabled["key"][:-1] + "x", "hello", "cvtk_live_"]
    answers = [await system.contacts(token) for token in wrong]
    assert {(answer.status_code, answer.text) for answer in answers} == {(401, '{"error":"invalid_api_key"}')}


async def test_a_suspended_workspace_is_refused_and_still_managed(system: System) -> None:
    ws = await system.workspace()
    created = await system.key(ws)
    done = await system.call("PATCH", f"/v1/workspaces/{ws}", {"suspended": True})
    verdict = await system.verify(created["key"], min_position=done.json()["position"])
    assert verdict["code"] == "WORKSPACE_SUSPENDED"
    assert (await system.contacts(created["key"])).status_code == 403
    assert (await system.call("GET", f"/v1/workspaces/{ws}/keys")).status_code == 200


async def test_the_keys_of_a_deleted_workspace_are_nobodys(system: System) -> None:
    gone, kept = await system.workspace("Gone"), await system.workspace("Kept")
    keys = [await system.key(workspace) for workspace in (gone, kept)]
    before = [await system.verify(key["key"], min_position=keys[-1]["position"]) for key in keys]
    assert [verdict["code"] for verdict in before] == ["VALID", "VALID"]
    deleted = await system.call("DELETE", f"/v1/workspaces/{gone}")
    assert deleted.status_code == 202
    position = deleted.json()["position"]
    after = [await system.verify(key["key"], min_position=position) for key in keys]
    assert [verdict["code"] for verdict in after] == ["NOT_FOUND", "VALID"]
    assert "key_id" not in after[0]


async def test_a_client_asks_about_many_keys_at_once(system: System) -> None:
    ws = await system.workspace()
    made = [await system.key(ws, scopes=[scope]) for scope in ("read", "write")]
    async with VerifierClient(system.url("verifier")) as client:
        asked = [Check(key=each["key"], scopes=("read",), min_position=made[-1]["position"]) for each in made]
        verdicts = await client.verify_many(asked)
        assert [(each.code, each.key_id) for each in verdicts] == [
            ("VALID", made[0]["id"]),
            ("INSUFFICIENT_PERMISSIONS", made[1]["id"]),
        ]
        with pytest.raises(KeyledgerError, match="invalid_request") as refused:
            await client.verify_many([*asked, Check(key=made[0]["key"], cost=-1)])
        assert refused.value.field == "requests.cost"
