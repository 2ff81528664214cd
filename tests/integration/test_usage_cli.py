"""`keyledger usage` and `keyledger what-if` as a user runs them, against the service over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from keyledger.wire import Use
from services.usage.domain.period import MINUTE
from tests.support.asgi_server import serving
from tests.support.command import Done, keyledger
from tests.support.usage_house import KEY_A, KEY_B, NOON, RANGE, WS, House, alive

OTHER, IDLE, KEY_C = "ws_" + "4" * 22, "ws_" + "5" * 22, "key_" + "6" * 22
WORKSPACES = (OTHER, WS, IDLE)
FROM_TO = ("--from", RANGE["from"], "--to", RANGE["to"])


class KeyList:
    """`GET …/keys` of a key service with two keys, in two pages, and its three workspaces in three."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Be an ASGI application."""
        del receive
        if scope["path"] == "/v1/workspaces":
            page = 1 + (b"cursor=2" in scope["query_string"]) + 2 * (b"cursor=3" in scope["query_string"])
            found = [{"id": WORKSPACES[page - 1], "name": f"[b]No. {page}"}]
            told: Any = {
                "workspaces": found,
                "next_cursor": str(page + 1) if page < len(WORKSPACES) else None,
            }
            await answer(send, told)
            return
        second = b"cursor=next" in scope["query_string"]
        key = {
            "id": KEY_B if second else KEY_A,
            "scopes": ["contacts:read"] if second else ["*"],
            "created_at": "2026-05-03T12:30:00Z" if second else "2026-05-04T00:00:00Z",
        }
        await answer(send, {"keys": [key], "next_cursor": None if second else "next"})


