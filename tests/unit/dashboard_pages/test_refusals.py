"""Roles that change, states that are stale and answers that do not come while somebody looks at a page."""

import asyncio

import httpx2

from keyledger.client.records import Key
from keyledger.errors import insufficient_permissions, precondition_failed
from services.dashboard.backend import AsOf
from services.dashboard.domain.visitor import Visitor
from services.dashboard.routes.showing import Places, Showing
from tests.support.clock import ManualClock
from tests.support.dashboard_backend import MemoryBackend, made_id
from tests.support.dashboard_pages import ADA, BOB, PART, Pages

MEMBERS = "/settings/members"


async def test_members_are_shown_to_who_was_an_admin_a_moment_ago(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    pages.accounts.refuses = insufficient_permissions("Only admins and owners see and make invitations.")
    answer = await browser.get(MEMBERS)
    assert answer.status_code == 200
    assert "Ada Lovelace" in answer.text
    assert "Open invitations" not in answer.text


async def test_what_somebody_else_has_changed_is_told_in_words(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    key = await pages.key()
    off = await browser.post(f"/settings/api-keys/{key}/disable", content=b"version=7", headers=PART)
    pages.sees_as(BOB, "viewer")
    pages.sees_as(ADA, "owner")
    pages.backend.fails["set_role"] = precondition_failed(7)
    role = await browser.post(f"{MEMBERS}/{BOB}/role", content=b"role=admin", headers=PART)
    for answer, status in ((off, 412), (role, 422)):
        assert answer.status_code == status
        assert "Somebody has changed it since you opened this. Reload the page" in answer.text
        assert "current version" not in answer.text


async def test_an_owner_is_made_and_a_member_removed_after_a_question(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    pages.sees_as(BOB, "viewer")
    pages.sees_as(ADA, "owner")
    text = (await browser.get(MEMBERS)).text
    assert 'hx-confirm="Make Bob &lt;b&gt;Builder&lt;/b&gt; an owner?' in text
    assert text.count("hx-confirm") == text.count("data-confirm-yes") == 3
    assert text.count('data-confirm-for="owner"') == 1
    assert '<dialog id="confirm" role="alertdialog"' in text


class Mute(MemoryBackend):
    """Never says what a key is called."""

    async def key(self, visitor: Visitor, key_id: str, *, as_of: AsOf | None = None) -> Key:
        del visitor, key_id, as_of
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_name_that_does_not_come_is_told_by_the_id(pages: Pages) -> None:
    showing = Showing(Mute(), pages.accounts, ManualClock(), Places("http://keys", "http://verifier"))
    async with asyncio.timeout(5):
        names = await showing.names(pages.visitor, [made_id("key", 1), ADA])
    assert (dict(names.keys), names.people[ADA].name) == ({}, "Ada Lovelace")
