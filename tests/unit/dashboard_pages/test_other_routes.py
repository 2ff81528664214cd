"""Usage, rate limit, activity, workspace and members, by their addresses."""

import csv
import io
import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import urlencode

import httpx2
import msgspec
import pytest

from keyledger.client.records import GrantedPart, UsagePoint
from keyledger.errors import unavailable
from keyledger.events import Quota, RateLimit
from tests.support.dashboard_backend import EMPTY, made_id
from tests.support.dashboard_pages import ACME, ADA, BOB, PART, Pages

MEMBERS = "/settings/members"
USAGE = "/settings/usage"
ACTIVITY = "/settings/activity"


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
async def browser(pages: Pages) -> AsyncIterator[httpx2.AsyncClient]:
    async with pages.browser() as client:
        yield client


async def used(pages: Pages) -> str:
    key = await pages.key("billing")
    start = pages.backend.now.replace(minute=0, second=0) - timedelta(hours=2)
    for outcome, count in (("VALID", 1200), ("RATE_LIMITED", 30)):
        pages.backend.points.append(
            UsagePoint(start=start, count=count, cost=count, outcome=outcome, environment="live", key=key)
        )
    return key


async def test_usage_is_told_in_totals_a_chart_and_a_table(pages: Pages, browser: httpx2.AsyncClient) -> None:
    key = await used(pages)
    for home, top in ((USAGE, True), (f"/settings/api-keys/{key}/usage", False)):
        text = (await browser.get(home)).text
        assert "<dd>1,230</dd>" in text
        assert "Over the rate limit" in text
        assert f'data-series="{home}.json?range=24h&amp;granularity=hour"' in text
        assert "The same as a table" in text
        assert ("/settings/usage/top?" in text) is top
        series = (await browser.get(f"{home}.json?range=24h&granularity=hour")).json()
        assert {line["code"]: sum(line["counts"]) for line in series["lines"]} == {
            "VALID": 1200, "RATE_LIMITED": 30,
        }  # fmt: skip
        assert len(series["starts"]) in (24, 25)
        assert all(len(line["counts"]) == len(series["starts"]) for line in series["lines"])


async def test_usage_is_taken_away_as_a_sheet(pages: Pages, browser: httpx2.AsyncClient) -> None:
    await used(pages)
    answer = await browser.get(f"{USAGE}.csv?range=24h")
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["outcome"], row["count"], row["environment"]) for row in rows] == [
        ("VALID", "1200", "live"), ("RATE_LIMITED", "30", "live"),
    ]  # fmt: skip


async def test_the_busiest_keys_are_named(pages: Pages, browser: httpx2.AsyncClient) -> None:
    key = await used(pages)
    text = (await browser.get(f"{USAGE}/top?range=24h", headers=PART)).text
    assert f'href="/settings/api-keys/{key}/usage?' in text
    assert ">billing</a>" in text
    assert "1,230" in text
    pages.backend.fails["usage"] = unavailable("unavailable", "away")
    assert "not known just now" in (await browser.get(f"{USAGE}/top", headers=PART)).text


async def test_an_unused_workspace_is_told_how_to_begin(browser: httpx2.AsyncClient) -> None:
    text = (await browser.get(USAGE)).text
    assert "No use in this time" in text
    assert "curl -i" in text


@pytest.mark.parametrize(
    "query", ["range=x", "from=a&to=b", "granularity=second", "from=2026-01-01T00:00Z&to=2020-01-01T00:00Z"]
)
async def test_a_period_that_cannot_be_read_is_the_last_day(browser: httpx2.AsyncClient, query: str) -> None:
    text = (await browser.get(f"{USAGE}?{query}")).text
    assert 'href="/settings/usage?range=24h" aria-current="true"' in text


async def test_the_gauge_shows_the_running_window(pages: Pages, browser: httpx2.AsyncClient) -> None:
    pages.backend.cell = msgspec.structs.replace(
        EMPTY, limit=1000, window_seconds=60, admitted=640, granted=700, remaining=360, reset=2_000_000_000,
        verifiers=(GrantedPart("verifier-<a>", 700, 640),),
    )  # fmt: skip
    for path in ("/settings/rate-limit", "/settings/rate-limit/gauge"):
        text = (await browser.get(path)).text
        assert "640</span>" in text
        assert "verifier-&lt;a&gt;" in text
    assert 'hx-get="/settings/rate-limit/gauge"' in (await browser.get("/settings/rate-limit")).text


