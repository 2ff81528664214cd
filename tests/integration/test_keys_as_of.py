"""Time travel: keys as they were at a position or at a moment of the past."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support import keys as support
from tests.support.keys import House, Keys
from tests.support.servers import Servers


@pytest.fixture(scope="module")
async def house(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with support.house(servers, tmp_path_factory.mktemp("home")) as found:
        yield found


async def _story(house: House) -> tuple[Keys, str, list[dict[str, Any]]]:
    """A key that was created, changed, disabled and revoked; what each write answered."""
    ws = await house.workspace()
    keys = Keys(ws)
    made = await house.key(ws, name="one", metadata={"a": "b"})
    place = keys.one(made["id"])
    changed = await house.admin.ok("PATCH", place, {"name": "two", "scopes": ["a"]})
    disabled = await house.admin.ok("PATCH", place, {"enabled": False})
    revoked = await house.admin.ok("POST", keys.one(made["id"], "revoke"))
    return keys, place, [made, changed, disabled, revoked]


async def _at(house: House, path: str, as_of: object, **more: str) -> Any:
    answer = await house.admin("GET", path, params={"as_of": str(as_of), **more})
    assert answer.status_code == 200, answer.text
    return answer


async def test_a_key_is_shown_as_each_write_left_it(house: House) -> None:
    _, place, writes = await _story(house)
    for write in writes:
        answer = await _at(house, place, write["position"])
        told = {field: write[field] for field in write if field not in ("position", "epoch", "key")}
        assert answer.json() == told
        assert answer.headers["x-keyledger-position"] == str(write["position"])
        assert answer.headers["etag"] == f'"{write["version"]}"'


async def test_a_moment_means_everything_up_to_it(house: House) -> None:
    keys, place, writes = await _story(house)
    events = (await house.admin.ok("GET", f"{place}/events"))["events"]
    for event, write in zip(events, writes, strict=True):
        shown = (await _at(house, place, event["at"])).json()
        assert (shown["version"], shown["name"]) == (write["version"], write["name"])
    created = (await _at(house, place, writes[0]["created_at"])).json()
    assert created["status"] == "active"
    listed = (await _at(house, keys.all, events[1]["at"])).json()["keys"]
    assert [(key["name"], key["status"]) for key in listed] == [("two", "active")]


async def test_a_key_is_not_there_before_it_was_created(house: House) -> None:
    keys, place, writes = await _story(house)
    before = writes[0]["position"] - 1
    for as_of in (before, "2020-01-01T00:00:00Z", 0):
        answer = await house.admin("GET", place, params={"as_of": str(as_of)})
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found")
    assert (await _at(house, keys.all, before)).json() == {"keys": [], "next_cursor": None}
    long_before = await house.admin("GET", keys.all, params={"as_of": "1"})
    assert long_before.status_code == 404


async def test_beyond_the_head_and_nonsense_name_the_field(house: House) -> None:
    keys, place, _ = await _story(house)
    head = await house.head()
    for path in (keys.all, place):
        for as_of in (head + 1, 10**30, "2999-01-01T00:00:00Z", "yesterday", "2026-01-01", "-1", ""):
            answer = await house.admin("GET", path, params={"as_of": str(as_of)})
            assert (answer.status_code, answer.json()["field"]) == (400, "as_of"), as_of


async def test_lists_of_the_past_are_filtered_and_paged_like_those_of_today(house: House) -> None:
    ws = await house.workspace()
    keys = Keys(ws)
    made = [await house.key(ws, name=f"n{number}", environment="test") for number in range(5)]
    await house.key(ws, name="other")
    then = made[-1]["position"]
    for key in made:
        await house.admin.ok("POST", keys.one(key["id"], "revoke"))
    found: list[str] = []
    more: dict[str, str] = {"limit": "2", "status": "active", "environment": "test", "search": "N"}
    while True:
        page = (await _at(house, keys.all, then, **more)).json()
        found += [key["name"] for key in page["keys"]]
        if page["next_cursor"] is None:
            break
        more["cursor"] = page["next_cursor"]
    assert found == ["n4", "n3", "n2", "n1", "n0"]
    elsewhere = await house.admin("GET", keys.all, params={**more, "as_of": str(then + 1)})
    assert (elsewhere.status_code, elsewhere.json()["field"]) == (400, "cursor")


async def test_what_had_expired_by_then_is_told_by_the_time_of_then(house: House) -> None:
    ws = await house.workspace()
    made = await house.key(ws, expires_at="2999-01-01T00:00:00Z")
    shown = (await _at(house, Keys(ws).one(made["id"]), made["position"])).json()
    assert shown["status"] == "active"
    none = (await _at(house, Keys(ws).all, made["position"], status="expired")).json()
    assert none["keys"] == []
