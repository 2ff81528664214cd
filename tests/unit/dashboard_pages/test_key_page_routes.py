"""One key's page: history, time travel, and what is done to the key."""

import re
from urllib.parse import urlencode

import httpx2
import pytest

from keyledger.client.records import Applied, Receipt
from keyledger.errors import unavailable
from services.dashboard.pages.words import STATUSES
from tests.support.dashboard_pages import PART, Pages

KEYS = "/settings/api-keys"


async def test_a_key_page_shows_what_it_is_and_what_happened(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    key = await pages.key("billing", metadata={"plan": "pro"}, external_id="cust_1")
    await pages.backend.change_key(pages.visitor, key, {"name": "invoices"})
    text = (await browser.get(f"{KEYS}/{key}")).text
    for expected in (
        "invoices",
        "plan=pro",
        "cust_1",
        "created",
        "changed",
        "Ada Lovelace",
        "Rotate",
        "Revoke",
    ):
        assert expected in text
    assert text.count('<li class="link') == 2


async def test_a_page_looks_back_and_marks_what_has_changed(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    key = await pages.key("billing")
    then = pages.backend.log[pages.visitor.workspace_id or ""][-1]
    await pages.backend.change_key(pages.visitor, key, {"name": "invoices", "enabled": False})
    for as_of in (str(then.position), then.at.isoformat().replace("+00:00", "Z")):
        text = (await browser.get(f"{KEYS}/{key}", params={"as_of": as_of})).text
        assert "You are viewing the past." in text
        assert "(now: invoices)" in text
        assert "(now: disabled)" in text
        assert "Revoke</button>" not in text
        assert "hx-post" not in text.split("<main")[1].split("</main>")[0]


@pytest.mark.parametrize(("as_of", "status"), [("soon", 400), ("1", 409)])
async def test_what_cannot_be_looked_back_to_is_said(
    pages: Pages, browser: httpx2.AsyncClient, as_of: str, status: int
) -> None:
    key = await pages.key()
    answer = await browser.get(f"{KEYS}/{key}", params={"as_of": as_of})
    assert answer.status_code == status
    # beside the field, on the page of the key as it is
    assert 'id="as_of-wrong"' in answer.text
    assert 'aria-describedby="' in answer.text.split('id="as_of"')[1].split(">")[0]
    assert "Rotate" in answer.text


async def test_a_moment_that_cannot_be_looked_back_to_is_still_in_the_field(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    key = await pages.key()
    answer = await browser.get(f"{KEYS}/{key}", params={"as_of": "2020-01-01T10:20:30Z"})
    assert answer.status_code == 409
    assert 'data-utc="2020-01-01T10:20:30Z"' in answer.text
    assert "did not exist yet" in answer.text


async def test_a_service_that_is_away_is_no_fault_of_the_moment(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    key = await pages.key()
    pages.backend.fails["key"] = unavailable("unavailable", "away")
    assert (await browser.get(f"{KEYS}/{key}", params={"as_of": "1"})).status_code == 503


async def test_an_older_history_is_asked_for_by_cursor(pages: Pages, browser: httpx2.AsyncClient) -> None:
    key = await pages.key()
    for number in range(60):
        await pages.backend.change_key(pages.visitor, key, {"name": f"n{number}"})
    first = await browser.get(f"{KEYS}/{key}")
    older = re.search(r'hx-get="([^"]+/history\?cursor=[^"]+)"', first.text)
    assert older is not None
    rest = await browser.get(older[1], headers=PART)
    assert rest.text.count('<li class="link') == 11
    assert (await browser.get(f"{KEYS}/{key}/history")).status_code == 404


@pytest.mark.parametrize("name", ["rotate", "revoke"])
async def test_an_address_opens_its_dialog(pages: Pages, browser: httpx2.AsyncClient, name: str) -> None:
    key = await pages.key()
    text = (await browser.get(f"{KEYS}/{key}/{name}")).text
    assert f'<dialog id="{name}"' in text
    assert f'data-open-now="open-{name}"' in text
    assert text.count("data-open-now") == 1


async def test_rotating_shows_the_new_token_and_when_the_old_one_ends(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    key = await pages.key()
    body = urlencode({"overlap": "86400", "once": "r" * 20}).encode()
    answer = await browser.post(f"{KEYS}/{key}/rotate", content=body, headers=PART)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert "is accepted until" in answer.text
    assert "cvtk_live_…ksum" in answer.text
    again = await browser.post(f"{KEYS}/{key}/rotate", content=body, headers=PART)
    assert again.text == answer.text
    at_once = urlencode({"overlap": "0", "retire": "on_first_use", "once": "s" * 20}).encode()
    done = await browser.post(f"{KEYS}/{key}/rotate", content=at_once, headers=PART)
    assert "refused from now on" in done.text


async def test_an_overlap_that_is_no_number_is_said_beside_it(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    key = await pages.key()
    answer = await browser.post(f"{KEYS}/{key}/rotate", content=b"overlap=long", headers=PART)
    assert answer.status_code == 422
    assert 'id="overlap-wrong"' in answer.text
    answer = await browser.post(f"{KEYS}/{key}/rotate", content=b"overlap=2592001", headers=PART)
    assert answer.status_code == 422
    assert "within 30 days" in answer.text


async def test_revoking_needs_the_name_and_shows_the_receipt(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    key = await pages.key("Nightly  export")
    body = {"reason": "Leaked or exposed", "note": "in a log", "once": "v" * 20}
    wrong = urlencode({**body, "confirm": "nightly export"}).encode()
    answer = await browser.post(f"{KEYS}/{key}/revoke", content=wrong, headers=PART)
    assert answer.status_code == 422
    assert "nothing was revoked" in answer.text
    assert "revoke_key" not in pages.backend.calls
    assert "in a log" in answer.text
    right = urlencode({**body, "confirm": " Nightly export "}).encode()
    done = await browser.post(f"{KEYS}/{key}/revoke", content=right, headers=PART)
    assert "Refused everywhere after 31 ms" in done.text
    event = pages.backend.log[pages.visitor.workspace_id or ""][-1]
    assert event.data == {"reason": "Leaked or exposed", "note": "in a log"}
    page = (await browser.get(f"{KEYS}/{key}")).text
    assert '<span class="stamp">Revoked</span>' in page
    assert "<dialog" not in page


async def test_no_reason_is_given_for_somebody(pages: Pages, browser: httpx2.AsyncClient) -> None:
    """Nothing is chosen before, and all that is missing is said at once."""
    key = await pages.key()
    asked = (await browser.get(f"{KEYS}/{key}/revoke")).text.split('id="reason"')[1].split("</select>")[0]
    assert "selected" not in asked
    assert '<option value="">' in asked
    answer = await browser.post(f"{KEYS}/{key}/revoke", content=b"confirm=no", headers=PART)
    assert 'id="reason-wrong"' in answer.text
    assert 'id="confirm-wrong"' in answer.text
    assert "revoke_key" not in pages.backend.calls


async def test_a_verifier_that_has_not_confirmed_is_named(pages: Pages, browser: httpx2.AsyncClient) -> None:
    pages.backend.receipt = Receipt((Applied("a", 9),), ("verifier-far",), pages.backend.now)
    key = await pages.key()
    body = urlencode({"confirm": "billing", "reason": "Another"}).encode()
    text = (await browser.post(f"{KEYS}/{key}/revoke", content=body, headers=PART)).text
    assert "everywhere" not in text
    assert "verifier-far" in text
    assert "has not confirmed yet" in text


async def test_a_key_is_switched_off_and_on(pages: Pages, browser: httpx2.AsyncClient) -> None:
    key = await pages.key()
    off = await browser.post(f"{KEYS}/{key}/disable", content=b"version=1", headers=PART)
    assert (off.status_code, off.headers["hx-refresh"]) == (200, "true")
    assert STATUSES["disabled"] in (await browser.get(KEYS)).text
    stale = await browser.post(f"{KEYS}/{key}/enable", content=b"version=1", headers=PART)
    assert stale.status_code == 412
    assert stale.headers["hx-retarget"] == "#problem"
    on = await browser.post(f"{KEYS}/{key}/enable", content=b"version=2", headers=PART)
    assert on.status_code == 200


async def test_an_edit_changes_what_was_touched_and_leads_back(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    key = await pages.key("billing", metadata={"plan": "pro"})
    page = (await browser.get(f"{KEYS}/{key}/edit")).text
    assert 'value="billing"' in page
    assert "plan=pro</textarea>" in page
    fields = {
        "name": "invoices", "access": "all", "expiry": "never", "limit": "", "window": "60",
        "allowed_ips": "", "external_id": "", "metadata": "plan=pro", "version": "1",
    }  # fmt: skip
    saved = await browser.post(f"{KEYS}/{key}/edit", content=urlencode(fields).encode(), headers=PART)
    assert saved.headers["hx-redirect"] == f"{KEYS}/{key}"
    assert pages.backend.log[pages.visitor.workspace_id or ""][-1].data == {"name": "invoices"}
    fields["name"] = "third"
    stale = await browser.post(f"{KEYS}/{key}/edit", content=urlencode(fields).encode(), headers=PART)
    assert stale.status_code == 422
    assert "Somebody has changed it" in stale.text
    assert 'value="third"' in stale.text
