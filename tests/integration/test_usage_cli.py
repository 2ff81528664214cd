"""`keyledger usage` and `keyledger what-if` as a user runs them, against the service over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from keyledger.wire import Use
from services.usage.domain.period import MINUTE
from tests.support.asgi_server import serving
from tests.support.command import Done, keyledger
from tests.support.usage_house import KEY_A, KEY_B, NOON, RANGE, WS, House, alive

FROM_TO = ("--from", RANGE["from"], "--to", RANGE["to"])


class KeyList:
    """`GET …/keys` of a key service with two keys, in two pages."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Be an ASGI application."""
        del receive
        second = b"cursor=next" in scope["query_string"]
        key = {
            "id": KEY_B if second else KEY_A,
            "scopes": ["contacts:read"] if second else ["*"],
            "created_at": "2026-05-03T12:30:00Z" if second else "2026-05-04T00:00:00Z",
        }
        body = json.dumps({"keys": [key], "next_cursor": None if second else "next"}).encode()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Scene:
    """Two hours of uses of two keys."""

    def __init__(self, usage_url: str, keys_url: str, home: Path) -> None:
        self.places = {
            "KEYLEDGER_USAGE_URL": usage_url,
            "KEYLEDGER_KEYS_URL": keys_url,
            "KEYLEDGER_API_KEY": "cvtk_live_operator",
        }
        self.home = home

    async def __call__(self, *words: str) -> Done:
        return await keyledger(*words, home=self.home, **self.places)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    house = House()
    uses = [
        Use(WS, key, "live", NOON + minute * MINUTE, outcome, count, count, NOON, owner)
        for minute in range(90)
        for key, outcome, count, owner in (
            (KEY_A, "VALID", 4, ""),
            (KEY_B, "VALID", 2, "[red]u1"),
            (KEY_B, "REVOKED", 1, "[red]u1"),
        )
    ]
    await house.count(*uses)
    async with (
        alive(house),
        serving(house.app) as usage_url,
        serving(KeyList()) as keys_url,
    ):
        yield Scene(usage_url, keys_url, tmp_path)


async def test_a_table_and_a_plot_say_what_was_used(scene: Scene) -> None:
    said = (await scene("usage", "--workspace", WS, *FROM_TO, "--granularity", "minute")).good()
    assert "uses by the minute, 2026-05-04T12:00Z to 2026-05-04T13:30Z" in said
    assert "█" * 45 in said, "every minute had as many"
    rows = [line.split() for line in said.splitlines()]
    assert ["VALID", "540", "540", "85.7%"] in rows
    assert ["REVOKED", "90", "90", "14.3%"] in rows
    assert ["total", "630", "630"] in rows


async def test_one_key_by_owner_without_a_plot(scene: Scene) -> None:
    words = ("usage", "--workspace", WS, "--key", KEY_B, "--group-by", "external_id,outcome", "--no-plot")
    said = (await scene(*words, *FROM_TO)).good()
    assert "█" not in said
    assert ["[red]u1", "VALID", "180", "180", "66.7%"] in [line.split() for line in said.splitlines()]
    assert "last used 2026-05-04T12:00:00Z" in said


async def test_nothing_used_is_an_empty_table(scene: Scene) -> None:
    said = (await scene("usage", "--workspace", WS, "--to", "2020-01-01T00:00:00Z")).good()
    assert ["total", "0", "0"] in [line.split() for line in said.splitlines()]


async def test_limits_of_which_nothing_was_asked_say_so(scene: Scene) -> None:
    said = (await scene("usage", "limits", "--workspace", WS)).good()
    assert said.splitlines() == [
        "rate limit: nothing was asked of it yet",
        "quota: nothing was asked of it yet",
    ]


async def test_a_limit_that_was_not_in_force_is_replayed(scene: Scene) -> None:
    said = (await scene("what-if", "--workspace", WS, "--limit", "5/60", *FROM_TO)).good()
    rows = [line.split() for line in said.splitlines()]
    assert "540 uses could have been let in; limits refused 0 of them then." in said
    first, last = "2026-05-04T12:00Z", "2026-05-04T13:29Z"
    assert [KEY_A, "RATE_LIMITED", "0", "90", "90", first, last] in rows
    assert [KEY_B, "RATE_LIMITED", "0", "90", "90", first, last] in rows
    assert "in all 90 RATE_LIMITED" in said
    assert "exact" in said
    said = (await scene("what-if", "--workspace", WS, "--limit", "5/60", "--each-key", *FROM_TO)).good()
    assert "nobody" in said


async def test_scopes_and_expiry_that_were_not_in_force_are_replayed(scene: Scene) -> None:
    words = ("--scopes", "contacts:write", "--max-age-days", "1")
    said = (await scene("what-if", "--workspace", WS, *words, *FROM_TO)).good()
    rows = [line.split() for line in said.splitlines()]
    assert [KEY_B, "EXPIRED", "120", "120", "60", "2026-05-04T12:30Z", "2026-05-04T13:29Z"] in rows
    assert [
        KEY_B,
        "INSUFFICIENT_PERMISSIONS",
        "60",
        "60",
        "30",
        "2026-05-04T12:00Z",
        "2026-05-04T12:29Z",
    ] in rows
    assert not [row for row in rows if row[:1] == [KEY_A]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("usage", "--workspace", "ws_1/../x"), "--workspace is an id"),
        (("usage", "--workspace", WS, "--group-by", "colour"), "400 invalid_request (group_by)"),
        (("usage", "--workspace", WS, "--from", "yesterday"), "400 invalid_request (from)"),
        (("what-if", "--workspace", WS, *FROM_TO), "what would be otherwise?"),
        (("what-if", "--workspace", WS, *FROM_TO, "--limit", "5/7"), "--limit: "),
        (("what-if", "--workspace", WS, *FROM_TO, "--expires", "soon"), "--expires is RFC 3339"),
        (("what-if", "--workspace", WS, *FROM_TO, "--max-age-days", "0"), "--max-age-days is at least 1"),
    ],
)
async def test_a_bad_option_is_named(scene: Scene, words: tuple[str, ...], said: str) -> None:
    assert (await scene(*words)).failed().startswith(f"keyledger: {said}")
