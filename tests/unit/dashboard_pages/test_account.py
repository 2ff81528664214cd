"""The account's page, erasing it, and what a write from elsewhere is told."""

import httpx2
import msgspec
import pytest

from tests.support.clock import ManualClock
from tests.support.dashboard import PAGE, in_memory
from tests.support.dashboard_pages import ADA, PART, Pages

ERASE = "/account/erase"


async def test_the_account_tells_who_is_signed_in_and_is_found_from_every_page(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    for path in ("/settings/api-keys", "/workspaces"):
        assert 'href="/account"' in (await browser.get(path)).text
    pages.visitor = msgspec.structs.replace(pages.visitor, workspace_id=None, role=None)
    text = (await browser.get("/account")).text
    for known in ("Ada Lovelace", "ada@example.com", ADA):
        assert known in text


async def test_the_dialog_has_a_name_and_says_what_stays(browser: httpx2.AsyncClient) -> None:
    text = (await browser.get("/account")).text
    assert 'data-opens="erase"' in text
    assert '<dialog id="erase" aria-labelledby="erase-title"' in text
    assert '<label for="confirm">' in text
    assert "stays in the log" in text
    assert "You leave every workspace" in text


@pytest.mark.parametrize("typed", [b"", b"confirm=", b"confirm=erased", b"word=erase"])
async def test_without_the_word_nobody_is_erased(
    pages: Pages, browser: httpx2.AsyncClient, typed: bytes
) -> None:
    answer = await browser.post(ERASE, content=typed, headers=PART)
    assert answer.status_code == 422
    assert 'id="confirm-wrong"' in answer.text
    assert "set-cookie" not in answer.headers
    assert pages.accounts.erased == []


@pytest.mark.parametrize("typed", [b"confirm=erase", b"confirm=+Erase+"])
async def test_with_the_word_the_account_is_erased_and_signed_out(
    pages: Pages, browser: httpx2.AsyncClient, typed: bytes
) -> None:
    answer = await browser.post(ERASE, content=typed, headers=PART)
    assert (answer.status_code, answer.headers["hx-redirect"]) == (204, "/sign-in")
    dropped = answer.headers.get_list("set-cookie")
    assert {each.split("=", 1)[0] for each in dropped} == {"__Host-keyledger", "__Host-keyledger-refresh"}
    assert all("Max-Age=0" in each for each in dropped)
    assert pages.accounts.erased == [ADA]


async def test_who_has_to_hand_over_first_is_told_where(pages: Pages, browser: httpx2.AsyncClient) -> None:
    pages.accounts.keeps = "You are the only owner of Acme, and others are in it."
    answer = await browser.post(ERASE, content=b"confirm=erase", headers=PART)
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert pages.accounts.keeps in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("headers", [PAGE, PART])
async def test_a_write_from_elsewhere_is_not_told_to_ask_for_a_role(headers: dict[str, str]) -> None:
    async with in_memory(ManualClock()) as dashboard:
        for path in (ERASE, "/settings/workspace", "/sign-out"):
            answer = await dashboard.browser().send("POST", path, headers)
            assert answer.status_code == 403
            assert "That did not come from a page of this dashboard" in answer.text
            assert "role does not cover" not in answer.text
            assert "Ask an admin" not in answer.text