async def answer(send: Any, told: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


class Scene:
    """Two hours of uses of two keys."""

    def __init__(self, usage_url: str, keys_url: str, home: Path) -> None:
        self.places = {
            "KEYLEDGER_USAGE_URL": usage_url,
            "KEYLEDGER_KEYS_URL": keys_url,
            "KEYLEDGER_API_KEY": "cvtk_live_operator",
        }
        self.home = home

    async def __call__(self, *words: str, **environment: str) -> Done:
        return await keyledger(*words, home=self.home, **{**self.places, **environment})

    def environment(self) -> dict[str, str]:
        """What a process of its own needs to ask."""
        return {"PATH": os.environ["PATH"], "KEYLEDGER_HOME": str(self.home), **self.places}


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
    elsewhere = [Use(OTHER, KEY_C, "live", NOON, "VALID", 10, 40, NOON, "")]
    await house.count(*uses, *elsewhere)
    async with (
        alive(house),
        serving(house.app) as usage_url,
        serving(KeyList()) as keys_url,
    ):
        yield Scene(usage_url, keys_url, tmp_path)


async def test_a_table_and_a_plot_say_what_was_used(scene: Scene) -> None:
    said = (await scene("usage", "--workspace", WS, *FROM_TO, "--granularity", "minute")).good()
    assert "uses by the minute, 2026-05-04T12:00Z to 2026-05-04T14:00Z" in said
    assert "█" * 45 + " " * 15 in said, "every minute had as many, and two of them are a column"
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


async def test_limits_that_there_are_none_of_say_so(scene: Scene) -> None:
    said = (await scene("usage", "limits", "--workspace", WS)).good()
    assert said.splitlines() == ["rate limit: none", "quota: none"]
    told = json.loads((await scene("usage", "limits", "--workspace", WS, "--json")).good())
    assert (told["limit"], told["quota"]) == (None, None)


async def test_a_plot_spans_the_whole_of_what_was_asked_about(scene: Scene) -> None:
    said = (await scene("usage", "--workspace", WS, "--to", "2026-05-05T00:00:00Z")).good()
    title, *plot = said.splitlines()
    assert title == "uses by the hour, 2026-05-04T00:00Z to 2026-05-05T00:00Z, 3,600 s a column"
    columns = plot[7].partition("┤")[2]
    assert (len(columns), columns.strip()) == (24, "██")
    words = ("what-if", "--workspace", WS, "--limit", "5/60", "--from", "2026-05-04T00:00:00Z")
    said = (await scene(*words, "--to", "2026-05-05T00:00:00Z")).good()
    assert "at most refused, 2026-05-04T00:00Z to 2026-05-05T00:00Z" in said


async def test_usage_as_json_is_every_point_of_every_page(scene: Scene) -> None:
    words = ("usage", "--workspace", WS, "--key", KEY_B, *FROM_TO, "--granularity", "minute", "--json")
    told = json.loads((await scene(*words)).good())
    assert len(told["series"]) == 180
    assert set(told) == {"series", "totals", "last_used_at"}
    assert (told["totals"]["count"], told["last_used_at"]) == (270, "2026-05-04T12:00:00Z")


@pytest.mark.parametrize("width", ["20", "80"])
async def test_ids_are_whole_however_narrow_it_is(scene: Scene, width: str) -> None:
    words = ("--workspace", WS, *FROM_TO)
    for code, asked in (
        ("VALID", ("usage", "--group-by", "key,outcome")),
        ("RATE_LIMITED", ("what-if", "--limit", "5/60")),
    ):
        said = (await scene(*asked, *words, COLUMNS=width)).good()
        assert [KEY_A, code] in [line.split()[:2] for line in said.splitlines()]


@pytest.mark.parametrize("words", [("usage",), ("usage", "--json"), ("what-if", "--limit", "5/60")])
async def test_a_reader_that_went_away_is_no_traceback(scene: Scene, words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", *words, "--workspace", WS, *FROM_TO,
        env=scene.environment(), stdout=writing, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    os.close(writing)
    _, err = await process.communicate()
    assert (err, process.returncode) == (b"", 1)


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


async def test_without_a_workspace_every_one_is_replayed(scene: Scene) -> None:
    said = (await scene("what-if", "--limit", "5/60", *FROM_TO)).good()
    other, _, mine = said.partition(f"\n{WS} [b]No. 2\n")
    assert other.startswith(f"{OTHER} [b]No. 1\n10 uses could have been let in")
    assert [row[:2] for row in map(str.split, other.splitlines()) if row[:1] == [KEY_C]] == [
        [KEY_C, "RATE_LIMITED"]
    ]
    assert KEY_A not in other
    assert "in all 90 RATE_LIMITED" in mine
    assert {row[0] for row in map(str.split, mine.splitlines()) if "RATE_LIMITED" in row[1:2]} == {
        KEY_A,
        KEY_B,
    }
    assert IDLE not in said
    assert "2 of 3 workspaces would have met a refusal, of 550 uses in all." in said
    told = json.loads((await scene("what-if", "--limit", "5/60", *FROM_TO, "--json")).good())
    assert [each["workspace"] for each in told["workspaces"]] == list(WORKSPACES)
    assert [each["asked"] for each in told["workspaces"]] == [10, 540, 0]
    assert told["workspaces"][1]["totals"] == {"RATE_LIMITED": {"at_least": 90, "at_most": 90}}
    assert {each["key"] for each in told["workspaces"][1]["would"]} == {KEY_A, KEY_B}
    assert (told["from"], told["to"]) == (RANGE["from"], RANGE["to"])
    nobody = (await scene("what-if", "--limit", "500/60", *FROM_TO)).good()
    assert nobody == "0 of 3 workspaces would have met a refusal, of 550 uses in all.\n"


async def test_nothing_is_called_exact_that_follows_from_what_uses_cost_on_average(scene: Scene) -> None:
    said = (await scene("what-if", "--workspace", OTHER, "--limit", "5/60", *FROM_TO)).good()
    assert "in all 8 to 9 RATE_LIMITED" in said
    assert "so the units that the limit refuses in all are exact" in said
    assert "cost alike" in said
    said = (await scene("what-if", "--workspace", WS, "--limit", "5/60", *FROM_TO)).good()
    assert "so what the limit refuses in all is exact" in said
    assert "cost" not in said.partition("times")[2].replace("unit each", "")


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
        (("what-if", "--workspace", WS, *FROM_TO, "--scopes", "bad scope"), "--scopes: a scope is"),
        (("what-if", *FROM_TO, "--scopes", "a,,b"), "--scopes: a scope is"),
        (("what-if", *FROM_TO, "--limit", "5/60", "--key", KEY_A), "--key is a key of one workspace"),
        (("what-if", "--workspace", WS, *FROM_TO, "--max-age-days", "0"), "--max-age-days is at least 1"),
    ],
)
async def test_a_bad_option_is_named(scene: Scene, words: tuple[str, ...], said: str) -> None:
    assert (await scene(*words)).failed().startswith(f"keyledger: {said}")
