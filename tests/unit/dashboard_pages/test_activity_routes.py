"""Activity and what is new in it, by their addresses."""

import csv
import io
import json
import re

import httpx2

from keyledger.errors import unavailable
from tests.support.dashboard_backend import made_id
from tests.support.dashboard_pages import ACME, PART, Pages

ACTIVITY = "/settings/activity"


async def test_activity_is_newest_first_in_words(pages: Pages, browser: httpx2.AsyncClient) -> None:
    key = await pages.key("billing")
    await pages.backend.revoke_key(
        pages.visitor, key, reason="Leaked or exposed", note=None, wait=0, once="x"
    )
    text = (await browser.get(ACTIVITY)).text
    entries = re.findall(r'<li class="link" data-position="(\d+)">', text)
    assert entries == sorted(entries, key=int, reverse=True)
    assert len(entries) == 3
    assert f'<a href="/settings/api-keys/{key}">“billing”</a>' in text
    assert "Leaked or exposed" in text


async def test_new_entries_come_by_themselves(pages: Pages, browser: httpx2.AsyncClient) -> None:
    key = await pages.key()
    newest = pages.backend.log[ACME][-1].position
    assert f'hx-get="{ACTIVITY}/newer?after={newest}"' in (await browser.get(ACTIVITY)).text
    history = f"/settings/api-keys/{key}/history"
    assert f'hx-get="{history}/newer?after={newest}"' in (await browser.get(f"/settings/api-keys/{key}")).text
    for path in (ACTIVITY, history):
        nothing = await browser.get(f"{path}/newer", params={"after": newest}, headers=PART)
        assert (nothing.status_code, nothing.text) == (204, "")
    other = await pages.key("export")
    await pages.backend.change_key(pages.visitor, key, {"enabled": False})
    both = (await browser.get(f"{ACTIVITY}/newer", params={"after": newest}, headers=PART)).text
    assert re.findall(r'<li class="link fresh" data-position="(\d+)">', both) == [
        str(newest + 2),
        str(newest + 1),
    ]
    assert other in both
    assert "2 new entries: Ada Lovelace disabled" in both
    # and the next question begins where this answer ends
    assert f'id="newest" hx-get="{ACTIVITY}/newer?after={newest + 2}"' in both
    assert "Show older" not in both
    own = (await browser.get(f"{history}/newer", params={"after": newest}, headers=PART)).text
    assert own.count("<li") == 1
    assert "disabled" in own
    assert f'href="/settings/api-keys/{key}?as_of={newest + 2}"' in own
    assert "This key has changed." in own
    pages.backend.fails["events"] = unavailable("unavailable", "away")
    away = await browser.get(f"{ACTIVITY}/newer", params={"after": newest}, headers=PART)
    assert away.status_code == 204


async def test_more_new_entries_than_a_page_are_not_put_in_with_a_gap(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    newest = pages.backend.log[ACME][-1].position
    for number in range(60):
        await pages.key(f"key {number}")
    text = (await browser.get(f"{ACTIVITY}/newer", params={"after": newest}, headers=PART)).text
    assert "<li" not in text
    assert "Many new entries" in text
    assert '<div id="newest" hx-swap-oob="true"></div>' in text


async def test_nobody_follows_the_history_of_another_s_key(browser: httpx2.AsyncClient) -> None:
    for key in (made_id("key", 99), "nonsense"):
        answer = await browser.get(f"/settings/api-keys/{key}/history/newer?after=0", headers=PART)
        assert answer.status_code == 404


async def test_the_first_key_is_asked_for_where_nothing_has_happened_to_one(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    text = (await browser.get(ACTIVITY)).text
    assert "No key has been created yet" in text
    assert "curl" in text
    await pages.key()
    assert "No key has been created yet" not in (await browser.get(ACTIVITY)).text


async def test_keys_are_told_by_the_names_that_the_log_has(pages: Pages, browser: httpx2.AsyncClient) -> None:
    """However many they are: nobody has to be asked for them."""
    keys = [await pages.key(f"name {number}") for number in range(60)]
    for key in keys:
        await pages.backend.change_key(pages.visitor, key, {"enabled": False})
    pages.backend.fails["key"] = unavailable("unavailable", "away")
    lines = (await browser.get(f"{ACTIVITY}/export.jsonl")).text.splitlines()
    told = [json.loads(line)["sentence"] for line in lines[1:]]
    assert told[0] == "Ada Lovelace created “name 0”"
    assert told[-1] == "Ada Lovelace disabled “name 59”"
    assert not any("key_" in sentence for sentence in told)


async def test_the_whole_trail_is_exported_oldest_first(pages: Pages, browser: httpx2.AsyncClient) -> None:
    for number in range(230):
        await pages.key(f"=cmd{number}")
    lines = (await browser.get(f"{ACTIVITY}/export.jsonl")).text.splitlines()
    told = [json.loads(line) for line in lines]
    assert [each["position"] for each in told] == list(range(1, 232))
    assert told[1]["actor_name"] == "Ada Lovelace"
    assert told[1]["data"]["name"] == "=cmd0"
    answer = await browser.get(f"{ACTIVITY}/export.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    sheet = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(sheet) == 231
    assert not any(value.startswith(("=", "+", "-", "@")) for row in sheet for value in row.values())


async def test_an_export_that_is_refused_has_its_status(pages: Pages, browser: httpx2.AsyncClient) -> None:
    pages.backend.fails["events"] = unavailable("unavailable", "away")
    assert (await browser.get(f"{ACTIVITY}/export.csv")).status_code == 503
