"""The list of keys and creating one, by their addresses, and how every page refuses."""

import re
from urllib.parse import urlencode

import httpx2
import pytest

from keyledger.errors import Refusal, invalid_request, unavailable
from tests.support.dashboard_backend import made_id
from tests.support.dashboard_pages import ADA, BOB, EVE, FORM, PART, Pages

KEYS = "/settings/api-keys"
HOSTILE = '"><script>alert(1)</script>'


def form(**values: str) -> bytes:
    return urlencode({"name": "billing", "environment": "live", "once": "o" * 20, **values}).encode()


async def test_the_front_leads_to_the_keys(browser: httpx2.AsyncClient) -> None:
    answer = await browser.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, KEYS)


async def test_an_empty_list_says_what_to_do(browser: httpx2.AsyncClient) -> None:
    answer = await browser.get(KEYS)
    assert "Create the first key" in answer.text
    assert "curl -i http://127.0.0.1:8402/v1/gateway" in answer.text
    assert "process.env.API_KEY!" in answer.text


async def test_the_list_shows_keys_with_people_and_last_uses(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    first = await pages.key("billing", scopes=("a:read", "b:read", "c:read"))
    pages.sees_as(BOB, "member")
    await pages.key("export", environment="test")
    pages.backend.used[first] = pages.backend.now
    text = (await browser.get(KEYS)).text
    assert text.index("export") < text.index("billing")
    assert "Ada Lovelace" in text
    assert f'<time id="used-{first}"' in text
    assert text.count(">never</span>") == 1
    assert "+1" in text


async def test_what_was_last_used_is_not_told_as_never_when_nobody_knows(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    await pages.key()

    pages.backend.fails["last_used"] = unavailable("unavailable", "away")
    answer = await browser.get(KEYS)
    assert answer.status_code == 200
    assert "unknown just now" in answer.text
    assert ">never<" not in answer.text


async def test_a_filter_answers_a_part_and_the_address_to_keep(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    await pages.key("billing")
    await pages.key("export", environment="test")
    query = {"search": "EXP", "environment": "test", "status": ""}
    answer = await browser.get(KEYS, params=query, headers=PART)
    assert answer.headers["hx-push-url"] == f"{KEYS}?search=EXP&environment=test"
    assert "<html" not in answer.text
    assert "export" in answer.text
    assert "billing" not in answer.text
    assert "1 key found." in answer.text
    none = await browser.get(KEYS, params={"search": "zzz"}, headers=PART)
    assert "No keys found" in none.text


async def test_a_list_is_paged_by_the_service_s_cursor(pages: Pages, browser: httpx2.AsyncClient) -> None:
    for number in range(60):
        await pages.key(f"key {number:02}")
    first = await browser.get(KEYS)
    assert first.text.count('<tr role="row" data-key=') == 50
    more = re.search(r'hx-get="([^"]+more=1)"', first.text)
    assert more is not None
    rest = await browser.get(more[1].replace("&amp;", "&"), headers=PART)
    assert rest.text.count("data-key=") == 10
    assert "<table" not in rest.text
    assert "more-row" not in rest.text
    # where the reader was, they go on
    assert rest.text.count("data-focus") == 1


async def test_last_uses_come_by_id_and_nothing_else_is_asked_for(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    key, other = await pages.key(), await pages.key("export")
    pages.backend.used[key] = pages.backend.now
    answer = await browser.get(f"{KEYS}/last-used", params={"keys": f"{key},{other},nonsense"}, headers=PART)
    assert f'id="used-{key}"' in answer.text
    assert other not in answer.text
    for query in ("", "nonsense"):
        assert (await browser.get(f"{KEYS}/last-used", params={"keys": query})).status_code == 204


async def test_creating_shows_the_token_once_and_keeps_it_nowhere(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    made = await browser.post(KEYS, content=form(), headers=PART)
    assert made.status_code == 200
    token = re.search(r">(cvtk_live_\w{60})</output>", made.text)
    assert token is not None
    assert made.headers["cache-control"] == "no-store"
    assert "will not be shown again" in made.text
    assert made.text.count(token[1]) == 3, "shown, and in both snippets"
    key = pages.backend.keys_of[pages.visitor.workspace_id or ""][0].id
    for path in (KEYS, f"{KEYS}/{key}", "/settings/activity", f"{KEYS}/new"):
        assert token[1] not in (await browser.get(path)).text


async def test_two_posts_of_one_form_make_one_key(pages: Pages, browser: httpx2.AsyncClient) -> None:
    first = await browser.post(KEYS, content=form(), headers=PART)
    again = await browser.post(KEYS, content=form(), headers=PART)
    assert first.text == again.text
    assert len(pages.backend.keys_of[pages.visitor.workspace_id or ""]) == 1


async def test_each_form_is_given_a_key_of_its_own(browser: httpx2.AsyncClient) -> None:
    once = [re.findall(r'name="once" value="([^"]+)"', (await browser.get(f"{KEYS}/new")).text) for _ in "ab"]
    assert len({each for found in once for each in found}) == 2
    assert all(len(each) >= 16 for found in once for each in found)


async def test_a_form_that_is_wrong_comes_back_with_what_was_typed(browser: httpx2.AsyncClient) -> None:
    wrong = form(name=HOSTILE, limit="lots", access="some", scopes="", metadata="x", allowed_ips="192.0.2.1")
    answer = await browser.post(KEYS, content=wrong, headers=PART)
    assert answer.status_code == 422
    assert HOSTILE not in answer.text
    assert "&lt;script&gt;alert(1)" in answer.text
    assert 'role="alert"' in answer.text
    assert "3 fields need your attention" in answer.text
    for name in ("limit", "scopes", "metadata"):
        assert f'id="{name}-wrong"' in answer.text
        field = re.search(rf'<(?:input|textarea) id="{name}"[^>]*>', answer.text)
        assert field is not None
        assert 'aria-invalid="true"' in field[0]
        assert f"{name}-wrong" in field[0]
    assert "192.0.2.1</textarea>" in answer.text
    assert 'value="lots"' in answer.text


@pytest.mark.parametrize(
    ("field", "beside"),
    [("name", "name"), ("rate_limit.window_seconds", "limit"), ("allowed_ips", "allowed_ips")],
)
async def test_a_service_s_refusal_stands_beside_its_input(
    pages: Pages, browser: httpx2.AsyncClient, field: str, beside: str
) -> None:
    pages.backend.fails["create_key"] = invalid_request("That will not do.", field=field)
    answer = await browser.post(KEYS, content=form(), headers=PART)
    assert answer.status_code == 422
    assert f'<span class="wrong" id="{beside}-wrong">That will not do.</span>' in answer.text


@pytest.mark.parametrize("path", ["", "/rotate", "/revoke", "/edit", "/usage", "/usage/now", "/usage.csv"])
async def test_a_key_that_is_not_there_is_a_404_page(browser: httpx2.AsyncClient, path: str) -> None:
    for key in (made_id("key", 999), "key_nonsense", "%3Cscript%3E"):
        answer = await browser.get(f"{KEYS}/{key}{path}")
        assert answer.status_code == 404, key
        assert "There is nothing here" in answer.text
        assert key not in answer.text


@pytest.mark.parametrize("path", ["rotate", "revoke", "edit", "enable", "disable"])
async def test_a_write_to_a_key_that_is_not_there_is_a_404_note(
    browser: httpx2.AsyncClient, path: str
) -> None:
    answer = await browser.post(f"{KEYS}/{made_id('key', 999)}/{path}", content=form(), headers=PART)
    assert answer.status_code == 404
    assert answer.headers["hx-retarget"] == "#problem"


async def test_a_viewer_is_offered_nothing_to_change_and_told_when_they_try(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    key = await pages.key()
    pages.sees_as(BOB, "viewer")
    assert "Create a key" not in (await browser.get(KEYS)).text
    page = (await browser.get(f"{KEYS}/{key}")).text
    assert "<dialog" not in page
    assert "/edit" not in page
    refused = await browser.post(KEYS, content=form(), headers=PART)
    assert refused.status_code == 422
    assert "Your role does not cover this." in refused.text
    assert (await browser.post(f"{KEYS}/{key}/disable", content=b"", headers=PART)).status_code == 403


async def test_who_is_no_member_finds_nothing(pages: Pages, browser: httpx2.AsyncClient) -> None:
    key = await pages.key("secret plans")
    pages.visitor = type(pages.visitor)(
        EVE, "Eve", "eve@example.com", pages.visitor.workspace_id, "owner", "ses_2", pages.visitor.jwt, 600
    )
    for path in (KEYS, f"{KEYS}/new", f"{KEYS}/{key}", "/settings/activity", "/settings/members"):
        answer = await browser.get(path)
        assert answer.status_code == 404, path
        assert "secret plans" not in answer.text
        assert "Acme" not in answer.text


@pytest.mark.parametrize(
    ("refusal", "status", "shown"),
    [
        (unavailable("unavailable", "Away.", retry_after=3), 503, "Not available just now"),
        (Refusal("rate_limit_exceeded", "Slower."), 429, "Too many requests"),
        (Refusal("internal_error", "x"), 500, "went wrong on our side"),
    ],
)
async def test_a_service_that_refuses_is_a_page_of_its_own(
    pages: Pages, browser: httpx2.AsyncClient, refusal: Refusal, status: int, shown: str
) -> None:
    pages.backend.refuse = refusal
    answer = await browser.get(KEYS)
    assert answer.status_code == status
    assert shown in answer.text
    assert "req_test" in answer.text
    part = await browser.get(KEYS, headers=PART)
    assert (part.status_code, part.headers["hx-retarget"]) == (status, "#problem")
    assert "<html" not in part.text


async def test_a_session_that_was_ended_leads_to_signing_in(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    pages.backend.refuse = Refusal("invalid_api_key", "The session token is not valid.")
    answer = await browser.get(KEYS)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?over=1")
    part = await browser.post(KEYS, content=form(), headers=PART)
    assert part.headers["hx-redirect"] == "/sign-in?over=1"


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=x"])
async def test_a_body_that_is_no_form_is_refused(browser: httpx2.AsyncClient, content_type: str) -> None:
    answer = await browser.post(KEYS, content=b"{}", headers={**FORM, "content-type": content_type})
    assert answer.status_code == 415


async def test_a_defect_is_a_page_that_quotes_nothing(pages: Pages, browser: httpx2.AsyncClient) -> None:
    pages.backend.fails["keys"] = RuntimeError("cvtk_live_secret")
    answer = await browser.get(KEYS)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert pages.backend.members_of[pages.visitor.workspace_id or ""][ADA].role == "owner"