async def test_a_key_with_a_limit_of_its_own_has_its_own_gauge(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    key = await pages.key("partner", rate_limit=RateLimit(5, 60))
    assert f"/settings/rate-limit?key={key}" in (await browser.get("/settings/rate-limit")).text
    text = (await browser.get("/settings/rate-limit", params={"key": key})).text
    assert "5 per minute" in text
    assert f'hx-get="/settings/rate-limit/gauge?key={key}"' in text
    for path in ("/settings/rate-limit", "/settings/rate-limit/gauge"):
        assert (await browser.get(path, params={"key": made_id("key", 99)})).status_code == 404


async def test_a_granter_that_is_away_is_no_lost_page(pages: Pages, browser: httpx2.AsyncClient) -> None:
    pages.backend.fails["rate_limit"] = unavailable("unavailable", "Not known here.")
    answer = await browser.get("/settings/rate-limit")
    assert answer.status_code == 200
    assert "Not known here." in answer.text


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


async def test_new_entries_are_counted_from_what_is_shown(pages: Pages, browser: httpx2.AsyncClient) -> None:
    await pages.key()
    newest = pages.backend.log[ACME][-1].position
    nothing = await browser.get(f"{ACTIVITY}/newer", params={"after": newest}, headers=PART)
    assert nothing.text.strip() == ""
    await pages.key("export")
    some = await browser.get(f"{ACTIVITY}/newer", params={"after": newest}, headers=PART)
    assert "1 new entry" in some.text
    pages.backend.fails["events"] = unavailable("unavailable", "away")
    away = await browser.get(f"{ACTIVITY}/newer", params={"after": newest}, headers=PART)
    assert away.status_code == 204


async def test_the_whole_trail_is_exported_oldest_first(pages: Pages, browser: httpx2.AsyncClient) -> None:
    for number in range(230):
        await pages.key(f"=cmd{number}")
    lines = (await browser.get(f"{ACTIVITY}/export.jsonl")).text.splitlines()
    told = [json.loads(line) for line in lines]
    assert [each["position"] for each in told] == list(range(1, 232))
    assert told[1]["actor_name"] == "Ada Lovelace"
    assert told[1]["data"]["name"] == "=cmd0"
    sheet = list(csv.DictReader(io.StringIO((await browser.get(f"{ACTIVITY}/export.csv")).text)))
    assert len(sheet) == 231
    assert not any(value.startswith(("=", "+", "-", "@")) for row in sheet for value in row.values())


async def test_an_export_that_is_refused_has_its_status(pages: Pages, browser: httpx2.AsyncClient) -> None:
    pages.backend.fails["events"] = unavailable("unavailable", "away")
    assert (await browser.get(f"{ACTIVITY}/export.csv")).status_code == 503


async def test_the_workspace_shows_its_limits_and_is_renamed(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    pages.backend.spaces[ACME] = msgspec.structs.replace(
        pages.backend.spaces[ACME], quota=Quota(50_000, "month"), suspended=True
    )
    text = (await browser.get("/settings/workspace")).text
    for expected in ("1,000 per minute", "50,000 per month", "This workspace is suspended", "Acme &amp; Co"):
        assert expected in text
    body = urlencode({"name": "Acme <2>"}).encode()
    done = await browser.post("/settings/workspace", content=body, headers=PART)
    assert "is called <strong>Acme &lt;2&gt;</strong> now" in done.text
    wrong = await browser.post("/settings/workspace", content=b"name=+", headers=PART)
    assert wrong.status_code == 422
    assert 'id="name-wrong"' in wrong.text
    pages.sees_as(BOB, "member")
    assert "Save the name" not in (await browser.get("/settings/workspace")).text


async def test_workspaces_are_chosen_and_made_without_being_in_one(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    pages.visitor = msgspec.structs.replace(pages.visitor, workspace_id=None, role=None)
    text = (await browser.get("/workspaces")).text
    assert "Choose a workspace" in text
    assert f'value="{ACME}"' in text
    assert "Acme &amp; Co" in (await browser.get("/workspaces/menu", headers=PART)).text
    body = urlencode({"name": "Second", "once": "w" * 20}).encode()
    for _ in range(2):
        made = await browser.post("/workspaces", content=body, headers=PART)
        assert "<strong>Second</strong> is ready" in made.text
    assert len(pages.backend.spaces) == 2
    wrong = await browser.post("/workspaces", content=b"name=", headers=PART)
    assert wrong.status_code == 422
    pages.backend.spaces.clear()
    assert "Welcome" in (await browser.get("/workspaces")).text


async def test_members_are_shown_and_their_roles_changed(pages: Pages, browser: httpx2.AsyncClient) -> None:
    pages.sees_as(BOB, "member")
    pages.visitor = msgspec.structs.replace(pages.visitor, user_id=ADA, role="owner")
    text = (await browser.get(MEMBERS)).text
    assert "Bob &lt;b&gt;Builder&lt;/b&gt;" in text
    assert text.count("<select") == 1, "nobody changes their own role by a slip"
    done = await browser.post(f"{MEMBERS}/{BOB}/role", content=b"role=admin", headers=PART)
    assert "Admin from now on." in done.text
    wrong = await browser.post(f"{MEMBERS}/{BOB}/role", content=b"role=king", headers=PART)
    assert wrong.status_code == 422
    assert "There is no such role." in wrong.text
    out = await browser.post(f"{MEMBERS}/{BOB}/remove", content=b"", headers=PART)
    assert "is out." in out.text
    gone = await browser.post(f"{MEMBERS}/{BOB}/remove", content=b"", headers=PART)
    assert gone.status_code == 404
    assert (await browser.post(f"{MEMBERS}/user_x/remove", content=b"", headers=PART)).status_code == 404


async def test_an_admin_is_not_offered_the_owners(pages: Pages, browser: httpx2.AsyncClient) -> None:
    pages.sees_as(BOB, "admin")
    text = (await browser.get(MEMBERS)).text
    assert f"/settings/members/{ADA}/" not in text
    assert 'value="owner"' not in text


async def test_the_last_owner_is_told_why_they_cannot_leave(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    stays = await browser.post(f"{MEMBERS}/{ADA}/remove", content=b"", headers=PART)
    assert stays.status_code == 422
    assert 'role="alert"' in stays.text
    assert "The last owner cannot leave." in stays.text
    pages.sees_as(BOB, "owner")
    leaves = await browser.post(f"{MEMBERS}/{BOB}/remove", content=b"", headers=PART)
    assert leaves.headers["hx-redirect"] == "/workspaces"


async def test_an_invitation_s_link_is_shown_once(pages: Pages, browser: httpx2.AsyncClient) -> None:
    body = urlencode({"role": "viewer", "note": "Grace <g>"}).encode()
    made = await browser.post(f"{MEMBERS}/invitations", content=body, headers=PART)
    assert "https://keys.example.com/invitations/secret-1" in made.text
    assert made.headers["cache-control"] == "no-store"
    text = (await browser.get(MEMBERS)).text
    assert "secret-1" not in text
    assert "Grace &lt;g&gt;" in text
    id_ = pages.accounts.open[0].id
    gone = await browser.post(f"{MEMBERS}/invitations/{id_}/withdraw", content=b"", headers=PART)
    assert "The invitation is void." in gone.text
    again = await browser.post(f"{MEMBERS}/invitations/{id_}/withdraw", content=b"", headers=PART)
    assert again.status_code == 404
    assert (
        await browser.post(f"{MEMBERS}/invitations/nonsense/withdraw", content=b"", headers=PART)
    ).status_code == 404


async def test_who_may_not_manage_sees_members_and_no_invitations(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    await browser.post(f"{MEMBERS}/invitations", content=b"role=viewer&note=for+Grace", headers=PART)
    pages.sees_as(BOB, "member")
    text = (await browser.get(MEMBERS)).text
    assert "Ada Lovelace" in text
    assert "for Grace" not in text
    assert "Invite somebody" not in text
